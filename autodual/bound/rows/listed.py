"""What all forms of rows share: a list of rows, held one by one or as picks from a bank."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from autodual.duals.relaxed import may_overwrite
from autodual.threat.cut import See


def met(rows: Tensor, weights: Tensor) -> Tensor:
    """Return Σⱼ wⱼνⱼ for each of rows [R, K] that nothing else reads."""
    return rows.mul_(weights).sum(1) if may_overwrite() else torch.linalg.vecdot(rows, weights)


Form = TypeVar("Form", bound="Listed")

Touched = tuple[Tensor, Tensor, See]
"""The example [G] of each group of S rows, the rows [G, S, *] on the part of it that they touch,
and what cuts this part out of a tensor [N, *]."""


@dataclass(frozen=True, eq=False)
class Listed:
    """R linear forms on one value.

    Row i belongs to example ``owner[i]`` and is ``data[pick[i]]``, or ``data[i]`` where pick is
    None. Shapes: data [B, *], owner [R], pick [R].
    """

    data: Tensor
    owner: Tensor
    pick: Tensor | None = None

    def __len__(self) -> int:
        return len(self.owner)

    def __neg__(self: Form) -> Form:
        return replace(self, data=-self.data)

    @property
    def width(self) -> int:
        """The number of entries of one row."""
        return self.data[0].numel()

    def become(self: Form, data: Tensor) -> Form:
        """Return rows [R, *] in the place of these, one by one."""
        return replace(self, data=data, pick=None)

    def full(self) -> Tensor:
        """Return the rows [R, *], one by one."""
        return self._picked(self.data)

    def _picked(self, data: Tensor) -> Tensor:
        """Return what the rows are, [R, *], given what ``data`` has become, [B, *]."""
        return data if self.pick is None else data.index_select(0, self.pick)
