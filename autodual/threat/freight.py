"""A Wasserstein ball as its rows see it: masses, and where they may go."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vecdot

from autodual.threat.cut import Local, See, corner
from autodual.threat.prices import find_prices, summed_up
from autodual.threat.support import Problem, differentiable
from autodual.threat.transport import Moves

TABLE_BYTES = 2**19
"""How many bytes one table of a chunk's rows may take: what stays in a cache is fast."""


@dataclass(frozen=True, eq=False)
class Freight(Local):
    """Masses x and moves; with a domain what each pixel holds, and its room within the set.

    Attributes:
        moves: where mass may move.
        shape: of a whole example.
        mass: [N, *].
        alive: [1 or N, *], 1 where there is a pixel, 0 outside the image.
        budget: [N].
        high, down, up: [N, *]; None without a domain.
        rounded: whether what the domain saves is counted for no more than it is in real arithmetic.
    """

    moves: Moves
    shape: torch.Size
    mass: Tensor
    alive: Tensor
    budget: Tensor
    high: Tensor | None = None
    down: Tensor | None = None
    up: Tensor | None = None
    rounded: bool = False

    @property
    def halo(self) -> tuple[int, int]:
        """How far mass may come from, down and right."""
        offsets = self.moves.offsets or [(0, 0)]
        down, right = (max(abs(offset[d]) for offset in offsets) for d in range(2))
        return down, right

    def at(self, owner: Tensor, see: See) -> Freight:
        """Return what each row sees of it."""

        def rows(of: Tensor) -> Tensor:  # all rows may be one example's
            seen = see(of)
            return seen.expand(len(owner), *seen.shape[1:])

        high, down, up = (None if t is None else rows(t) for t in (self.high, self.down, self.up))
        return replace(
            self,
            mass=rows(self.mass),
            alive=see(self.alive),
            budget=self.budget[owner],
            high=high,
            down=down,
            up=up,
        )

    def deviation(self, nu: Tensor) -> Tensor:
        """Return sup νᵀ(x′ − x), or with a domain a bound on it."""
        count = max(1, TABLE_BYTES // (nu.shape[1] * self.mass[0].numel() * nu.element_size()))
        count = max(1, len(self.mass)) if nu.device.type != "cpu" else count
        nu = nu.expand(len(self.mass), *nu.shape[1:])
        parts = [self._some(rows)._deviation(nu[rows]) for rows in _chunks(len(nu), count)]
        return torch.cat(parts) if parts else nu.new_zeros(nu.shape[:2])

    def _some(self, rows: slice) -> Freight:
        own: dict[str, Any] = {
            name: part[rows] for name, part in self.parts.items() if len(part) > 1
        }
        return replace(self, **own)

    def _deviation(self, nu: Tensor) -> Tensor:
        shape = self.mass.shape[1:]
        lanes = self.moves.lanes(shape, pads=shape == self.shape)
        mass, alive = (lanes.flat(t.unsqueeze(1), 0.0) for t in (self.mass, self.alive))
        cells, budget = lanes.flat(nu, 0.0), self.budget.unsqueeze(1)
        problem = Problem.of(lanes, cells, mass, alive, budget, self.mass.requires_grad)
        if self.high is None or self.down is None or self.up is None:
            return differentiable(problem, problem.detach().least())
        most = torch.finfo(nu.dtype).max
        high = lanes.flat(self.high.unsqueeze(1), 0.0).clamp(max=most)
        price, total = find_prices(problem.detach(), high.detach(), self.rounded)
        if torch.is_grad_enabled():
            problem = replace(problem, nu=cells - price)
            again = differentiable(problem, problem.detach().least())
            again = again + vecdot(price, high - mass)
            total = again + (total - again.detach())
        rows, down, up = nu.flatten(2), self.down.flatten(1), self.up.flatten(1)
        down, up = down.unsqueeze(1), up.unsqueeze(1)
        if self.rounded:
            box = summed_up(torch.maximum(rows * up, -rows * down).sum(2), rows.shape[2])
        else:
            box = vecdot(corner(rows, down, up), rows)
        return torch.minimum(total, box)


def _chunks(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]
