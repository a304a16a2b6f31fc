"""A set in the words of a linear program."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from autodual.errors import InputError


@dataclass(frozen=True, eq=False)
class Polyhedron:
    """{c + steps v : low ≤ v ≤ high, rows v ≤ most}, with c the set's center, around one example.

    The set is what of this lies in its ``interval``: a domain, which that keeps to, needs no rows.
    Matrices may be sparse. Entries of the example lie one after another.

    Attributes:
        steps: [D, V], what each of V numbers adds to each of D entries.
        low, high: [V], finite.
        rows: [M, V].
        most: [M].

    Raises:
        InputError: the shapes do not fit.
    """

    steps: Tensor
    low: Tensor
    high: Tensor
    rows: Tensor
    most: Tensor

    def __post_init__(self) -> None:
        parts = self.steps, self.low, self.high, self.rows, self.most
        count, rows = len(self.low), len(self.most)
        fitting = (count,), (count,), (rows, count), (rows,)
        if (
            self.steps.dim() != 2
            or self.steps.shape[1] != count
            or fitting != tuple(tuple(part.shape) for part in parts[1:])
        ):
            told = ", ".join(str(list(part.shape)) for part in parts)
            raise InputError(
                "a Polyhedron needs steps [D, V], low and high [V], rows [M, V] and most [M], not "
                f"{told}"
            )


def sparse(row: Tensor, column: Tensor, value: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the sparse matrix with these entries; those at the same place add up."""
    place = torch.stack([row, column])
    return torch.sparse_coo_tensor(place, value, shape, check_invariants=True).coalesce()
