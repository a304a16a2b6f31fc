"""Branch and bound: the loop that all ways of branching share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from autodual.verifier.points import Points
from autodual.verifier.pool import Nodes, Pool, Step
from autodual.verifier.threads import Threads
from autodual.verifier.verdict import Moment
from autodual.working import TimeOver, check_time, until

FIRST = 32
"""How many sub-problems are bounded together at the start."""

SLOW = 1.0
"""How many seconds a batch may take before the next ones are made smaller: time is kept so."""

OFTEN = 0.5
"""Seconds between two points of the curve, at first; later, a part of the time gone by."""

Told = Callable[[Moment], None]


class Branching(Protocol):
    """A way to bound sub-problems and to cut them.

    Attributes:
        most: how many are bounded together at most.
    """

    most: int

    def roots(self) -> Nodes:
        """Return the sub-problems at the start."""

    def glance(self, nodes: Nodes) -> Step:
        """Bound roots in little time, without a cut."""

    def step(self, nodes: Nodes) -> Step:
        """Bound some and cut those that stay open; several threads may ask at once."""

    def learn(self, step: Step) -> None:
        """Hear what came of a step, in the order of the sub-problems."""

    def state(self) -> dict[str, Any]:
        """Return what it has learned, to go on with another time."""

    def load(self, state: dict[str, Any]) -> None:
        """Go on with what was learned."""


class Search:
    """Branch and bound under way.

    Args:
        branching: how sub-problems are bounded and cut.
        points: what is tried of them.
        room: how many bytes open sub-problems may take.
        threads: in which batches are bounded.
        attack: whether points are tried.
        told: hears how far it is.

    Attributes:
        stuck: sub-problems that can be neither decided nor cut.
        bounded: how many sub-problems were bounded.
        trace: where the ends of boxes are added that are bounded, if that is wanted.
    """

    def __init__(
        self,
        branching: Branching,
        points: Points,
        room: int,
        threads: Threads,
        attack: bool = True,
        told: Told | None = None,
    ) -> None:
        self.branching, self.points = branching, points
        self.attack, self.told, self.threads = attack, told, threads
        roots = branching.roots()
        self.pool = Pool(most=max(1, room // (2 * max(1, roots.bytes // len(roots)))))
        self.pool.add(roots)
        self.stuck: list[Nodes] = []
        self.bounded, self.size = 0, FIRST
        self.curve: list[Moment] = []
        self.trace: list[tuple[Tensor, Tensor]] | None = None
        self.seconds, self._start = 0.0, time.perf_counter()

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.points.witness is not None or len(self.pool) == 0

    @property
    def left(self) -> int:
        """How many sub-problems are open or stuck."""
        return len(self.pool) + sum(map(len, self.stuck))

    @property
    def cases(self) -> list[int]:
        """The numbers of the cases that have open sub-problems."""
        parts = [*self.pool.parts, *self.stuck]
        return sorted({int(c) for part in parts for c in part.case.unique()})

    def close(self, case: int) -> None:
        """Hear that a case is proved in another way."""
        for parts in (self.pool.parts, self.stuck):
            some = [part.select(part.case != case) for part in parts]
            parts[:] = [part for part in some if len(part) > 0]

    @property
    def bound(self) -> float:
        """How far below 0 the rows may lie; ∞ where nothing is open."""
        return min([self.pool.bound, *(float(s.bound.amin()) for s in self.stuck)])

    @torch.no_grad()
    def glance(self) -> None:
        """Bound the roots in little time: many a question needs neither more nor any point."""
        nodes = self.pool.take(len(self.pool))
        index = torch.arange(len(nodes), device=nodes.bound.device)
        try:
            steps = [
                self.branching.glance(nodes.select(i)) for i in index.split(self.branching.most)
            ]
            for step in steps:
                self.pool.add(step.children)
            self.bounded += len(nodes) - len(self.pool)
            self.pool.settle()
        finally:
            self.pool.give_back()
        if self.attack:
            for step in steps:
                self.points.ask(step.points, step.case)

    @torch.no_grad()
    def run(self, end: float) -> str:
        """Go on until it is done or stopped; return why it stopped: "done", "time", "memory"."""
        self._start = time.perf_counter()
        before = self.seconds
        try:
            with until(end):
                while not self.done:
                    check_time()
                    if len(self.pool) > 2 * self.pool.most:
                        return "memory"
                    self._step()
                    self.seconds = before + time.perf_counter() - self._start
                    self._note()
        except TimeOver:
            return "time"
        finally:
            self.pool.give_back()
            self.seconds = before + time.perf_counter() - self._start
            self._note(last=True)
        return "done"

    def _step(self) -> None:
        """Bound the next batch, a part in each thread."""
        start, at_once = time.perf_counter(), self.threads.count * self.branching.most
        nodes = self.pool.take(min(self.size, at_once))
        if self.trace is not None:
            self.trace.append((nodes["lower"], nodes["upper"]))
        steps = self.threads.map(self.branching.step, self._parts(nodes, self.threads.count))
        for step in steps:
            self.branching.learn(step)
            self.pool.add(step.children)
            if len(step.stuck) > 0:
                self.stuck.append(step.stuck)
        self.pool.settle()
        if self.attack:
            for step in steps:
                gone = time.perf_counter() - self._start
                self.points.attempt(step.points, step.case, gone)
        self.bounded += len(nodes)
        took = time.perf_counter() - start
        if took > SLOW:
            self.size = max(1, len(nodes) // 2)
        elif took < SLOW / 2:
            self.size = min(2 * self.size, at_once)

    def _parts(self, nodes: Nodes, most: int) -> list[Nodes]:
        """Return sub-problems in equal parts, none of them too small to be worth a thread."""
        count = max(1, min(most, len(nodes) // FIRST))
        index = torch.arange(len(nodes), device=nodes.bound.device)
        return [nodes.select(part) for part in index.tensor_split(count)]

    def _note(self, last: bool = False) -> None:
        """Note how far it is, now and then."""
        since = self.seconds - self.curve[-1].seconds if self.curve else math.inf
        if last or since >= max(OFTEN, 0.05 * self.seconds):
            moment = Moment(self.seconds, self.bound, self.left, self.bounded)
            self.curve.append(moment)
            if self.told is not None:
                self.told(moment)

    def state(self) -> dict[str, Any]:
        """Return all that a later search goes on with."""
        parts = [*self.pool.parts, *self.stuck]
        nodes = Nodes.cat(parts) if parts else None
        return {
            "nodes": None if nodes is None else [nodes.bound, nodes.case, dict(nodes.data)],
            "bounded": self.bounded,
            "seconds": self.seconds,
            "branching": self.branching.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` returned."""
        self.pool.parts = [] if state["nodes"] is None else [Nodes(*state["nodes"])]
        self.bounded, self.seconds = state["bounded"], state["seconds"]
        self.size = 1  # so that it comes forward in however little time
        self.branching.load(state["branching"])
