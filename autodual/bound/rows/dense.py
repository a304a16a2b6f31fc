"""Rows written out in full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from autodual.bound.layer import Side
from autodual.bound.rows.listed import Listed, Touched, met
from autodual.bound.rows.memo import Memo
from autodual.duals import Planes

CHEAP = 8
"""How many times more products than picked entries a matrix product may compute and still win."""


@dataclass(frozen=True, eq=False)
class Dense(Listed):
    """Rows of full size: data [B, *size(1)].

    Where every example of a range has equally many rows, in order, ``span`` says which range:
    nothing need be gathered then.
    """

    span: range | None = None

    def add(self, other: Dense) -> Dense:
        """Return the sum, row by row."""
        if self.pick is other.pick:
            return replace(self, data=self.data + other.data)
        return self.become(self.full() + other.full())

    def pull_lines(self, lines: Planes, memo: Memo) -> Sequence[Dense]:
        """Pull the rows back through an elementwise op enclosed by ``lines`` [N, *]."""
        pulled = lines.pull(
            self.data,
            lambda slope: self._facing(slope, memo),
            lambda nu: self._grouped(self._picked(nu)),
        )
        flat = pulled if self.span is None else [data.flatten(0, 1) for data in pulled]
        return list(map(self.become, flat))

    def weigh(self, weights: Tensor, memo: Memo) -> Tensor:
        """Return Σⱼ wⱼ|νⱼ| for each row, [R], with ``weights`` [N or 1, *]."""
        flat = self.data.abs().flatten(1)
        if self.pick is not None and len(flat) * len(weights) <= CHEAP * len(self):
            sums = flat @ weights.flatten(1).mT
            return sums[self.pick, self.owner if len(weights) > 1 else 0]
        if self.pick is not None:
            flat = flat.index_select(0, self.pick)
        if self.span is None and len(weights) == 1:
            return flat @ weights.flatten()
        if self.span is None:
            return met(flat, self.own(weights.flatten(1), memo))
        grouped, own = self._grouped(flat), self._facing(weights.flatten(1), memo)
        return torch.bmm(grouped, own.expand(len(grouped), 1, -1).mT).flatten()

    def touched(self, memo: Memo, halo: tuple[int, int]) -> Touched:
        """Return the rows with all of their examples."""
        owner = self.owner
        if self.span is not None:
            owner = torch.arange(self.span.start, self.span.stop, device=owner.device)
        rows = self._grouped(self.full())
        rows = rows if self.span is not None else rows.unsqueeze(1)

        def see(tensor: Tensor) -> Tensor:
            return tensor if len(tensor) == 1 else tensor.index_select(0, owner)

        return owner, rows, see

    def own(self, tensor: Tensor, memo: Memo) -> Tensor:
        """Return what each row meets of a tensor [N or 1, *], [R or 1, *]."""
        return tensor if len(tensor) == 1 else tensor.index_select(0, self.owner)

    def pull_affine(self, side: Side) -> Sequence[Dense]:
        """Pull the rows back through an affine op: Aᵀν for each of its perturbed arguments."""
        if side.step.own:
            pulled = self._pull_per_example(side)
            return list(map(self.become, pulled))
        shapes = [torch.Size(v.size(1)) for v in side.step.variables]
        pulled = side.rule.transpose(side.alone, self.data, shapes)
        return [replace(self, data=p) for p in pulled]

    def _grouped(self, rows: Tensor) -> Tensor:
        """Return rows [R, *] example by example, [N, S, *], if each has equally many."""
        return rows if self.span is None else rows.unflatten(0, (len(self.span), -1))

    def _facing(self, tensor: Tensor, memo: Memo) -> Tensor:
        """Return each example's part of a tensor [N or 1, *], to meet ``_grouped`` rows."""
        if self.span is not None:
            whole = len(tensor) == 1 or self.span == range(len(tensor))
            some = tensor if whole else tensor[self.span.start : self.span.stop]
            return some.unsqueeze(1)
        return self.own(tensor, memo)

    def _pull_per_example(self, side: Side) -> Sequence[Tensor]:
        """Pull back where A may differ from example to example: rows are examples here."""
        count, step = len(self), side.step
        own = {v: side.own(v).index_select(0, self.owner) for v in step.own}
        zeros = [self.data.new_zeros(v.size(count)) for v in step.variables]
        pulled = torch.func.vjp(side.call(own, count), *zeros)[1](step.out.in_layout(self.full()))
        return [v.per_example(p, count) for v, p in zip(step.variables, pulled, strict=True)]
