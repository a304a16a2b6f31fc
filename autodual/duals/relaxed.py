"""What an op is relaxed to: the op itself, two planes around it, or a product about its center.

Each answers ``about(*z⁰)``, the middle of the values that it allows at a point z⁰ of its arguments
and how far they lie from it, and ``dual(ν, shapes)``, the pair (ν_in, h) of Fenchel's inequality.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from autodual.interval import Interval
from autodual.rounding import gamma, least

Transpose = Callable[[Any, Tensor, Sequence[torch.Size]], Sequence[Tensor]]
"""(call, ν [R, *out], shapes) → Aᵀν [R, *in] per perturbed argument."""

Slopes = tuple[Tensor, ...]
"""One for each argument."""

Equal = Tensor | Slopes

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Sides:
    """Slopes of their own for the lower and the upper line or plane."""

    lower: Equal
    upper: Equal


Choice = Equal | Sides
"""Slopes from outside: for each entry of the op's value, or broadcast to it; any are sound.

A tensor, or a tuple with one for each of several arguments, serves both sides.
"""


@dataclass(frozen=True, eq=False)
class Exact:
    """An affine op: nothing is lost."""

    call: Callable[..., Tensor]
    transpose: Transpose

    def about(self, *z: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the op's value, from which nothing lies away."""
        return self.call(*z), None

    def dual(self, nu: Tensor, shapes: Sequence[torch.Size]) -> tuple[Sequence[Tensor], Tensor]:
        """Return ν_in = Aᵀν_out per argument and h = bᵀν_out, for rows nu [R, *out]."""
        zeros = [torch.zeros(shape, dtype=nu.dtype, device=nu.device) for shape in shapes]
        bias = self.call(*zeros)
        return self.transpose(self.call, nu, shapes), (nu * bias).flatten(1).sum(1)


