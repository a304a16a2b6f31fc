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

from autodual.solve.linear import CUTS, NEAR
from autodual.solve.polytope import Array, Polytope

MARGIN = 1e-5
"""How far above 0 every point must lie for C·z > 0 to be told, as a part of C·z at the center and
1: HiGHS keeps to constraints but for 1e-6."""

FIRST = 1e9
"""A gap so wide that the first point found ends the search."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome:
    """What was found of some rows.

    Attributes:
        lower: for each row a lower bound on C·z; ``MARGIN`` where it is known to exceed that.
        point: d of the input where a row should be 0 or less, if one was found.
        late: whether time ran out.
    """

    lower: Array
    point: Array | None = None
    late: bool = False


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
    lower, end = np.full(len(costs), -np.inf), time.perf_counter() + seconds
    for k, (cost, value) in enumerate(zip(costs, nominal, strict=True)):
        slack = MARGIN * (1 + abs(value))
        asked = polytope.cut_by(cost, slack - value)
        for _ in range(1 if radius is None else CUTS):
            left = end - time.perf_counter()
            if left <= 0:
                return Outcome(lower, late=True)
            found = milp(
                cost,
                constraints=LinearConstraint(asked.rows, -np.inf, asked.most),
                bounds=Bounds(asked.low, asked.high),
                integrality=asked.integral.astype(int),
                options={"time_limit": left, "mip_rel_gap": FIRST},
            )
            if found.status == 2:  # no point is left
                lower[k] = slack
                break
            if found.x is None:
                if found.mip_dual_bound is not None:
                    lower[k] = min(value + found.mip_dual_bound, slack)
                return Outcome(lower, late=True)
            point = found.x[: polytope.inputs]
            length = 0.0 if radius is None else np.linalg.norm(point)
            if radius is None or length <= radius * (1 + NEAR):
                return Outcome(lower, point)
            asked = asked.cut(point / length, radius)
        else:
            return Outcome(lower, point)
    return Outcome(lower)


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
