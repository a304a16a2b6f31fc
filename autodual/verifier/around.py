"""A region that is no box: a threat model around one example's input."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from autodual.errors import UnansweredError
from autodual.threat import ThreatModel

NEAR = 1e-6
"""How far outside, relatively, a witness may lie: projections round."""

APART = 1e-4
"""By which part of its distance from the center a point must lie outside to be cut off."""


@dataclass(frozen=True, eq=False)
class Around:
    """B(x) for one x.

    Attributes:
        threat: the set.
        x: [1, *], in the model's dtype.
    """

    threat: ThreatModel
    x: Tensor

    def copies(self, count: int) -> tuple[ThreatModel, Tensor]:
        """Return the set and x, as often as there are sub-problems."""
        index = torch.zeros(count, dtype=torch.int64, device=self.x.device)
        return self.threat.select(self.x, index), self.x[index]

    @cached_property
    def attackable(self) -> bool:
        """Whether the set answers what points are sought by; bounds do without."""
        try:
            self.nearest(self.x.flatten(1))
        except (UnansweredError, NotImplementedError):
            return False
        return True

    @cached_property
    def programmable(self) -> bool:
        """Whether programs can say the set."""
        from autodual.solve.linear import sayable  # scipy takes a while to import

        return sayable(self.threat, self.x)

    def nearest(self, points: Tensor) -> Tensor:
        """Return the points of the set nearest to some [N, n]."""
        threat, x = self.copies(len(points))
        return threat.project(x, points.reshape(x.shape)).flatten(1)

    def starts(self, count: int, generator: torch.Generator) -> Tensor:
        """Return the center and random points, [count, n]."""
        threat, x = self.copies(count)
        points = threat.random_start(x, generator).flatten(1)
        points[0] = self.threat.center(self.x).flatten()
        return points

    def moved(self, points: Tensor, slope: Tensor, rate: float) -> Tensor:
        """Return points [N, n] after a step down a slope, ``rate`` times as long as the set."""
        threat, x = self.copies(len(points))
        at, down = points.reshape(x.shape), -slope.reshape(x.shape)
        return threat.advance(x, at, down, rate).flatten(1)

    def farthest(self, rows: Tensor) -> Tensor:
        """Return where linear functions [N, *] are largest, [N, *]."""
        threat, x = self.copies(len(rows))
        return threat.maximizer(x, rows)

    def holds(self, point: Tensor) -> bool:
        """Return whether a point [n] lies in the set, up to rounding."""
        return bool(self.threat.contains(self.x, point.reshape(self.x.shape), NEAR))

    def tangent(self, point: Tensor) -> tuple[Tensor, float] | None:
        """Return a row [n] and what it is at most on the set less its center, to cut a point off.

        Args:
            point: less the center, [n].

        Returns:
            None for a point of the set, and where the set cannot say.
        """
        if not self.attackable:
            return None
        center = self.threat.center(self.x).flatten(1)
        outside = center + point
        row = (outside - self.nearest(outside)).flatten()
        length = float(row.norm())
        if not length > APART * float(point.norm()):
            return None
        row = row / length
        nu = row.reshape(1, 1, *self.x.shape[1:])
        return row, float(self.threat.deviation(self.x, nu))
