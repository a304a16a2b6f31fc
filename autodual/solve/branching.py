"""Whether a network of linear pieces can reach C·z ≤ 0 on a set: mixed-integer programs by HiGHS.

The question is put with its answer as a constraint and its objective kept: HiGHS looks for a point
with C·z ≤ 0, drops every branch that has none, and branches by what moves C·z.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from autodual.solve.linear import CUTS
from autodual.solve.polytope import Array, Polytope

MARGIN = 1e-5
"""How far above 0 every point must lie for C·z > 0 to be told, as a part of C·z at the center and
1: HiGHS keeps to constraints but for 1e-6."""

FIRST = 1e9
"""A gap so wide that the first point found ends the search."""

INFEASIBLE = 2
"""What scipy says where no point is left."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome:
    """What was found of some rows: that C·z > 0 for all, a point, or that time ran out.

    Attributes:
        point: d of the input where a row should be 0 or less, if one was found.
        late: whether time ran out.
    """

    point: Array | None = None
    late: bool = False

    @property
    def nothing(self) -> bool:
        """Whether it is known that there is no such point."""
        return self.point is None and not self.late


def decide(
    polytope: Polytope, costs: Array, nominal: Array, seconds: float, radius: float | None
) -> Outcome:
    """Return whether nominal + c·d > 0 for every row on a whole network, row by row.

    Args:
        polytope: of the network, see ``integer``.
        costs, nominal: the rows [S, variables], and their values [S] at the center.
        seconds: when to give up.
        radius: of an ℓ2 ball, which tangents cut out of its box.
    """
    end = time.perf_counter() + seconds
    for cost, value in zip(costs, nominal, strict=True):
        asked = polytope.cut(cost, MARGIN * (1 + abs(value)) - value)
        outcome = _sought(asked, cost, end, radius)
        if not outcome.nothing:
            return outcome
    return Outcome()


def _sought(asked: Polytope, cost: Array, end: float, radius: float | None) -> Outcome:
    """Look for a point of a polytope, inside the ball if there is one."""
    for _ in range(CUTS):
        left = end - time.perf_counter()
        if left <= 0:
            return Outcome(late=True)
        found = milp(
            cost,
            constraints=LinearConstraint(asked.rows, -np.inf, asked.most),
            bounds=Bounds(asked.low, asked.high),
            integrality=asked.integral.astype(int),
            options={"time_limit": left, "mip_rel_gap": FIRST},
        )
        if found.status == INFEASIBLE:
            return Outcome()
        if found.x is None:
            return Outcome(late=True)
        point = found.x[: asked.inputs]
        trimmed = asked.trimmed(point, radius)
        if trimmed is None:
            break
        asked = trimmed
    return Outcome(point)


def streamed(jobs: Iterator[Callable[[], Result]], threads: int) -> Iterator[Result]:
    """Give the results of jobs as they come, worked on by some threads; HiGHS lets go of Python.

    Jobs are made while others run, a few ahead. Threads do not outlive the program: what is
    interrupted need not be waited for.
    """
    todo: SimpleQueue[Callable[[], Result] | None] = SimpleQueue()
    done: SimpleQueue[Result | BaseException] = SimpleQueue()

    def work() -> None:
        while (job := todo.get()) is not None:
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
