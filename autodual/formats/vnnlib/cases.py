"""From rows and alternatives to cases; what many cases share is one tensor."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

from autodual.errors import InputError
from autodual.formats.vnnlib.formula import Alternative, Conjunction, Expansion, Group, Rows
from autodual.query import Case

ENTRIES = 2**26

LISTED = 2**23


def cases_of(
    formula: Conjunction, rows: Rows, inputs: int, outputs: int, expansion: Expansion
) -> tuple[Case, ...]:
    """Return a formula's cases; of those with an empty box the first, if there are no others.

    Raises:
        InputError: they are too many, or have too many entries.
    """
    common = Conjunction(formula.rows)
    alternatives = expansion.alternatives(Conjunction([], formula.choices))
    table = Table(rows, inputs, outputs)
    boxes = Boxes(table, common.rows, alternatives)
    kept = [i for i, box in enumerate(boxes.of) if not boxes.empty[box]]
    kept = kept or list(range(len(alternatives)))[:1]
    lists = [table.relations(common.rows, *alternatives[i]) for i in kept]
    A, C, d = table.dense(lists)
    return tuple(
        Case(boxes.lower[boxes.of[i]], boxes.upper[boxes.of[i]], *parts)
        for i, *parts in zip(kept, A, C, d, strict=True)
    )


class Table:
    """The rows as tensors, and which of them are bounds of one input."""

    def __init__(self, rows: Rows, inputs: int, outputs: int) -> None:
        self.inputs, self.outputs = inputs, outputs
        self.variables = _tensor(rows.variables, torch.int64)
        self.coefficients = _tensor(rows.coefficients, torch.float64)
        self.d = _tensor(rows.d, torch.float64)
        ends = _tensor(rows.ends, torch.int64)
        self.starts = torch.cat([ends.new_zeros(1), ends[:-1]])[: len(ends)]
        self.lengths = ends - self.starts
        first = self.variables[self.starts]
        bound = (self.lengths == 1) & (first >= 0)
        owners = torch.repeat_interleave(torch.arange(len(ends)), self.lengths)
        moving = torch.zeros(len(ends), dtype=torch.bool)
        moving[owners[self.variables >= 0]] = True
        self.is_bound: list[bool] = bound.tolist()
        self.reads_inputs: list[bool] = moving.tolist()
        self.known: dict[int, tuple[list[int], list[int]]] = {}

    def split(self, group: Group) -> tuple[list[int], list[int]]:
        """Return which of a group's rows are bounds, and which are none."""
        found = self.known.get(id(group))
        if found is None:
            bounds = [row for row in group if self.is_bound[row]]
            found = bounds, [row for row in group if not self.is_bound[row]]
            self.known[id(group)] = found
        return found

    def relations(self, *groups: Group) -> list[int]:
        """Return the rows of some groups that are no bounds."""
        return [row for group in groups for row in self.split(group)[1]]

    def dense(self, lists: list[list[int]]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return A, C and d of each list of rows; where no row reads inputs, A is one zero."""
        counts = [len(rows) for rows in lists]
        moving = [any(self.reads_inputs[row] for row in rows) for rows in lists]
        wide = sum(count for count, moves in zip(counts, moving, strict=True) if moves)
        _check(sum(counts) * (self.outputs + 8) + wide * self.inputs)
        C, d = self._matrix([row for rows in lists for row in rows])
        A, _ = self._matrix(
            [row for rows, moves in zip(lists, moving, strict=True) if moves for row in rows], True
        )
        parts = iter(A.split([n for n, moves in zip(counts, moving, strict=True) if moves]))
        zero = A.new_zeros(1, 1)
        As = [
            next(parts) if moves else zero.expand(count, self.inputs)
            for count, moves in zip(counts, moving, strict=True)
        ]
        return As, list(C.split(counts)), list(d.split(counts))

    def _matrix(self, rows: list[int], of_inputs: bool = False) -> tuple[Tensor, Tensor]:
        """Return the coefficients of outputs, or inputs, [S, K] or [S, n], and d."""
        index = torch.tensor(rows, dtype=torch.int64)
        lengths = self.lengths[index]
        places = torch.repeat_interleave(torch.arange(len(index)), lengths)
        before = lengths.cumsum(0) - lengths
        terms = self.starts[index][places] + torch.arange(len(places)) - before[places]
        variables, width = self.variables[terms], self.inputs if of_inputs else self.outputs
        picked = (variables >= 0) == of_inputs
        columns = variables if of_inputs else -1 - variables
        matrix = torch.zeros(len(index), width, dtype=torch.float64)
        matrix[places[picked], columns[picked]] = self.coefficients[terms][picked]
        return matrix, self.d[index]


class Boxes:
    """The boxes of some cases: what all of them say of the inputs, with what each says besides.

    Attributes:
        of: which box each case has.
        lower, upper: of each box, [n].
        empty: whether each is.
    """

    def __init__(
        self, table: Table, common: Sequence[int], alternatives: Sequence[Alternative]
    ) -> None:
        keys: dict[tuple[int, ...], int] = {}
        own: list[list[int]] = []
        self.of, listed = [], 0
        for groups in alternatives:
            saying = [group for group in groups if table.split(group)[0]]
            key = tuple(map(id, saying))
            if key not in keys:
                keys[key] = len(keys)
                own.append([row for group in saying for row in table.split(group)[0]])
                listed += len(own[-1])
                if listed > LISTED:
                    raise InputError("the cases bound their inputs too often, by shared bounds")
            self.of.append(keys[key])
        _check(2 * len(own) * table.inputs)
        base = torch.full((1, table.inputs), torch.inf, dtype=torch.float64)
        shared = [table.split(common)[0]]
        lower, upper = _narrowed(table, -base, base, shared)
        lower, upper = lower.repeat(len(own), 1), upper.repeat(len(own), 1)
        lower, upper = _narrowed(table, lower, upper, own)
        self.lower, self.upper = lower.unbind(), upper.unbind()
        self.empty: list[bool] = (lower > upper).any(1).tolist()


def _narrowed(
    table: Table, lower: Tensor, upper: Tensor, bounds: list[list[int]]
) -> tuple[Tensor, Tensor]:
    """Cut boxes [B, n] by bounds of each."""
    index = torch.tensor([row for rows in bounds for row in rows], dtype=torch.int64)
    sizes = torch.tensor([len(rows) for rows in bounds], dtype=torch.int64)
    boxes = torch.repeat_interleave(torch.arange(len(bounds)), sizes)
    terms = table.starts[index]
    places, d = boxes * table.inputs + table.variables[terms], table.d[index]
    up = table.coefficients[terms] > 0
    upper.view(-1).scatter_reduce_(0, places[up], d[up], "amin")
    lower.view(-1).scatter_reduce_(0, places[~up], -d[~up], "amax")
    return lower, upper


def _check(entries: int) -> None:
    if entries > ENTRIES:
        raise InputError(f"the cases have {entries:,} entries; {ENTRIES:,} fit into memory")


def _tensor(values: array[int] | array[float], dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(values, dtype=dtype) if values else torch.empty(0, dtype=dtype)
