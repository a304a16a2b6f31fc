"""Branching on the input: boxes are cut in two along the side that matters most."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from autodual.bound.forecast import pace
from autodual.front.ir import Value
from autodual.interval import Interval
from autodual.verifier.clip import Lines
from autodual.verifier.pool import Nodes, Step
from autodual.verifier.system import System

if TYPE_CHECKING:
    from autodual.certified import Compiled

LEVELS = 3.0
"""A dear bound pays where it is as far ahead of the cheap one as so many cuts would be; in large
networks, where it may take far more than 2^LEVELS times as long, as so many as take that time."""

SAMPLE = 16
"""How many boxes of each batch are asked both, to know how far ahead the dear one is."""

PART = 0.3
"""Which part of the time gone by such samples may take in large networks, and the next one, too."""

MOST = 1024
"""How many boxes are bounded together at most."""

SMALL = 2**24
"""How many bytes the columns of one box may take where everything is open; forms serve beyond."""

ROOM, WIDE = 2**28, 2**19
"""How many bytes the columns of a batch may take, and without them how many entries a value."""

RARELY = 16
"""How often such a sample is taken, in batches, once batches are larger than that."""

KEEP = 0.7
"""How much of what was known of that stays when a batch says something new."""


class InputSplits:
    """Sub-problems are boxes.

    Each is bounded by linear functions below its rows, on intervals found in forward order, or by
    affine forms in large networks; where that pays, on those of rows that travel back. What the
    functions say of the box cuts it down; the halves are asked the same functions before they are
    kept.
    """

    def __init__(self, system: System) -> None:
        self.system = system
        bounded = system.found.program.plan.bounded
        widest, units = max((v.numel for v in bounded), default=1), sum(v.numel for v in bounded)
        size = max(1, widest * units) * system.like.element_size()  # of columns, all of it open
        self.small = size <= SMALL
        if system.rounded:  # of which columns and forms know nothing
            self.cheap = system.arithmetic
        else:
            self.cheap = system.forward if self.small else system.forms
        self.most = max(1, min(MOST, ROOM // size if self.small else WIDE // widest))
        self.gain = self.ahead = self.dearer = 0.0
        self.turns, self.start, self.sampled = 0, time.perf_counter(), 0.0
        self.thrifty: dict[int, Compiled] = {}  # by the power of 2 that is their budget

    def roots(self) -> Nodes:
        """Return the box of each case."""
        lower, upper = self.system.ends
        nothing = torch.full_like(lower[:, 0], -torch.inf)
        index = torch.arange(len(lower), device=lower.device)
        return Nodes(nothing, index, {"lower": lower, "upper": upper, "cheap": nothing})

    def glance(self, nodes: Nodes) -> Step:
        """Bound boxes."""
        nodes, lines = self._bounded(nodes, {}, glance=True)
        nodes = nodes.without("blame")
        return Step(nodes, *_points(nodes, lines), nodes.none)

    def step(self, nodes: Nodes) -> Step:
        """Bound boxes and cut those that stay open."""
        learned = dict[str, float]()
        nodes, lines = self._bounded(nodes, learned)
        nodes, blame = nodes.without("blame"), nodes["blame"]
        lower, upper = nodes["lower"], nodes["upper"]
        points, case = _points(nodes, lines)
        middle = (lower + upper) * 0.5
        wide = ((middle > lower) & (middle < upper)).any(1)
        halves = _cut(nodes.select(wide), lines.select(wide), blame[wide])
        twice = lines.select(wide.nonzero().squeeze(1).repeat(2))
        return Step(_kept(halves, twice)[0], points, case, nodes.select(~wide), learned)

    def learn(self, step: Step) -> None:
        """Hear how far cuts and dear bounds came in some step."""
        self.turns += 1
        for name in ("gain", "ahead", "dearer"):
            if name in step.learned:
                setattr(self, name, _mixed(getattr(self, name), step.learned[name]))
        self.sampled += step.learned.get("sampled", 0.0)

    def state(self) -> dict[str, Any]:
        """Return what it has learned."""
        return {"gain": self.gain, "ahead": self.ahead, "dearer": self.dearer}

    def load(self, state: dict[str, Any]) -> None:
        """Go on with what was learned."""
        self.gain, self.ahead, self.dearer = state["gain"], state["ahead"], state["dearer"]

    def _bounded(
        self, nodes: Nodes, learned: dict[str, float], glance: bool = False
    ) -> tuple[Nodes, Lines]:
        """Return the boxes that stay open, cut down, with linear functions below their rows."""
        system, before, start = self.system, nodes["cheap"], time.perf_counter()
        bound = system.bound(self.cheap, nodes["lower"], nodes["upper"])
        lines, blame = system.lines(bound, nodes.case)
        cheap = lines.together(nodes["lower"], nodes["upper"])
        gains = (cheap - before)[before.isfinite() & cheap.isfinite()]
        if len(gains) > 0:
            learned["gain"] = float(gains.mean())
        data = {**nodes.data, "cheap": cheap, "blame": blame}
        nodes, lines, kept = _kept(Nodes(nodes.bound, nodes.case, data), lines)
        between = time.perf_counter()
        count = self._asked_dearly(len(before), len(nodes), glance)
        if count == 0:
            return nodes, lines
        some, rest = kept[:count], torch.arange(count, len(nodes), device=kept.device)
        known = system.select(bound, some)
        dear, better = self._dear(nodes.select(torch.arange(count)), known, learned)
        took = time.perf_counter() - between
        learned["dearer"] = took / count / max(1e-9, (between - start) / len(before))
        learned["sampled"] = took
        cat = Lines(torch.cat([better.A, lines.A[rest]]), torch.cat([better.b, lines.b[rest]]))
        return Nodes.cat([dear, nodes.select(rest)]), cat

    def _asked_dearly(self, batch: int, left: int, glance: bool) -> int:
        """Return how many of those left of a batch get a dear bound: all, a sample, or none.

        All where it comes farther than the cuts that it is worth.
        """
        if glance:
            return left if self.small else 0
        cuts = LEVELS if self.small else max(LEVELS, math.log2(max(1.0, self.dearer)))
        if self.ahead >= cuts * self.gain:
            return left
        if batch >= RARELY and self.turns % RARELY > 0:
            return 0
        if self.small:
            return min(left, SAMPLE)
        return 1 if left > 0 and self.sampled <= PART * (time.perf_counter() - self.start) else 0

    def _by_rows(self) -> Compiled:
        """Return what finds dear bounds: the longer it lasts, the more work rows may take."""
        if self.small:
            return self.system.found
        seconds = max(1.0, PART * (time.perf_counter() - self.start))
        power = int(math.log2(seconds * pace(self.system.like.device)))
        if power not in self.thrifty:
            self.thrifty[power] = self.system.within(2.0**power)
        return self.thrifty[power]

    def _dear(
        self, nodes: Nodes, known: Mapping[Value, Interval], learned: dict[str, float]
    ) -> tuple[Nodes, Lines]:
        """Do the same with intervals found by rows, within those that are known."""
        system, lower, upper = self.system, nodes["lower"], nodes["upper"]
        bound = system.bound(self._by_rows(), lower, upper, known)
        lines, blame = system.lines(bound, nodes.case)
        ahead = lines.together(lower, upper).clamp(max=0) - nodes["cheap"]
        ahead = ahead[ahead.isfinite()].clamp(min=0)
        if len(ahead) > 0:
            learned["ahead"] = float(ahead.mean())
        data = {**nodes.data, "blame": blame}
        found, lines, _ = _kept(Nodes(nodes.bound, nodes.case, data), lines)
        return found, lines


def _mixed(before: float, now: float) -> float:
    """Return a moving mean."""
    return now if before == 0 else KEEP * before + (1 - KEEP) * now


def _kept(nodes: Nodes, lines: Lines) -> tuple[Nodes, Lines, Tensor]:
    """Return the boxes that stay open, cut down, their lines, and which these are."""
    lower, upper = lines.clipped(nodes["lower"], nodes["upper"])
    inside = (lower <= upper).all(1)
    upper = torch.maximum(lower, upper)
    bound = torch.fmax(nodes.bound, lines.together(lower, upper))  # NaN says nothing
    kept = (inside & ~(bound > 0)).nonzero().squeeze(1)
    found = Nodes(bound, nodes.case, {**nodes.data, "lower": lower, "upper": upper})
    return found.select(kept), lines.select(kept), kept


def _points(nodes: Nodes, lines: Lines) -> tuple[Tensor, Tensor]:
    """Return points of boxes that are worth trying, the middle and a corner, and their cases."""
    lower, upper = nodes["lower"], nodes["upper"]
    row = lines.least(lower, upper).argmax(1)
    points = torch.cat([(lower + upper) * 0.5, lines.corner(lower, upper, row)])
    return points, nodes.case.repeat(2)


def _cut(nodes: Nodes, lines: Lines, blame: Tensor) -> Nodes:
    """Return both halves of each box, the lower ones first.

    The side is cut that the rows' linear functions and what these lose depend on most.
    """
    lower, upper = nodes["lower"], nodes["upper"]
    middle, width = (lower + upper) * 0.5, upper - lower
    gain = (lines.A.abs() * width.unsqueeze(1) + blame).sum(1)
    gain = torch.where((middle > lower) & (middle < upper), gain + 1e-9 * width, -1.0)
    side = gain.argmax(1, keepdim=True)
    at = middle.gather(1, side)
    ends = {
        "lower": torch.cat([lower, lower.scatter(1, side, at)]),
        "upper": torch.cat([upper.scatter(1, side, at), upper]),
    }
    twice = torch.arange(len(nodes), device=lower.device).repeat(2)
    nodes = nodes.select(twice)
    return Nodes(nodes.bound, nodes.case, {**nodes.data, **ends})
