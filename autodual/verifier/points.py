"""Points that are tried, until the model itself violates the property at one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from autodual.verifier.falsify import STARTS, descend, random_starts
from autodual.verifier.falsify import STEPS as ALONE
from autodual.verifier.system import System

FIRST, QUICK = 4, 0.3
"""How many points of a case are tried first, and after how many seconds no more before bounds."""

AT_ONCE = 1024
"""How many points are tried together."""

FEWEST, TRIED, STEPS = 8, 128, 30
"""How many points of a batch go on by gradient descent, at least and at most, and how far."""

SHARE = 0.15
"""Which part of the time that may take."""

CHECKED = 8
"""How many points of a batch the model is asked about."""

Confirm = Callable[[Tensor, int], bool]
"""(a point [n], the number of a case) → whether the model itself is unsafe there."""


class Points:
    """What is tried of the cases of a system.

    Args:
        system: what is verified.
        confirm: asks the model itself about a point.

    Attributes:
        witness: a confirmed point and its case, once one is found.
    """

    def __init__(self, system: System, confirm: Confirm) -> None:
        self.system, self.confirm = system, confirm
        self.witness: tuple[Tensor, int] | None = None
        self._descending, self._generator = 0.0, torch.Generator().manual_seed(0)
        self._each: float | None = None  # how many seconds a point took to go on

    def begin(self, cases: Tensor) -> None:
        """Try random points of some cases, and where gradients lead; more where that is quick."""
        generator, begun = torch.Generator().manual_seed(0), time.perf_counter()
        for count in (FIRST, STARTS - FIRST):
            for some in cases.split(AT_ONCE // count):
                x = random_starts(self.system, some, count, generator)
                index = some.repeat_interleave(count)
                found, _ = descend(self.system, x, index, ALONE)
                self.ask(found, index)
                if self.witness is not None:
                    return
            if time.perf_counter() - begun > QUICK:
                return

    def attempt(self, points: Tensor, case: Tensor, gone: float) -> None:
        """Try points [P, n], and now and then where gradients lead from some.

        Args:
            points, case: with the case of each, [P].
            gone: how many seconds the search has taken: points take a share of these.
        """
        self.ask(points, case)
        start = time.perf_counter()
        left = SHARE * gone - self._descending
        count = FEWEST if self._each is None else min(TRIED, int(left / self._each))
        if len(points) == 0 or self.witness is not None or left <= 0 or count < FEWEST:
            return
        chosen = torch.randperm(len(points), generator=self._generator)[:count].to(case.device)
        which = case[chosen]
        found, _ = descend(self.system, points[chosen], which, STEPS)
        self.ask(found, which)
        took = time.perf_counter() - start
        self._descending, self._each = self._descending + took, took / len(which)

    def ask(self, points: Tensor, case: Tensor) -> None:
        """Ask the graph about points, and the model about those that the graph calls unsafe.

        Where the two disagree, points farther on are tried.
        """
        if len(points) == 0 or self.witness is not None:
            return
        worst = self.system.excess(points, case).amax(1)
        for i in (worst <= 0).nonzero().squeeze(1)[:CHECKED].tolist():
            at, which, index = points[i : i + 1], case[i : i + 1], int(case[i])
            if not self.confirm(at[0], index):
                at, _ = descend(self.system, at, which, STEPS, goal=-math.inf)
                if not self.confirm(at[0], index):
                    continue
            self.witness = at[0], index
            return
