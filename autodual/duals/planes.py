"""Two planes that enclose a function on a box: what a nonlinear op is relaxed to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from autodual.interval import Interval

Slopes = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Planes:
    """Two planes that enclose f on a box, elementwise, with a slope for each argument:

        Σᵢ a_l,i zᵢ + b_l ≤ f(z₁, …) ≤ Σᵢ a_u,i zᵢ + b_u.

    When both have the *same* slopes, the planes are parallel and the dual layer is linear:
    one set of rows gives lower and upper bounds together.
    """

    lower_slopes: Slopes
    lower_intercept: Tensor
    upper_slopes: Slopes
    upper_intercept: Tensor

    @classmethod
    def with_slopes(cls, slopes: Slopes, lower: Tensor, upper: Tensor) -> Planes:
        """Two parallel planes with these slopes and intercepts."""
        return Planes(slopes, lower, slopes, upper)

    @property
    def are_parallel(self) -> bool:
        """Whether the same slopes serve both."""
        return all(a is b for a, b in zip(self.lower_slopes, self.upper_slopes, strict=True))

    @property
    def meet(self) -> Tensor:
        """Where the two planes are one, elementwise: the op is exact there."""
        same = self.lower_intercept == self.upper_intercept
        for lower, upper in zip(self.lower_slopes, self.upper_slopes, strict=True):
            same = same & (lower == upper)
        return same

    def at(self, *z: Tensor) -> Interval:
        """Return the values of the two planes at z."""
        return Interval(
            _height(self.lower_slopes, self.lower_intercept, z),
            _height(self.upper_slopes, self.upper_intercept, z),
        )

    def map(self, f: Callable[[Tensor], Tensor]) -> Planes:
        """Apply ``f`` to all tensors; parallel planes stay parallel."""
        lower = tuple(map(f, self.lower_slopes))
        upper = lower if self.are_parallel else tuple(map(f, self.upper_slopes))
        return Planes(lower, f(self.lower_intercept), upper, f(self.upper_intercept))

    def pull(
        self, nu: Tensor, own: Callable[[Tensor], Tensor] = lambda slope: slope
    ) -> list[Tensor]:
        """Return ν_in = a_u[ν]₊ + a_l[ν]₋ per argument; ``own`` brings a slope to ν's shape."""
        if self.are_parallel:
            return [own(slope) * nu for slope in self.lower_slopes]
        up, down = nu.clamp(min=0), nu.clamp(max=0)
        slopes = zip(self.lower_slopes, self.upper_slopes, strict=True)
        return [own(upper) * up + own(lower) * down for lower, upper in slopes]

    def intercept(self, nu: Tensor) -> Tensor:
        """Return h = b_u[ν]₊ + b_l[ν]₋, elementwise."""
        return self.upper_intercept * nu.clamp(min=0) + self.lower_intercept * nu.clamp(max=0)


def _height(slopes: Slopes, intercept: Tensor, z: Sequence[Tensor]) -> Tensor:
    """Return Σᵢ aᵢzᵢ + b."""
    first, *more = (slope * v for slope, v in zip(slopes, z, strict=True))
    for term in more:
        first = first + term
    return first + intercept


class Lines(Planes):
    """Two lines that enclose f on [ℓ, u]: a_l z + b_l ≤ f(z) ≤ a_u z + b_u, elementwise."""

    def __init__(
        self,
        lower_slope: Tensor,
        lower_intercept: Tensor,
        upper_slope: Tensor,
        upper_intercept: Tensor,
    ) -> None:
        super().__init__((lower_slope,), lower_intercept, (upper_slope,), upper_intercept)

    @classmethod
    def parallel(cls, slope: Tensor, lower: Tensor, upper: Tensor) -> Lines:
        """Two lines with one slope and these intercepts."""
        return cls(slope, lower, slope, upper)

    @property
    def lower_slope(self) -> Tensor:
        """a_l."""
        return self.lower_slopes[0]

    @property
    def upper_slope(self) -> Tensor:
        """a_u."""
        return self.upper_slopes[0]
