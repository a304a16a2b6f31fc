"""A ball as its rows see it: a norm, a radius, and how far each coordinate can move."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from torch import Tensor

Self = TypeVar("Self", bound="Local")

See = Callable[[Tensor], Tensor]
"""A tensor [N or 1, *] → the part of it that each row touches, [R, *]."""

Far = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(ν [R, S, K], down, up [R, 1, K]) → sup {νᵀδ : ‖δ‖ ≤ 1, −down ≤ δ ≤ up}, [R, S]."""


@dataclass(frozen=True, eq=False)
class Local(ABC):
    """All that a deviation reads of x, coordinate by coordinate, so that a part can be asked.

    A row that is zero but for a few pixels then meets these alone.
    """

    @property
    def halo(self) -> tuple[int, int]:
        """How many pixels around those where a row is not 0 it must see, down and right."""
        return 0, 0

    @property
    def parts(self) -> dict[str, Tensor]:
        """The tensors that it holds, by name."""
        held = ((part.name, getattr(self, part.name)) for part in fields(self))
        return {name: part for name, part in held if isinstance(part, Tensor)}

    @property
    def tensors(self) -> list[Tensor]:
        """What a gradient could be wanted for."""
        return list(self.parts.values())

    def replace(self: Self, others: Mapping[int, Tensor]) -> Self:
        """Return it with tensors replaced, by their identity."""
        return replace(self, **{name: others.get(id(t), t) for name, t in self.parts.items()})

    @abstractmethod
    def at(self, owner: Tensor, see: See) -> Local:
        """Return it for R rows of the examples ``owner`` [R], each on what it touches."""

    @abstractmethod
    def deviation(self, nu: Tensor) -> Tensor:
        """Return the deviation [R, S] of rows nu [R or 1, S, *], zero outside what is seen."""


@dataclass(frozen=True, eq=False)
class Cut(Local):
    """The steps {δ : ‖δ‖ ≤ ε, −down ≤ δ ≤ up} from the center of a ball that a domain cuts.

    Attributes:
        far: the support of the unit ball, cut.
        eps: [N] or [1].
        down, up: [N, *], each at most ε.
    """

    far: Far
    eps: Tensor
    down: Tensor
    up: Tensor

    def at(self, owner: Tensor, see: See) -> Cut:
        """Return what each row sees of it."""
        eps = self.eps if len(self.eps) == 1 else self.eps[owner]
        return Cut(self.far, eps, see(self.down), see(self.up))

    def deviation(self, nu: Tensor) -> Tensor:
        """Return sup νᵀδ, found in units of ε and the largest |νᵢ|: no square over- or underflows.

        Coordinates at which ν is 0 need no room.
        """
        tiny = torch.finfo(nu.dtype).tiny
        rows, eps = nu.flatten(2), self.eps.reshape(-1, 1).clamp(min=tiny)
        unit = rows.detach().abs().amax(2, keepdim=True).clamp(min=tiny)
        down, up = ((end.flatten(1) / eps).unsqueeze(1) for end in (self.down, self.up))
        count = max(len(rows), len(up))  # one ball may serve all rows, and one row all balls
        rows, down, up = (z.expand(count, -1, -1) for z in (rows / unit, down, up))
        return self.far(rows, down, up) * eps * unit.squeeze(2)


@dataclass(frozen=True, eq=False)
class Whole(Local):
    """The steps of a ball that no domain cuts: ε‖ν‖ with the dual norm.

    Attributes:
        norm: ν [R, S, K] → its dual norm [R, S].
        eps: [N] or [1].
    """

    norm: Callable[[Tensor], Tensor]
    eps: Tensor

    def at(self, owner: Tensor, see: See) -> Whole:
        """Return it with the rows' own ε."""
        return self if len(self.eps) == 1 else Whole(self.norm, self.eps[owner])

    def deviation(self, nu: Tensor) -> Tensor:
        """Return ε‖ν‖."""
        return self.norm(nu.flatten(2)) * self.eps.reshape(-1, 1)


def corner(nu: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Return where νᵀδ is largest on −down ≤ δ ≤ up; 0 where ν is. Far quicker than a ``where``."""
    return torch.clamp(nu.detach() * torch.finfo(nu.dtype).max, -down, up)
