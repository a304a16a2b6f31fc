"""What nodes read and make: the values of N examples at once, and nodes themselves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autodual.errors import InputError

LARGEST = 2**24
"""Numbers that a node may make of few: what is larger only fills memory."""

WORK = 2 * 10**10
"""Products that one node may sum for one example."""

MANY = 2**16
"""Numbers that a list of sizes or axes may have."""


@dataclass(frozen=True)
class Value:
    """A tensor of the file, for N examples; each has what the file's graph gives for it alone.

    Attributes:
        tensor: the N values of ``shape``, stacked.
        lead: how many dimensions come before those of the file. 1: N stands before them. 0: N
            stands where the file has a leading 1. None: a constant, which is the same for all.
    """

    tensor: Tensor
    lead: int | None

    @property
    def varies(self) -> bool:
        """Whether it depends on the input."""
        return self.lead is not None

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape for one example, as in the file."""
        shape = tuple(self.tensor.shape)
        if self.lead is None:
            return shape
        return shape[1:] if self.lead else (1, *shape[1:])

    @property
    def rank(self) -> int:
        """How many dimensions it has in the file."""
        return self.tensor.dim() - (1 if self.lead == 1 else 0)

    @property
    def stacked(self) -> Tensor:
        """[N, *shape]; of a constant [1, *shape]."""
        if self.lead is None:
            return self.tensor.unsqueeze(0)
        return self.tensor if self.lead else self.tensor.unsqueeze(1)

    def like(self, tensor: Tensor) -> Value:
        """Return another tensor that lies as this one does."""
        return Value(tensor, self.lead)

    @property
    def inner(self) -> Value:
        """The same with N in place of a leading 1 before other dimensions, and only there."""
        if self.lead == 0 and self.tensor.dim() == 1:
            return Value(self.stacked, 1)
        if self.lead == 1 and self.tensor.dim() > 2 and self.tensor.shape[1] == 1:
            return Value(self.tensor.squeeze(1), 0)
        return self


def known(constant: Tensor) -> np.ndarray | None:
    """Return what a node may read of a constant where it works out what to do: all but weights."""
    weights = constant.is_floating_point() and constant.numel() > MANY
    return None if weights else constant.numpy()


@dataclass(frozen=True, eq=False)
class Node:
    """An operation of the graph, without what it computes.

    Attributes:
        op, name: as in the file; where it has no name, that of its first output.
        opset: the version of the operators.
        attributes: by name.
        fixed: its inputs that are constants, by position; None for others, and for
            weights, of which nothing is read before they are used.
        outputs: how many it has.
        dtype: what all floats are converted to, if they are.
    """

    op: str
    name: str
    opset: int
    attributes: Mapping[str, Any]
    fixed: Sequence[np.ndarray | None]
    outputs: int = 1
    dtype: torch.dtype | None = None

    def __str__(self) -> str:
        return f"{self.op} {self.name[:80]!r}"

    def refuse(self, why: str) -> InputError:
        """Return the error for what is not read."""
        return InputError(f"{self}: {why}")

    def given(self, position: int) -> bool:
        """Whether a constant stands at this position."""
        return position < len(self.fixed) and self.fixed[position] is not None

    def constant(self, position: int, what: str) -> np.ndarray:
        """Return an input that must be constant."""
        found = self.fixed[position] if position < len(self.fixed) else None
        if found is None:
            raise self.refuse(f"its {what} must be a constant")
        return found

    def ints(self, name: str, position: int | None = None) -> list[int] | None:
        """Return numbers that are an attribute, or in later versions an input, or not given."""
        value = self.attributes.get(name)
        if value is None and position is not None and self.given(position):
            value = self.constant(position, name).flatten()[: MANY + 1].tolist()
        if value is None:
            return None
        if not isinstance(value, list) or len(value) > MANY or any(int(v) != v for v in value):
            raise self.refuse(f"{name} is no list of whole numbers")
        return [int(v) for v in value]

    def whole(self, name: str, default: int) -> int:
        """Return an attribute that is a whole number."""
        value = self.attributes.get(name, default)
        if not isinstance(value, int):
            raise self.refuse(f"{name} is no whole number")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """Return an attribute that is 0 or 1."""
        value = self.whole(name, int(default))
        if value not in (0, 1):
            raise self.refuse(f"{name} is {value}, neither 0 nor 1")
        return bool(value)

    def real(self, name: str, default: float) -> float:
        """Return an attribute that is a number."""
        value = self.attributes.get(name, default)
        if not isinstance(value, float):
            raise self.refuse(f"{name} is no number")
        return value

    def text(self, name: str, default: str) -> str:
        """Return an attribute that is text."""
        value = self.attributes.get(name, default)
        if not isinstance(value, str):
            raise self.refuse(f"{name} is no text")
        return value

    def number(self, name: str, position: int) -> float | None:
        """Return one number that is an attribute, or in later versions an input, or not given."""
        if name in self.attributes:
            return self.real(name, 0.0)
        if not self.given(position):
            return None
        found = self.constant(position, name)
        if found.size != 1:
            raise self.refuse(f"{name} is no single number")
        return float(found.item())

    def axes(
        self, value: Value, name: str = "axes", position: int | None = None
    ) -> list[int] | None:
        """Return dimensions counted from the first, or None where they are not given."""
        found = self.ints(name, position)
        return None if found is None else [self.axis(axis, value.rank) for axis in found]

    def axis(self, axis: int, rank: int) -> int:
        """Return a dimension counted from the first."""
        if not -rank <= axis < rank:
            raise self.refuse(f"axis {axis} is none of {rank} dimensions")
        return axis % rank