@dataclass(frozen=True, eq=False)
class Product:
    """A product of matrices about the centers of its arguments' boxes.

    Attributes:
        call: the op f(x, y).
        centers: c_x and c_y.
        rest: f(r_x, r_y), how far f can lie from its linear part.
        transpose: that of f with one argument constant.
    """

    call: Any
    centers: tuple[Tensor, Tensor]
    rest: Tensor
    transpose: Transpose

    def about(self, *z: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return f(x, c_y) + f(c_x, y) − f(c_x, c_y) and f(r_x, r_y)."""
        (x, y), (c_x, c_y) = z, self.centers
        return self.call(x, c_y) + self.call(c_x, y) - self.call(c_x, c_y), self.rest

    def dual(self, nu: Tensor, shapes: Sequence[torch.Size]) -> tuple[Sequence[Tensor], Tensor]:
        """Return ν_x, ν_y and h, for rows nu [R, *] over the boxes of one example."""
        pulled = [
            self.transpose(side, nu, [shape])[0]
            for side, shape in zip(self.call.sides(*self.centers), shapes, strict=True)
        ]
        h = nu.abs() * self.rest - nu * self.call(*self.centers)
        return pulled, h.flatten(1).sum(1)


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
    def flat(cls, box: Interval) -> Planes:
        """Two planes of slope 0 at the ends of a box: rows stop there."""
        return Planes((), box.lower, (), box.upper)

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

    @property
    def are_flat(self) -> bool:
        """Whether both have slope 0 and no row passes them."""
        return not self.lower_slopes

    @property
    def tensors(self) -> list[Tensor]:
        """Slopes and intercepts."""
        slopes = [*self.lower_slopes, *self.upper_slopes]
        return [*slopes, self.lower_intercept, self.upper_intercept]

    def ends(self, *z: Tensor) -> Interval:
        """Return the values of the two planes at z."""
        return Interval(
            _height(self.lower_slopes, self.lower_intercept, z),
            _height(self.upper_slopes, self.upper_intercept, z),
        )

    def rounding(self, *z: Tensor) -> Interval:
        """Return what rounding may do to the values of the two planes at z."""
        return self.map(torch.abs).ends(*map(torch.abs, z)).map(_rounding)

    def missed(self, value: Tensor, z: Sequence[Tensor], size: Tensor) -> Tensor:
        """Return how far a value of f at z lies outside the planes, or more.

        Args:
            value, z: f and its arguments.
            size: how large an error of f would be, divided by that of one rounding.
        """
        ends, sizes = self.ends(*z), self.map(torch.abs).ends(*map(torch.abs, z))
        lost = gamma(len(z) + 2, value.dtype)
        below = ends.lower - value + lost * (size + sizes.lower)
        above = value - ends.upper + lost * (size + sizes.upper)
        return torch.maximum(below, above) + least(value.dtype)

    def about(self, *z: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the middle between the planes at z, and half their distance."""
        parts = [*self.tensors, *z]
        if len(z) == len(self.lower_slopes) == 1 and len({part.shape for part in parts}) == 1:
            low, high, below, above, point = parts
            return _About.apply(low, below, high, above, point)
        ends = self.ends(*z)
        return ends.center, ends.radius

    def map(self, f: Callable[[Tensor], Tensor]) -> Planes:
        """Apply ``f`` to all tensors; parallel planes stay parallel."""
        lower = tuple(map(f, self.lower_slopes))
        upper = lower if self.are_parallel else tuple(map(f, self.upper_slopes))
        return Planes(lower, f(self.lower_intercept), upper, f(self.upper_intercept))

    def pull(
        self, nu: Tensor, own: Change = lambda t: t, rows: Change = lambda t: t
    ) -> list[Tensor]:
        """Return ν_in = a_u[ν]₊ + a_l[ν]₋ per argument.

        Args:
            nu: ν, or what its rows are picked from.
            own: brings a slope to ν's shape.
            rows: picks the rows.
        """
        if self.are_parallel:
            full = rows(nu)
            return [own(slope) * full for slope in self.lower_slopes]
        slopes = [*zip(self.lower_slopes, self.upper_slopes, strict=True)]
        if torch.is_grad_enabled():  # what autograd keeps of this is less
            full = rows(nu)
            positive = full > 0
            return [torch.where(positive, own(high), own(low)) * full for low, high in slopes]
        up, down = rows(nu.clamp(min=0)), rows(nu.clamp(max=0))
        (lower, upper), *more = slopes
        if not more and may_overwrite():
            return [down.mul_(own(lower)).addcmul_(own(upper), up)]
        return [torch.addcmul(own(low) * down, own(high), up) for low, high in slopes]

    def intercept(self, nu: Tensor) -> Tensor:
        """Return h = b_u[ν]₊ + b_l[ν]₋, elementwise."""
        return self.upper_intercept * nu.clamp(min=0) + self.lower_intercept * nu.clamp(max=0)

    def dual(self, nu: Tensor, shapes: Sequence[torch.Size]) -> tuple[Sequence[Tensor], Tensor]:
        """Return ν_in per argument and h, for rows nu [R, *] over planes of one example."""
        pulled = self.pull(nu) or [nu.new_zeros(len(nu), *shape) for shape in shapes]
        return pulled, self.intercept(nu).flatten(1).sum(1)


class _About(torch.autograd.Function):
    """(m + M)/2 and (M − m)/2 for m = a_l z + b_l and M = a_u z + b_u, of one shape."""

    @staticmethod
    def forward(
        ctx: Any, low: Tensor, below: Tensor, high: Tensor, above: Tensor, z: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(low, high, z)
        lower, upper = torch.addcmul(below, low, z), torch.addcmul(above, high, z)
        return (lower + upper).mul_(0.5), (upper - lower).mul_(0.5)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, center: Tensor, radius: Tensor) -> tuple[Tensor, ...]:
        low, high, z = ctx.saved_tensors
        lower, upper = (center - radius).mul_(0.5), (center + radius).mul_(0.5)
        at_z = torch.addcmul(lower * low, upper, high)
        return lower * z, lower, upper * z, upper, at_z


def _height(slopes: Slopes, intercept: Tensor, z: Sequence[Tensor]) -> Tensor:
    """Return Σᵢ aᵢzᵢ + b."""
    if not slopes:
        return intercept
    first, *more = (slope * v for slope, v in zip(slopes, z, strict=True))
    for term in more:
        first = first + term
    return first + intercept


def _rounding(size: Tensor) -> Tensor:
    """Return what rounding may do to sums of terms whose magnitudes add up to ``size``."""
    return (64 * torch.finfo(size.dtype).eps * size).nan_to_num(0, 0, 0)


def may_overwrite() -> bool:
    """Return whether tensors just made may be written over: no gradient, no trace wants them."""
    return not torch.is_grad_enabled() and get_proxy_mode() is None


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


Relaxed = Exact | Planes | Product
"""What an op is relaxed to."""
