"""Rows written out in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autodual.duals import Affine, Lines
from autodual.duals.base import transpose_by_vjp
from autodual.ir import Value
from autodual.plan import Step
from autodual.threat.base import inner


@dataclass(frozen=True, eq=False)
class Dense:
    """S rows of linear forms on one value: ``data`` [N, S, *shape for one example].

    While no example has left its mark on them the rows are shared, and N is 1.
    """

    data: Tensor

    @classmethod
    def identity(cls, value: Value, index: Tensor, like: Tensor) -> Dense:
        """Return the unit rows of ``value`` at the flat positions ``index`` [S], shared."""
        rows = torch.zeros(len(index), value.numel, dtype=like.dtype, device=like.device)
        rows[torch.arange(len(index), device=like.device), index] = 1
        return cls(rows.reshape(1, len(index), *value.size(1)))

    @property
    def shared(self) -> bool:
        """Whether all examples have the same rows."""
        return self.data.shape[0] == 1

    def __add__(self, other: Dense) -> Dense:
        return Dense(self.data + other.data)

    def __neg__(self) -> Dense:
        return Dense(-self.data)

    def pull_lines(self, lines: Lines) -> Dense:
        """Pull the rows back through an elementwise op enclosed by ``lines`` [N, *]."""
        return Dense(lines.map(lambda t: t.unsqueeze(1)).pull(self.data))

    def weigh(self, radius: Tensor) -> Tensor:
        """Return Σⱼ rⱼ|νⱼ| for each row, [N, S], with ``radius`` [N, *]."""
        return inner(self.data.abs(), radius)

    def pull_affine(self, step: Step, env: Mapping[Value, Tensor], batch: int) -> Sequence[Dense]:
        """Pull the rows back through an affine op: Aᵀν for each of its perturbed arguments."""
        assert isinstance(step.rule, Affine)
        shapes = [torch.Size(v.size(1)) for v in step.variables]
        if step.own:
            return [Dense(p) for p in self._pull_per_example(step, env, batch, shapes)]
        call = step.call(env, 1)
        pulled = step.rule.transpose(call, self.data.flatten(0, 1), shapes)
        return [Dense(p.unflatten(0, self.data.shape[:2])) for p in pulled]

    def _pull_per_example(
        self,
        step: Step,
        env: Mapping[Value, Tensor],
        batch: int,
        shapes: Sequence[torch.Size],
    ) -> Sequence[Tensor]:
        """Pull back where A may differ from example to example, each with its own constants."""
        own = [v.per_example(env[v], batch) for v in step.own]

        def one(nu: Tensor, *constants: Tensor) -> Sequence[Tensor]:
            call = step.call({**env, **dict(zip(step.own, constants, strict=True))}, 1)
            return transpose_by_vjp(call, nu, shapes)

        data = self.data.expand(batch, *self.data.shape[1:])
        pulled: Sequence[Tensor] = torch.func.vmap(one)(data, *own)
        return pulled
