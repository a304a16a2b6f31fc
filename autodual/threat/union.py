"""The union of several sets."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from autodual.errors import InputError
from autodual.interval import Interval
from autodual.threat.ball import Ball
from autodual.threat.base import ThreatModel, inner
from autodual.threat.l2 import norm


class Union(ThreatModel):
    """All points that lie in at least one of the sets (thesis, section 5.3).

    A union is not convex. Its support function is that of its convex hull, the largest of its
    members'; ``certify`` bounds each member for itself, which is tighter. A union of unions has
    the members of both.

    Args:
        sets: its members, at least one.

    Raises:
        InputError: there is no set, or one is not a threat model.
    """

    symmetric = False

    def __init__(self, *sets: ThreatModel) -> None:
        if not sets or not all(isinstance(member, ThreatModel) for member in sets):
            raise InputError(
                f"a Union needs sets, like Union(LinfBall(0.1), L2Ball(1)), not {sets}"
            )
        self._members = tuple(member for union in sets for member in union.members)

    def said(self, word: Callable[[object], str]) -> str:
        """Return the members, each as it is told."""
        return f"Union({', '.join(member.said(word) for member in self._members)})"

    @property
    def members(self) -> tuple[ThreatModel, ...]:
        """The sets whose union this is."""
        return self._members

    def check_shape(self, x: Tensor) -> None:
        """Raise unless what every member holds fits x [N, *]; looks at no values."""
        for member in self.members:
            member.check_shape(x)

    def check(self, x: Tensor) -> None:
        """Raise unless every member is well defined around every x [N, *]."""
        for member in self.members:
            member.check(x)

    def select(self, x: Tensor, index: Tensor) -> Union:
        """Return the union of the members for x[index]."""
        return Union(*(member.select(x, index) for member in self.members))

    def reversed(self) -> Union:
        """Return the union of the members, each reversed."""
        return Union(*(member.reversed() for member in self.members))

    def scaled(self, factor: float) -> Union:
        """Return the union of the members, each scaled."""
        return Union(*(member.scaled(factor) for member in self.members))

    def fixed(self, x: Tensor) -> Union:
        """Return the union of the members, each worked out for this batch."""
        return Union(*(member.fixed(x) for member in self.members))

    def center(self, x: Tensor) -> Tensor:
        """Return the first member's center."""
        return self.members[0].center(x)

    def deviation(self, x: Tensor, nu: Tensor) -> Tensor:
        """Return the largest deviation over the members, about the one center."""
        center = self.center(x)
        far = [m.deviation(x, nu) + inner(nu, m.center(x) - center) for m in self.members]
        return torch.stack(far).amax(0)

    def interval(self, x: Tensor) -> Interval:
        """Return the smallest box that contains all members' boxes."""
        boxes = [member.interval(x) for member in self.members]
        lower = torch.stack([box.lower.expand_as(x) for box in boxes]).amin(0)
        return Interval(lower, torch.stack([box.upper.expand_as(x) for box in boxes]).amax(0))

    def project(self, x: Tensor, point: Tensor) -> Tensor:
        """Return the nearest of the members' projections."""
        ends = torch.stack([member.project(x, point) for member in self.members])
        return _pick(ends, norm((ends - point).flatten(2)).squeeze(2).argmin(0))

    def steepest(
        self,
        x: Tensor,
        gradient: Tensor,
        generator: torch.Generator | None = None,
        point: Tensor | None = None,
    ) -> Tensor:
        """Return the member's step that increases the linear function most."""
        steps = [m.steepest(x, gradient, generator=generator, point=point) for m in self.members]
        ends = torch.stack(steps)
        return _pick(ends, (ends * gradient).flatten(2).sum(2).argmax(0))

    def maximizer(self, x: Tensor, direction: Tensor) -> Tensor:
        """Return the best of the members' maximizers."""
        ends = torch.stack([member.maximizer(x, direction) for member in self.members])
        return _pick(ends, (ends * direction).flatten(2).sum(2).argmax(0))

    def random_start(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return a random point of a random member."""
        starts = torch.stack([member.random_start(x, generator) for member in self.members])
        which = torch.randint(len(starts), (len(x),), device=x.device, generator=generator)
        return _pick(starts, which)

    def distance(self, x: Tensor, point: Tensor) -> Tensor:
        """Return the least distance over the members, each in units of its own ε.

        At most 1 inside. A member without ε (``Box``) counts 0 inside and infinity outside.
        """
        return torch.stack([relative(m, x, point) for m in self.members]).amin(0)

    def contains(self, x: Tensor, point: Tensor, tolerance: float = 1e-5) -> Tensor:
        """Return [N] bool: whether each point lies in some member."""
        return torch.stack([m.contains(x, point, tolerance) for m in self.members]).any(0)


def _pick(options: Tensor, which: Tensor) -> Tensor:
    """Return options[which[n], n] for each n, from options [M, N, *]."""
    return options[which, torch.arange(options.shape[1], device=options.device)]


def relative(member: ThreatModel, x: Tensor, point: Tensor) -> Tensor:
    """Return how far points lie from x [N], in units of ε; infinitely far outside a set without."""
    far = member.distance(x, point)
    eps = member.radius(x).flatten() if isinstance(member, Ball) else torch.zeros_like(far)
    return torch.where(far > 0, far / eps, 0)
