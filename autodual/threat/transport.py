"""Transport: which pixel's mass may move where, at what cost, and what it takes to move it.

A plan Π ≥ 0 says how much mass moves from each coordinate i of an example to each of its targets.
It is held move by move, [N, J, D]: row j of D coordinates is what each of them sends along its
j-th move. Move 0 is to stay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linprog
from scipy.sparse import coo_array, vstack
from torch import Tensor

MASS = 1e-6
"""Which share of an image's mass may be missing or too much: what rounding leaves."""


@dataclass(frozen=True, eq=False)
class Moves:
    """The moves from each of D coordinates, cheapest first where all have the same ones.

    Attributes:
        target: [J, D], the coordinate that move j leads to; D where there is no such move.
        cost: [J, D] or [J, 1] if it is the same for all; finite, 0 where there is no move.
        shifts: how far moves lead in the list of coordinates; None if anywhere.
    """

    target: Tensor
    cost: Tensor
    shifts: tuple[int, ...] | None = None

    @classmethod
    def windows(cls, shape: torch.Size, kernel: int, p: float, like: Tensor) -> Moves:
        """Moves within kernel × kernel pixels of a channel, at the price ‖offset‖₂ᵖ.

        Args:
            shape: of one example: [D], [C, L] or [C, H, W].
            kernel: odd.
            p: the exponent.
            like: a tensor of the dtype and device of the costs.
        """
        channels, height, width = _image(shape)
        reach = torch.arange(-(kernel // 2), kernel // 2 + 1, device=like.device)
        down, right = torch.meshgrid(reach if height > 1 else reach[:1] * 0, reach, indexing="ij")
        size = (down.square() + right.square()).flatten()
        order = size.argsort(stable=True)
        down, right = down.flatten()[order, None, None], right.flatten()[order, None, None]
        row = torch.arange(height, device=like.device)[:, None] + down
        column = torch.arange(width, device=like.device) + right
        there = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        target = torch.where(there, row * width + column, -1).flatten(1)
        cost = size[order].to(like).pow(p / 2)
        shifts = tuple((down * width + right).flatten()[1:].tolist())
        return cls(_in_channels(target, channels), cost.unsqueeze(1), shifts)

    @classmethod
    def matrix(cls, cost: Tensor, shape: torch.Size, like: Tensor) -> Moves:
        """Moves between any two pixels of a channel at the price cost[i, j]; infinite forbids."""
        channels, height, width = _image(shape)
        n = height * width
        first = torch.arange(n, device=like.device)
        target = (first.unsqueeze(1) + first) % n  # row 0: each pixel itself
        price = cost.to(like)[first, target]
        forbidden = torch.isinf(price)
        target = target.masked_fill(forbidden, -1)
        return cls(
            _in_channels(target, channels), price.masked_fill(forbidden, 0).repeat(1, channels)
        )

    def reach(self, values: Tensor, missing: float) -> Tensor:
        """Return the value at every move's target, [N, J, D], for values [N, D]."""
        padded = torch.nn.functional.pad(values, (0, 1), value=missing)
        return padded.index_select(1, self.target.flatten()).unflatten(1, self.target.shape)

    def near(self, mask: Tensor) -> Tensor:
        """Return where some move leads to a coordinate in the mask [N, D], or a little more."""
        if self.shifts is None:
            return torch.ones_like(mask)
        near = mask.clone()
        for shift in self.shifts:
            if 0 < shift < mask.shape[1]:
                near[:, :-shift] |= mask[:, shift:]
            elif 0 < -shift < mask.shape[1]:
                near[:, -shift:] |= mask[:, :shift]
        return near

    def land(self, plan: Tensor) -> Tensor:
        """Return the image that a plan [N, J, D] ends in, [N, D]."""
        image = plan.new_zeros(len(plan), self.target.shape[1] + 1)
        return image.index_add_(1, self.target.flatten(), plan.flatten(1))[:, :-1]

    def spent(self, plan: Tensor) -> Tensor:
        """Return ⟨Π, C⟩, [N]."""
        return (plan * self.cost).flatten(1).sum(1)

    def arrivals(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mass [N, J, D] that lies within reach of each coordinate, and its price."""
        rows, home = self.target.shape
        mass = x.new_zeros(len(x), rows, home + 1)
        mass.scatter_(
            2, self.target.expand(len(x), rows, home), x.unsqueeze(1).expand(-1, rows, -1)
        )
        price = self.cost.new_zeros(rows, home + 1)
        price.scatter_(1, self.target, self.cost.expand(rows, home))
        return mass[..., :-1], price[:, :-1]


def _image(shape: torch.Size) -> tuple[int, int, int]:
    """Return channels, height and width of one example."""
    if len(shape) == 1:
        return 1, 1, shape[0]
    if len(shape) == 2:
        return shape[0], 1, shape[1]
    return shape[0], shape[1], shape[2]


def _in_channels(target: Tensor, channels: int) -> Tensor:
    """Repeat targets [J, n] for each channel, [J, channels·n]; −1 becomes channels·n."""
    n = target.shape[1]
    start = n * torch.arange(channels, device=target.device)[:, None]
    every = torch.where(target.unsqueeze(1) < 0, channels * n, target.unsqueeze(1) + start)
    return every.flatten(1)


def least_cost(moves: Moves, x: Tensor, point: Tensor) -> float:
    """Return the cost of the cheapest plan from x [D] to ``point`` [D], per unit of mass.

    An exact linear program; infinite if there is no plan. A share ``MASS`` of the mass may
    appear or vanish on the way.
    """
    start = x.detach().double().cpu().numpy().clip(min=0)
    end = point.detach().double().cpu().numpy()
    total = start.sum()
    if not np.isfinite(end).all() or abs(end.sum() - total) + -end.clip(max=0).sum() > MASS * total:
        return np.inf if np.abs(end).sum() > 0 or not np.isfinite(end).all() else 0.0
    if total == 0:
        return 0.0
    start, end = start / total, end.clip(min=0) / total
    target = moves.target.cpu().numpy()
    cost = np.broadcast_to(moves.cost.double().cpu().numpy(), target.shape)
    move, source = np.nonzero((target < len(start)) & (start > 0))
    sink, price = target[move, source], cost[move, source]
    variables, n = np.arange(len(move)), len(start)
    leaves = coo_array((np.ones(len(move)), (source, variables)), (n, len(move) + 2 * n))
    slack = np.arange(n)
    arrives = coo_array(
        (
            np.concatenate([np.ones(len(move) + n), -np.ones(n)]),
            (
                np.concatenate([sink, slack, slack]),
                np.concatenate([variables, len(move) + slack, len(move) + n + slack]),
            ),
        ),
        (n, len(move) + 2 * n),
    )
    missing = np.concatenate([np.zeros(len(move)), np.ones(2 * n)])
    result = linprog(
        np.concatenate([price, np.zeros(2 * n)]),
        A_ub=missing[None],
        b_ub=[MASS],
        A_eq=vstack([leaves, arrives]).tocsr(),
        b_eq=np.concatenate([start, end]),
        method="highs",
    )
    return float(result.fun) if result.status == 0 else np.inf
