"""Sets that are boxes: the ℓ∞ ball, and any box around the input."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from autodual.brief import brief
from autodual.errors import InputError, UnansweredError
from autodual.interval import Interval
from autodual.rounding import at_least, at_most, reach
from autodual.threat.ball import Ball
from autodual.threat.base import Domain, ThreatModel, check_broadcast, checked_domain, inner


class _Boxlike(ThreatModel):
    """σ_B(ν) = νᵀ(ℓ + u)/2 + |ν|ᵀ(u − ℓ)/2."""

    symmetric = True

    def center(self, x: Tensor) -> Tensor:
        """Return the box's midpoint."""
        return self.interval(x).center

    def weights(self, x: Tensor) -> Tensor:
        """Return the box's radius (u − ℓ)/2."""
        return self.interval(x).radius

    def deviation(self, x: Tensor, nu: Tensor) -> Tensor:
        """Return |ν|ᵀ(u − ℓ)/2, the dual norm of ν weighted by the box's radius."""
        return inner(nu.abs(), self.weights(x).expand_as(x))

    def project(self, x: Tensor, point: Tensor) -> Tensor:
        """Clamp each coordinate into the box."""
        box = self.interval(x)
        return box.nearest(point)

    def steepest(
        self,
        x: Tensor,
        gradient: Tensor,
        generator: torch.Generator | None = None,
        point: Tensor | None = None,
    ) -> Tensor:
        """Return the gradient's sign, as far as ``reach`` says."""
        return gradient.sign() * self.reach(x)

    def reach(self, x: Tensor) -> Tensor:
        """Return how far a steepest step goes in each coordinate; broadcasts with x."""
        return self.weights(x)

    def fixed(self, x: Tensor) -> ThreatModel:
        """Return the box worked out."""
        return _FixedBox(self.interval(x), self.reach(x))


class LinfBall(_Boxlike, Ball):
    """{x′ : |x′ᵢ − xᵢ| ≤ ε for all i} ∩ domain. See ``Ball`` for the arguments."""

    def __init__(self, eps: float | Tensor, domain: Domain | None = None) -> None:
        super().__init__(eps, domain)
        self.symmetric = True

    def interval(self, x: Tensor) -> Interval:
        """Return [x − ε, x + ε] ∩ domain."""
        return Ball.interval(self, x)

    def center(self, x: Tensor) -> Tensor:
        """Return the midpoint of the box, which is x where no domain cuts it."""
        return x if self.domain is None else self.interval(x).center

    def weights(self, x: Tensor) -> Tensor:
        """Return ε, or half the width of the box where the domain cuts the ball."""
        return (
            self.radius(x) * torch.ones_like(x[:1]) if self.domain is None else super().weights(x)
        )

    def reach(self, x: Tensor) -> Tensor:
        """Return ε, also where the domain cuts the ball: the projection sees to that."""
        return self.radius(x)

    def outward(self, x: Tensor) -> Ball:
        """Return the ball with its numbers rounded outward."""
        return self.rounded_up(x)

    def weights_around(self, x: Tensor, box: Interval) -> Tensor:
        """Return ε itself, or the radius where the domain cuts the ball."""
        return self.weights(x) if self.domain is None else reach(box, self.center(x))

    def deviation(self, x: Tensor, nu: Tensor) -> Tensor:
        """Return ε‖ν‖₁, or its weighted form where the domain cuts the ball."""
        if self.domain is None:
            return nu.flatten(2).abs().sum(2) * self.radius(x).reshape(-1, 1)
        return super().deviation(x, nu)

    def distance(self, x: Tensor, point: Tensor) -> Tensor:
        """Return ‖x′ − x‖∞."""
        return (point - x).flatten(1).abs().amax(1)


class Box(_Boxlike):
    """{x′ : lower ≤ x′ ≤ upper} ∩ domain, the same box for any x or one per example.

    Args:
        lower, upper: tensors that broadcast to x [N, *].
        domain: (lo, hi) as for ``Ball``.

    Raises:
        InputError: lower > upper somewhere, NaN or infinite.
    """

    def __init__(self, lower: Tensor, upper: Tensor, domain: Domain | None = None) -> None:
        lower, upper = torch.as_tensor(lower), torch.as_tensor(upper)
        if not bool(torch.isfinite(lower).all() and torch.isfinite(upper).all()):
            raise InputError("a Box needs finite bounds")
        if lower.shape != upper.shape:
            raise InputError(f"a Box has ends {list(lower.shape)} and {list(upper.shape)}")
        if bool((lower > upper).any()):
            raise InputError("a Box needs lower ≤ upper everywhere")
        self.lower, self.upper = lower, upper
        self.domain = checked_domain(domain)

    def said(self, word: Callable[[object], str]) -> str:
        """Return the box with its ends, which may be those of each example."""
        domain = "" if self.domain is None else f", domain={brief(self.domain)}"
        return f"Box({word(self.lower)}, {word(self.upper)}{domain})"

    def check_shape(self, x: Tensor) -> None:
        """Raise unless the box and the domain broadcast to x [N, *]; looks at no values."""
        super().check_shape(x)
        check_broadcast("the Box's lower end", self.lower, x)
        check_broadcast("the Box's upper end", self.upper, x)

    def select(self, x: Tensor, index: Tensor) -> Box:
        """Return the boxes of the examples at ``index``."""
        lower, upper = (end.expand_as(x)[index] for end in (self.lower, self.upper))
        return Box(lower, upper, self.domain)

    def outward(self, x: Tensor) -> Box:
        """Return the box with its ends rounded outward."""
        lower, upper = at_most(self.lower, x), at_least(self.upper, x)
        if self.domain is None:
            return Box(lower, upper)
        return Box(lower, upper, (at_most(self.domain[0], x), at_least(self.domain[1], x)))

    def reversed(self) -> ThreatModel:
        """Refuse: a box does not depend on x, so that its points may come from anywhere."""
        raise UnansweredError(
            f"{self} is the same whatever x: it does not say where a point in it comes from. "
            "Use LinfBall, or any ball, whose sets move with x."
        )

    def interval(self, x: Tensor) -> Interval:
        """Return [lower, upper] ∩ domain."""
        box = Interval(self.lower, self.upper)
        return box.map(lambda end: self.clamp(end.to(x).expand_as(x)))

    def distance(self, x: Tensor, point: Tensor) -> Tensor:
        """Return how far the farthest coordinate lies outside the box; 0 inside."""
        box = self.interval(x)
        return torch.maximum(box.lower - point, point - box.upper).clamp(min=0).flatten(1).amax(1)

    def contains(self, x: Tensor, point: Tensor, tolerance: float = 1e-5) -> Tensor:
        """Return [N] bool: whether each point lies in the box, to a relative tolerance."""
        box = self.interval(x)
        size = box.magnitude.flatten(1).amax(1)
        return self.distance(x, point) <= tolerance * size


class _FixedBox(Box):
    """A box around one batch: its ends and its steps are there to read, not to compute."""

    def __init__(self, box: Interval, step: Tensor) -> None:
        self.lower, self.upper, self.step, self.domain = box.lower, box.upper, step, None

    def select(self, x: Tensor, index: Tensor) -> _FixedBox:
        """Return the boxes of the examples at ``index``."""
        step = self.step if len(self.step) == 1 else self.step[index]
        return _FixedBox(Interval(self.lower[index], self.upper[index]), step)

    def reach(self, x: Tensor) -> Tensor:
        """Return how far the set's own step goes."""
        return self.step
