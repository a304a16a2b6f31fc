"""How many rows an example may take: what it has to spend, from the input on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor

from autodual.bound.relaxation import Relaxation
from autodual.bound.rows import Units
from autodual.bound.travel import row_cost
from autodual.errors import BudgetWarning, InputError
from autodual.front.ir import Value
from autodual.warn import warn

BUDGET = 5e11
"""What an example may take by default. A core of a laptop does some 5e10 in a second; the thesis's
CIFAR ResNet of 107,496 hidden units takes 3.7e11 at most."""


def parse_budget(budget: float | None) -> float:
    """Return a budget, ∞ for None.

    Raises:
        InputError: it is no positive number.
    """
    if budget is None:
        return math.inf
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not budget >= 0:
        raise InputError(
            f"budget={budget!r} is none: give the work that an example may take, like 1e12, or None"
        )
    return float(budget)


@dataclass
class Notes:
    """What should be said beside a bound.

    Attributes:
        over: the values where rows of some example did not fit into the budget.
    """

    over: list[str] = field(default_factory=list)

    def remarks(self) -> tuple[str, ...]:
        """Return them in words."""
        if not self.over:
            return ()
        names = self.over
        some = ", ".join(names if len(names) < 5 else [*names[:2], "…", names[-1]])
        count = f"{len(names)} nodes" if len(names) > 1 else "1 node"
        return (
            f"interval arithmetic at {count} ({some}): not all rows there fit into the budget; "
            "certify(..., budget=None) gives all, net.explain(x) says at what cost",
        )

    def warn(self) -> None:
        """Say what must be told beside a bound that has no place for it."""
        for remark in self.remarks():
            warn(remark, BudgetWarning)


_taken: ContextVar[Notes | None] = ContextVar("taken", default=None)


@contextmanager
def taking_notes() -> Iterator[Notes]:
    """Give the notes of all bounds that are computed while the block runs."""
    notes = Notes()
    token = _taken.set(notes)
    try:
        yield notes
    finally:
        _taken.reset(token)


class Purse:
    """What is left of each example's budget.

    What a value asks for at a time, a row for each open entry or later one for the other side, is
    paid for in whole or not at all, so that what an example gets depends on it alone and not on its
    batch, and is the same on every machine.

    Args:
        budget: the work for each example, see ``RowCost.work``.
    """

    def __init__(self, budget: float) -> None:
        self.budget = budget
        self._spent: Tensor | None = None
        self._most = 0
        self._known: dict[Value, int] = {}

    @property
    def unlimited(self) -> bool:
        """Whether nothing need be counted."""
        return math.isinf(self.budget)

    def pay(self, network: Relaxation, value: Value, mask: Tensor) -> Tensor:
        """Return the entries [N, numel] that get rows: those of ``mask``, of all who can pay.

        The host looks at data only where not all could pay for everything.
        """
        if self.unlimited:
            return mask
        rows = mask.sum(1)
        spent = torch.zeros_like(rows) if self._spent is None else self._spent
        price = self._at_least(network, value)
        if self._most + value.numel * price > self.budget and not bool(
            ((rows > 0) & (spent + rows * price <= self.budget)).any()
        ):
            return self._without(value, mask, rows > 0)
        price = self._known[value] = int(unit_work(network, value))
        self._most += value.numel * price
        short = spent + rows * price > self.budget
        self._spent = torch.where(short, spent, spent + rows * price)
        if self._most <= self.budget:
            return mask
        return self._without(value, mask, short & (rows > 0))

    def _without(self, value: Value, mask: Tensor, short: Tensor) -> Tensor:
        """Return what is left of ``mask`` where some examples cannot pay."""
        if not bool(short.any()):
            return mask
        notes = _taken.get()
        if notes is not None and value.name not in notes.over:
            notes.over.append(value.name)
        return mask & ~short.unsqueeze(1)

    def _at_least(self, network: Relaxation, value: Value) -> int:
        """Return what a row takes at least: one from a value on its way takes less."""
        way = (self._known.get(step.out, 0) for step in network.plan.upstream[value])
        return max(way, default=0)


def unit_work(network: Relaxation, value: Value) -> float:
    """Return what a unit row at a value takes."""
    ends = torch.tensor([0, value.numel - 1], device=network.x.device)
    return row_cost(network, Units(value, torch.zeros_like(ends), ends)).work
