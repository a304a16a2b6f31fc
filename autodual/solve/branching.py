"""Whether a network of linear pieces can reach C·z ≤ 0 on a set: mixed-integer programs by HiGHS.

The question is put with its answer as a constraint and its objective kept: HiGHS looks for a point
with C·z ≤ 0, drops every branch that has none, and branches by what moves C·z.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from queue import SimpleQueue
from threading import Condition, Thread
from typing import TypeVar

import numpy as np
import scipy.sparse as sp
from scipy.optimize import Bounds, LinearConstraint, milp

from autodual.solve.linear import CUTS
from autodual.solve.polytope import Array, Polytope

MARGIN = 1e-5
"""How far above 0 every point must lie for C·z > 0 to be told, as a part of C·z at the center and
1: HiGHS keeps to constraints but for 1e-6."""

FIRST = 1e9
"""A gap so wide that the first point found ends the search."""

LARGE = 1e3
"""How large entries of a constraint may be."""

EXACT = 1e-6
"""The gap at which a least value is found."""

STOPPED, INFEASIBLE = 1, 2
"""What scipy says where time ran out, and where no point is left."""

OVER = "its time was over"
"""Why nothing is known where time ran out."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome:
    """What was found of some rows.

    Attributes:
        lower: C·z is at least this for all of them, as far as the solver's tolerance goes.
        point: d of the input where a row should be 0 or less, if one was found.
        why: why there is neither a point nor C·z > 0 for all, if so.
    """

    lower: float
    point: Array | None = None
    why: str | None = None

    @property
    def nothing(self) -> bool:
        """Whether it is known that there is no such point."""
        return self.point is None and self.why is None


@dataclass(frozen=True, eq=False)
class Whole:
    """A network without any relaxation, as mixed-integer programs ask about it; see ``integer``.

    Attributes:
        polytope: of the network.
        radius: of an ℓ2 ball, which tangents cut out of its box.
    """

    polytope: Polytope
    radius: float | None

    @cached_property
    def unit(self) -> Array:
        """How far each variable goes, its unit for HiGHS, whose tolerances are absolute."""
        far = np.maximum(abs(self.polytope.low), abs(self.polytope.high))
        return np.where(self.polytope.integral | (far == 0), 1.0, far)

    def decide(self, costs: Array, nominal: Array, known: Array, seconds: float) -> Outcome:
        """Return whether nominal + c·d > 0 for every row, row by row.

        Args:
            costs, nominal: the rows [S, variables], and their values [S] at the center.
            known: lower bounds [S] on their values.
            seconds: when to give up.
        """
        end, lower = time.perf_counter() + seconds, np.array(known, dtype=float)
        for i, (cost, value) in enumerate(zip(costs, nominal, strict=True)):
            found = self.sought(cost, value, 0.0, end)
            lower[i] = max(lower[i], found.lower)
            if not found.nothing:
                return Outcome(float(lower.min()), found.point, found.why)
        return Outcome(float(lower.min(initial=np.inf)))

    def sought(self, cost: Array, value: float, goal: float, end: float) -> Outcome:
        """Look for a point, in the ball if there is one, with value + c·d ≤ goal.

        With a goal of ∞ the least value is sought.

        Args:
            cost, value: a row, and its value at the center.
            end: when to give up, by ``time.perf_counter``.
        """
        asked, unit, gap = self.polytope, self.unit, EXACT if np.isinf(goal) else FIRST
        margin = margin_of(cost * unit, value)
        least, none = -np.inf, goal + margin  # what is there beside the points asked about
        if not np.isinf(goal):
            asked = asked.cut(cost, none - value)
        for _ in range(CUTS):
            left = end - time.perf_counter()
            if left <= 0:
                return Outcome(min(least, none), why=OVER)
            found = milp(
                cost * unit,
                constraints=LinearConstraint(*scaled(asked, unit)),
                bounds=Bounds(asked.low / unit, asked.high / unit),
                integrality=asked.integral.astype(int),
                options={"time_limit": left, "mip_rel_gap": gap},
            )
            if found.status == INFEASIBLE:
                return Outcome(none)
            if found.mip_dual_bound is not None:
                least = max(least, value + float(found.mip_dual_bound) - margin)
            if found.x is None:
                why = OVER if found.status == STOPPED else f"HiGHS says: {found.message}"
                return Outcome(min(least, none), why=why)
            point = (found.x * unit)[: asked.inputs]
            trimmed = asked.trimmed(point, self.radius)
            if trimmed is None:
                break
            asked = trimmed
        return Outcome(min(least, none), point)


def scaled(polytope: Polytope, unit: Array) -> tuple[sp.csr_matrix, float, Array]:
    """Return the constraints in such units, with largest entries between 1 and ``LARGE``."""
    rows = sp.csr_matrix(polytope.rows @ sp.diags(unit))
    most = abs(rows).max(axis=1).toarray().ravel() if rows.shape[0] else np.zeros(0)
    by = np.where(most == 0, 1.0, np.where(most < 1, most, np.maximum(most / LARGE, 1.0)))
    return sp.csr_matrix(sp.diags(1 / by) @ rows), -np.inf, polytope.most / by


def margin_of(cost: Array, value: float) -> float:
    """Return by how much C·z must exceed 0, so that the tolerance of its row cannot tell.

    Args:
        cost, value: the row in units of its variables, and C·z at the center.
    """
    return max(MARGIN * (1 + abs(value)), MARGIN / LARGE * float(abs(cost).max()))


class _Busy:
    """How many jobs run: the program must not end under HiGHS, which would abort it."""

    def __init__(self) -> None:
        self._change, self._count, self._over = Condition(), 0, False

    def __enter__(self) -> None:
        with self._change:
            while self._over:  # for ever: nothing new is begun at the end
                self._change.wait()
            self._count += 1

    def __exit__(self, *_: object) -> None:
        with self._change:
            self._count -= 1
            self._change.notify_all()

    def wait(self) -> None:
        """Wait until none runs; from then on none begins."""
        with self._change:
            self._over = True
            while self._count:
                self._change.wait()


BUSY = _Busy()
atexit.register(BUSY.wait)


def streamed(jobs: Iterator[Callable[[], Result]]) -> Iterator[Result]:
    """Give the results of jobs as they come, from as many threads as there are cores.

    HiGHS lets go of Python. Jobs are made while others run, a few ahead. What is interrupted is
    not waited for, but the program does not end before HiGHS does: that would abort it.
    """
    threads = os.cpu_count() or 1
    todo: SimpleQueue[Callable[[], Result] | None] = SimpleQueue()
    done: SimpleQueue[Result | BaseException] = SimpleQueue()

    def work() -> None:
        while (job := todo.get()) is not None:
            with BUSY:
                try:
                    done.put(job())
                except BaseException as error:
                    done.put(error)

    def one() -> Result:
        result = done.get()
        if isinstance(result, BaseException):
            raise result
        return result

    for _ in range(threads):
        Thread(target=work, daemon=True).start()
    open_jobs = 0
    try:
        for job in jobs:
            todo.put(job)
            open_jobs += 1
            if open_jobs >= 2 * threads:
                yield one()
                open_jobs -= 1
        for _ in range(open_jobs):
            yield one()
    finally:
        while not todo.empty():
            todo.get()
        for _ in range(threads):
            todo.put(None)
