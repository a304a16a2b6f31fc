"""Branch and bound: the loop that all ways of branching share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from autodual.verify.falsify import descend
from autodual.verify.pool import Nodes, Pool, Step
from autodual.verify.system import System
from autodual.verify.verdict import Moment

FIRST, MOST = 32, 1024
"""How many sub-problems are bounded together at the start, and at most."""

TRIED, STEPS = 8, 5
"""How many of a batch's best points go on by gradient descent, and how far."""

OFTEN = 0.5
"""Seconds between two points of the curve, at first; later, a part of the time gone by."""

Confirm = Callable[[Tensor, int], bool]
"""(a point [n], the number of a case) → whether the model itself is unsafe there."""

Told = Callable[[Moment], None]


class Branching(Protocol):
    """A way to bound sub-problems and to cut them."""

    def roots(self) -> Nodes:
        """Return the sub-problems at the start."""

    def step(self, nodes: Nodes) -> Step:
        """Bound some and cut those that stay open."""

    def state(self) -> dict[str, Any]:
        """Return what it has learned, to go on with another time."""

    def load(self, state: dict[str, Any]) -> None:
        """Go on with what was learned."""


class Search:
    """Branch and bound under way.

    Args:
        system: what is verified.
        branching: how.
        confirm: asks the model itself about a point.
        room: how many bytes open sub-problems may take.
        attack: whether points are tried.
        told: hears how far it is.

    Attributes:
        witness: a confirmed point and its case, once one is found.
        stuck: sub-problems that can be neither decided nor cut.
        bounded: how many sub-problems were bounded.
    """

    def __init__(
        self,
        system: System,
        branching: Branching,
        confirm: Confirm,
        room: int,
        attack: bool = True,
        told: Told | None = None,
    ) -> None:
        self.system, self.branching, self.confirm = system, branching, confirm
        self.attack, self.told, self.room = attack, told, room
        roots = branching.roots()
        self.pool = Pool(most=max(1, room // (2 * max(1, roots.bytes // len(roots)))))
        self.pool.add(roots)
        self.stuck: list[Nodes] = []
        self.witness: tuple[Tensor, int] | None = None
        self.bounded, self.size = 0, FIRST
        self.curve: list[Moment] = []
        self.seconds, self._start = 0.0, time.perf_counter()

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.witness is not None or len(self.pool) == 0

    @property
    def left(self) -> int:
        """How many sub-problems are open or stuck."""
        return len(self.pool) + sum(map(len, self.stuck))

    @property
    def bound(self) -> float:
        """How far below 0 the rows may lie; ∞ where nothing is open."""
        return min([self.pool.bound, *(float(s.bound.amin()) for s in self.stuck)])

    @torch.no_grad()
    def run(self, end: float) -> str:
        """Go on until it is done or stopped; return why it stopped: "done", "time", "memory"."""
        self._start = time.perf_counter()
        before = self.seconds
        try:
            while not self.done:
                if time.perf_counter() >= end:
                    return "time"
                if len(self.pool) > 2 * self.pool.most:
                    return "memory"
                self._step()
                self.seconds = before + time.perf_counter() - self._start
                self._note()
        finally:
            self.seconds = before + time.perf_counter() - self._start
            self._note(last=True)
        return "done"

    def _step(self) -> None:
        """Bound the next batch."""
        nodes = self.pool.take(self.size)
        try:
            step = self.branching.step(nodes)
        except BaseException:
            self.pool.add(nodes)  # a stopped search keeps what it was at
            raise
        self.pool.add(step.children)
        if len(step.stuck) > 0:
            self.stuck.append(step.stuck)
        self.bounded += len(nodes)
        self.size = min(2 * self.size, MOST)
        if self.attack:
            self.attempt(step.points, step.case, step.children)

    def attempt(self, points: Tensor, case: Tensor, around: Nodes | None = None) -> None:
        """Try points [P, n], and what gradients make of the best."""
        if len(points) == 0 or self.witness is not None:
            return
        worst = self.system.excess(points, case).amax(1).nan_to_num(torch.inf)
        best = worst.topk(min(TRIED, len(worst)), largest=False).indices
        if bool((worst[best] <= 0).any()):
            self._check(points[best], case[best], worst[best])
            if self.done:
                return
        root = self.system.cases
        lower = torch.stack([root[c].lower for c in case[best].tolist()])
        upper = torch.stack([root[c].upper for c in case[best].tolist()])
        found, least = descend(self.system, points[best], case[best], lower, upper, STEPS)
        if bool((least <= 0).any()):
            self._check(found, case[best], least)

    def _check(self, points: Tensor, case: Tensor, worst: Tensor) -> None:
        """Ask the model about points that the graph calls unsafe; farther on if it disagrees."""
        for i in (worst <= 0).nonzero().squeeze(1).tolist():
            root, index = self.system.cases[int(case[i])], int(case[i])
            if self.confirm(points[i], index):
                self.witness = points[i], index
                return
            ends = root.lower[None], root.upper[None]
            far, _ = descend(
                self.system, points[i : i + 1], case[i : i + 1], *ends, 20, goal=-math.inf
            )
            if self.confirm(far[0], index):
                self.witness = far[0], index
                return

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
        self.branching.load(state["branching"])
