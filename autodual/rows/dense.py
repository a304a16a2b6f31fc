"""Rows written out in full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autodual.duals import Affine, Lines
from autodual.duals.base import transpose_by_vjp
from autodual.plan import Constants, Step
from autodual.rows.memo import Memo

CHEAP = 8
"""How many times more products than picked entries a matrix product may compute and still win."""


@dataclass(frozen=True, eq=False)
class Dense:
    """R linear forms on one value.

    Row i belongs to example ``owner[i]`` and is ``data[pick[i]]``, or ``data[i]`` where pick is
    None. Shapes: data [B, *size(1)], owner [R], pick [R].
    """

    data: Tensor
    owner: Tensor
    pick: Tensor | None = None

    def __len__(self) -> int:
        return len(self.owner)

    def __neg__(self) -> Dense:
        return Dense(-self.data, self.owner, self.pick)

    @property
    def width(self) -> int:
        """The number of entries of one row."""
        return self.data[0].numel()

    def full(self) -> Tensor:
        """Return the rows [R, *], one by one."""
        return self.data if self.pick is None else self.data.index_select(0, self.pick)

    def add(self, other: Dense) -> Dense:
        """Return the sum, row by row."""
        if self.pick is other.pick:
            return Dense(self.data + other.data, self.owner, self.pick)
        return Dense(self.full() + other.full(), self.owner)

    def pull_lines(self, lines: Lines, memo: Memo) -> Dense:
        """Pull the rows back through an elementwise op enclosed by ``lines`` [N, *]."""
        return Dense(lines.pull(self.full(), self._own), self.owner)

    def weigh(self, weights: Tensor, memo: Memo) -> Tensor:
        """Return Σⱼ wⱼ|νⱼ| for each row, [R], with ``weights`` [N or 1, *]."""
        flat = self.data.abs().flatten(1)
        if self.pick is not None and len(flat) * len(weights) <= CHEAP * len(self):
            sums = flat @ weights.flatten(1).mT
            return sums[self.pick, self.owner if len(weights) > 1 else 0]
        if self.pick is not None:
            flat = flat.index_select(0, self.pick)
        return torch.linalg.vecdot(flat, self._own(weights).flatten(1))

    def pull_affine(self, step: Step, constants: Constants) -> Sequence[Dense]:
        """Pull the rows back through an affine op: Aᵀν for each of its perturbed arguments."""
        assert isinstance(step.rule, Affine)
        shapes = [torch.Size(v.size(1)) for v in step.variables]
        if step.own:
            pulled = self._pull_per_example(step, constants, shapes)
            return [Dense(p, self.owner) for p in pulled]
        pulled = step.rule.transpose(constants.call(step), self.data, shapes)
        return [Dense(p, self.owner, self.pick) for p in pulled]

    def _own(self, tensor: Tensor) -> Tensor:
        """Return for each row its example's part of a tensor [N or 1, *]."""
        return tensor if len(tensor) == 1 else tensor.index_select(0, self.owner)

    def _pull_per_example(
        self, step: Step, constants: Constants, shapes: Sequence[torch.Size]
    ) -> Sequence[Tensor]:
        """Pull back where A may differ from example to example, each with its own constants."""
        own = [constants.own(v).index_select(0, self.owner) for v in step.own]

        def one(nu: Tensor, *tensors: Tensor) -> Sequence[Tensor]:
            call = step.call({**constants.env, **dict(zip(step.own, tensors, strict=True))}, 1)
            return [p[0] for p in transpose_by_vjp(call, nu.unsqueeze(0), shapes)]

        pulled: Sequence[Tensor] = torch.func.vmap(one)(self.full(), *own)
        return pulled
