"""Elementwise bounds on a tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from autodual.brief import told


@dataclass(frozen=True)
class Interval:
    """Elementwise bounds ``lower ≤ z ≤ upper``; both tensors have the shape of z."""

    lower: Tensor
    upper: Tensor

    def __repr__(self) -> str:
        return told(self, vars(self))

    @property
    def center(self) -> Tensor:
        """The midpoint (ℓ + u)/2."""
        return (self.lower + self.upper) * 0.5

    @property
    def radius(self) -> Tensor:
        """Half the width, (u − ℓ)/2."""
        return (self.upper - self.lower) * 0.5

    @property
    def magnitude(self) -> Tensor:
        """How large |z| is at most, max(|ℓ|, |u|)."""
        return torch.maximum(self.lower.abs(), self.upper.abs())

    def map(self, f: Callable[[Tensor], Tensor]) -> Interval:
        """Apply ``f`` to both ends. Sound only where f is nondecreasing or moves entries."""
        return Interval(f(self.lower), f(self.upper))

    def nearest(self, point: Tensor) -> Tensor:
        """Return the points of the interval nearest to others.

        Unlike those of ``torch.clamp`` they move with the interval where it is a point, too.
        """
        return torch.minimum(torch.maximum(point, self.lower), self.upper)

    def holds(self, point: Tensor) -> Tensor:
        """Return where points lie in the interval, [*] bool."""
        return (point >= self.lower) & (point <= self.upper)

    def intersect(self, other: Interval) -> Interval:
        """Return the points in both. Sound when both bound the same tensor."""
        return Interval(
            torch.maximum(self.lower, other.lower), torch.minimum(self.upper, other.upper)
        )

    def hull(self, other: Interval) -> Interval:
        """Return the smallest interval that contains both."""
        return Interval(
            torch.minimum(self.lower, other.lower), torch.maximum(self.upper, other.upper)
        )