Op = Callable[..., Value | tuple[Value, ...]]
"""Computes a node's outputs: ``op(node, *values)``, an absent input being None."""


def room(shape: Sequence[int], products: int = 1) -> None:
    """Refuse what is too large to make of little, before it is made.

    Args:
        shape: of one example.
        products: how many are summed in each entry.

    Raises:
        InputError: there are more than ``LARGEST`` numbers, or ``WORK`` products.
    """
    count = math.prod(shape)
    if any(size < 0 for size in shape) or count > LARGEST or count * products > WORK:
        raise InputError(
            f"makes a tensor {list(shape)[:8]} of {products} products each, and at most {LARGEST} "
            f"numbers and {WORK:.0e} products are read"
        )


def along(value: Value, axes: Sequence[int]) -> tuple[Tensor, list[int], int]:
    """Return a tensor that has dimensions of the file as its own, which they are, and its lead."""
    if value.lead == 0 and 0 not in axes:
        return value.tensor, list(axes), 0
    return value.stacked, [axis + 1 for axis in axes], 1


def together(values: Sequence[Value]) -> tuple[list[Tensor], int]:
    """Return tensors that broadcast as the file's do, and the lead of what comes out."""
    room(np.broadcast_shapes(*(value.shape for value in values)))
    return placed(values)


def placed(values: Sequence[Value]) -> tuple[list[Tensor], int]:
    """Return tensors whose dimensions lie on each other, N on N, and the lead that they have."""
    rank = max(value.rank for value in values)
    if all(_inside(value, rank) for value in values):
        return [
            v.tensor.squeeze(0) if not v.varies and v.rank == rank else v.tensor for v in values
        ], 0
    return [_padded(value, rank) for value in values], 1


def _inside(value: Value, rank: int) -> bool:
    """Return whether nothing of a value broadcasts against where N stands."""
    if value.varies:
        return value.lead == 0 and value.rank == rank
    return value.rank < rank or (rank > 0 and value.shape[0] == 1)


def _padded(value: Value, rank: int) -> Tensor:
    """Return [N, 1, …, 1, *shape] with ``rank`` dimensions after N; a constant as it is."""
    if not value.varies:
        return value.tensor
    stacked = value.stacked
    for _ in range(rank - value.rank):
        stacked = stacked.unsqueeze(1)
    return stacked


def reshaped(value: Value, shape: Sequence[int]) -> Value:
    """Return a varying value in another shape of the same size."""
    inside = len(shape) > 1 and shape[0] == 1
    rest = tuple(shape[1:] if inside else shape)
    tensor = value.tensor
    if tuple(tensor.shape[1:]) != rest:
        tensor = tensor.reshape(tensor.shape[0], *rest)
    return Value(tensor, 0 if inside else 1)
