"""Which rows a pass starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from autodual.bound.rows.dense import Dense
from autodual.bound.rows.patches import Patches
from autodual.front.ir import Value


@dataclass(frozen=True, eq=False)
class Units:
    """The unit rows of some entries: ``unit[i]`` is a flat position in example ``owner[i]``.

    ``all`` says that they come from a list of all entries, ``negative`` which of them are −1 there.
    """

    value: Value
    owner: Tensor
    unit: Tensor
    all: bool = False
    negative: Tensor | None = None

    @classmethod
    def everywhere(cls, value: Value, batch: int, device: torch.device) -> Units:
        """Return those of all entries; no look at data is taken, now or later."""
        unit = torch.arange(value.numel, device=device)
        if Patches.serve(value):
            _, channels, height, width = value.size(1)
            unit = unit.reshape(channels, height * width).mT.flatten()
        owner = torch.arange(batch, device=device).repeat_interleave(value.numel)
        return cls(value, owner, unit.repeat(batch), all=True)

    @classmethod
    def where(cls, value: Value, mask: Tensor) -> Units:
        """Return those where mask [N, numel] holds, example by example, pixel by pixel."""
        if Patches.serve(value):
            _, channels, height, width = value.size(1)
            cells = height * width
            by_cell = mask.unflatten(1, (channels, cells)).transpose(1, 2)
            owner, cell, channel = by_cell.nonzero(as_tuple=True)
            return cls(value, owner, channel * cells + cell)
        owner, unit = mask.nonzero(as_tuple=True)
        return cls(value, owner, unit)

    group = 1

    @property
    def values(self) -> tuple[Value, ...]:
        """The value at which the rows start."""
        return (self.value,)

    def __len__(self) -> int:
        return len(self.owner)

    def take(self, index: slice | Tensor) -> Units:
        """Return some of them."""
        negative = None if self.negative is None else self.negative[index]
        return replace(self, owner=self.owner[index], unit=self.unit[index], negative=negative)

    def those(self, mask: Tensor) -> Units:
        """Return those where mask [N, numel] holds."""
        return self.take(mask[self.owner, self.unit].nonzero().squeeze(1))

    def facing(self, upper: Tensor) -> Units:
        """Return them with −1 in place of 1 where ``upper`` [N, numel] holds."""
        return replace(self, negative=upper[self.owner, self.unit])

    def both_sides(self) -> Units:
        """Return them, and after them the same with −1 in place of 1."""
        negative = torch.arange(2 * len(self), device=self.unit.device) >= len(self)
        owner, unit = self.owner.repeat(2), self.unit.repeat(2)
        return replace(self, owner=owner, unit=unit, negative=negative)

    def tensors(self) -> list[Tensor]:
        """Return what a gradient could be wanted for."""
        return []

    def replace(self, others: Mapping[int, Tensor]) -> Units:
        """Return them with tensors replaced, by their identity."""
        return self

    def rows(self, like: Tensor) -> Mapping[Value, Dense | Patches]:
        """Return them as rows with the dtype and device of ``like``."""
        return {self.value: self._rows(like)}

    def _rows(self, like: Tensor) -> Dense | Patches:
        if Patches.serve(self.value):
            return Patches.identity(
                self.value, self.owner, self.unit, like, self.all, self.negative
            )
        if self.all:
            distinct, pick = torch.arange(self.value.numel, device=like.device), self.unit
        else:
            distinct, pick = torch.unique(self.unit, return_inverse=True)
        bank = torch.zeros(
            len(distinct), self.value.numel, dtype=like.dtype, device=like.device
        ).scatter_(1, distinct.unsqueeze(1), 1.0)
        if self.negative is not None:
            bank, pick = torch.cat([bank, -bank]), pick + len(bank) * self.negative
        return Dense(bank.reshape(len(bank), *self.value.size(1)), self.owner, pick)


@dataclass(frozen=True, eq=False)
class Specs:
    """Rows given in full, S for each example in order: data [N·S, *size(1)] at each value.

    Rows may start at several values at once: the k-th of each belong together.
    """

    data: Mapping[Value, Tensor]
    owner: Tensor
    span: range | None

    @classmethod
    def per_example(cls, specs: Mapping[Value, Tensor]) -> Specs:
        """Return the rows [N, S, *] of N examples, by the value they start at."""
        first = next(iter(specs.values()))
        batch, count = first.shape[:2]
        owner = torch.arange(batch, device=first.device).repeat_interleave(count)
        data = {v: spec.reshape(batch * count, *v.size(1)) for v, spec in specs.items()}
        return cls(data, owner, range(batch))

    @property
    def values(self) -> tuple[Value, ...]:
        """The values at which the rows start."""
        return tuple(self.data)

    def __len__(self) -> int:
        return len(self.owner)

    @property
    def group(self) -> int:
        """How many rows should be taken together."""
        return 1 if self.span is None else max(1, len(self) // len(self.span))

    def take(self, index: slice | Tensor) -> Specs:
        """Return some of them."""
        span = None
        if isinstance(index, slice) and self.span is not None:
            start, stop, _ = index.indices(len(self))
            if start % self.group == 0 and stop % self.group == 0:
                span = self.span[start // self.group : stop // self.group]
        data = {v: rows[index] for v, rows in self.data.items()}
        return Specs(data, self.owner[index], span)

    def tensors(self) -> list[Tensor]:
        """Return what a gradient could be wanted for."""
        return list(self.data.values())

    def replace(self, others: Mapping[int, Tensor]) -> Specs:
        """Return them with tensors replaced, by their identity."""
        return replace(self, data={v: others.get(id(t), t) for v, t in self.data.items()})

    def rows(self, like: Tensor) -> Mapping[Value, Dense]:
        """Return them as rows."""
        return {v: Dense(rows, self.owner, span=self.span) for v, rows in self.data.items()}


@dataclass(frozen=True, eq=False)
class Margins:
    """The rows e_y − e_k of logits [N, K, *cells], for every class k but y: cell by cell.

    Where there is one channel there are two classes, and class 0 has the logit 0. No row is made
    before it is asked for.

    Attributes:
        labels: y in [0, K), [N, cells].
        index: which rows, counted example by example, cell by cell, k by k.
    """

    value: Value
    labels: Tensor
    index: range | Tensor

    @classmethod
    def of(cls, value: Value, labels: Tensor) -> Margins:
        """Return those of all cells, whose labels are [N, *cells]."""
        labels = labels.flatten(1) if labels.dim() > 1 else labels.unsqueeze(1)
        return cls(value, labels, range(labels.numel() * cls._others(value)))

    group = 1

    @staticmethod
    def _others(value: Value) -> int:
        """Return how many classes there are beside y."""
        return max(1, channels_of(value) - 1)

    @property
    def values(self) -> tuple[Value, ...]:
        """The value at which the rows start."""
        return (self.value,)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def owner(self) -> Tensor:
        """The example of each row, [R]."""
        return self.places()[0]

    def others(self) -> Tensor:
        """Return the classes k in the order of their rows, [N, cells, K − 1]."""
        rank = torch.arange(self._others(self.value), device=self.labels.device)
        return rank + (rank >= self.labels.unsqueeze(2))

    def places(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the example, the cell and the channels of y and of k of each row; −1 for none."""
        index, (cells, others) = self._index(), (self.labels.shape[1], self._others(self.value))
        owner, cell, rank = index // (cells * others), index // others % cells, index % others
        y = self.labels[owner, cell]
        none = int(channels_of(self.value) == 1)
        return owner, cell, y - none, rank + (rank >= y) - none

    def take(self, index: slice | Tensor) -> Margins:
        """Return some of them."""
        if isinstance(index, slice):
            return replace(self, index=self.index[index])
        return replace(self, index=self._index()[index])

    def tensors(self) -> list[Tensor]:
        """Return what a gradient could be wanted for."""
        return []

    def replace(self, others: Mapping[int, Tensor]) -> Margins:
        """Return them with tensors replaced, by their identity."""
        return self

    def meet(self, columns: Tensor) -> Tensor:
        """Return rows times columns [N or 1, r, *size(1)], [R, r]."""
        owner, cell, *signed = self.places()
        flat = columns.reshape(*columns.shape[:2], channels_of(self.value), -1)
        owner = owner if len(flat) > 1 else torch.zeros_like(owner)
        plus, minus = (
            flat[owner, :, channel, cell] * (channel >= 0).unsqueeze(1) for channel in signed
        )
        return plus - minus

    def rows(self, like: Tensor) -> Mapping[Value, Dense | Patches]:
        """Return them as rows with the dtype and device of ``like``."""
        owner, cell, *signed = self.places()
        channels, cells = channels_of(self.value), self.labels.shape[1]
        if not Patches.serve(self.value):
            data = like.new_zeros(len(self), self.value.numel)
            for channel, sign in zip(signed, (1, -1), strict=True):
                place = (channel.clamp(min=0) * cells + cell).unsqueeze(1)
                data = data.scatter_add(1, place, sign * (channel >= 0).to(data).unsqueeze(1))
            return {self.value: Dense(data.reshape(-1, *self.value.size(1)), owner)}
        unit = torch.cat([torch.eye(channels).to(like), like.new_zeros(1, channels)])
        plus, minus = signed  # −1 picks the row of zeros
        if (channels + 1) ** 2 <= len(self):
            bank = (unit.unsqueeze(1) - unit).flatten(0, 1)
            last = channels + 1
            pick = plus % last * last + minus % last
        else:
            bank, pick = unit[plus] - unit[minus], None
        patches = Patches.at(self.value, bank, owner, cell, pick)
        return {self.value: patches}

    def _index(self) -> Tensor:
        if isinstance(self.index, Tensor):
            return self.index
        return torch.arange(self.index.start, self.index.stop, device=self.labels.device)


def channels_of(value: Value) -> int:
    """Return the number of channels of a value [N, C, *]; 1 where there is no such dimension."""
    return value.size(1)[1] if len(value.shape) > 1 else 1


Seeds = Units | Specs | Margins
