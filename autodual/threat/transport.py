"""Transport: which pixel's mass may move where, at what cost, and what it takes to move it.

A plan Π ≥ 0 says how much mass moves from each coordinate i of an example to each of its targets.
It is held move by move, [N, J, D]: row j of D coordinates is what each of them sends along its
j-th move. Move 0 is to stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from autodual.threat.lanes import Lanes, lists, shifts
from autodual.threat.polyhedron import Polyhedron, sparse

ROUNDS = 20
"""How often mass that finds no room is sent back, at most."""


@dataclass(frozen=True, eq=False)
class Moves:
    """The moves from each of D coordinates, cheapest first where all have the same ones.

    Attributes:
        target: [J, D], the coordinate that move j leads to; D where there is no such move.
        cost: [J, D] or [J, 1] if it is the same for all; finite, 0 where there is no move.
        offsets: (down, right) of each move if all coordinates have the same ones.
    """

    target: Tensor
    cost: Tensor
    offsets: Sequence[tuple[int, int]] | None = None

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
        offsets = list(zip(down.flatten().tolist(), right.flatten().tolist(), strict=True))
        return cls(_in_channels(target, channels), cost.unsqueeze(1), offsets)

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
        padded = F.pad(values, (0, 1), value=missing)
        return padded.index_select(1, self.target.flatten()).unflatten(1, self.target.shape)

    def lanes(self, shape: torch.Size, pads: bool = True) -> Lanes:
        """Return how these moves look on an example of this shape, or on a window of one.

        Args:
            shape: as for ``windows``.
            pads: False for a window whose border no mass crosses.
        """
        if self.offsets is None:
            return lists(self.target, self.cost.expand_as(self.target))
        return shifts(self.offsets, self.cost.squeeze(1), _image(shape), pads)

    def land(self, plan: Tensor) -> Tensor:
        """Return the image that a plan [N, J, D] ends in, [N, D]."""
        image = plan.new_zeros(len(plan), self.target.shape[1] + 1)
        return image.index_add_(1, self.target.flatten(), plan.flatten(1))[:, :-1]

    def polyhedron(self, mass: Tensor, budget: Tensor) -> Polyhedron:
        """Return where mass [D] may go within a budget [1]: numbers say how much takes each move.

        A pixel sends no more than it holds.
        """
        size, target = len(mass), self.target[1:]
        move, source = ((target < size) & (mass > 0)).nonzero().unbind(1)
        cost = self.cost[1:].expand_as(target)[move, source].to(mass)
        number, one = torch.arange(len(move), device=mass.device), torch.ones_like(cost)
        shape = size, len(number)
        leaves = sparse(source, number, one, shape)
        arrives = sparse(target[move, source], number, one, shape)
        paid = sparse(torch.zeros_like(number), number, cost, (1, len(number)))
        return Polyhedron(
            steps=arrives - leaves,
            low=torch.zeros_like(cost),
            high=mass[source],
            rows=torch.cat([leaves, paid]),
            most=torch.cat([mass, budget]),
        )

    def land_within(self, plan: Tensor, mass: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
        """Return an image within [lo, hi] that a part of the plan ends in, [N, D].

        Mass that finds no room is sent back, which can only make the plan cheaper; what then
        still overflows shortens the step of the whole image.

        Args:
            plan: [N, J, D].
            mass, lo, hi: [N, D], with lo ≤ mass ≤ hi.
        """
        tiny = torch.finfo(plan.dtype).tiny
        for _ in range(ROUNDS):
            arrived, stayed = self.land(plan), plan[:, 0]
            if not bool((arrived > hi).any()):
                break
            share = ((hi - stayed).clamp(min=0) / (arrived - stayed).clamp(min=tiny)).clamp(max=1)
            sent = plan[:, 1:] * self.reach(share, 0.0)[:, 1:]
            plan = torch.cat([(mass - sent.sum(1)).clamp(min=0).unsqueeze(1), sent], dim=1)
        step = self.land(plan) - mass
        room = torch.where(step > 0, hi - mass, mass - lo)
        share = torch.where(step.abs() > room, room / step.abs(), 1).amin(1, keepdim=True)
        return (mass + share.clamp(0, 1) * step).clamp(min=0)

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
