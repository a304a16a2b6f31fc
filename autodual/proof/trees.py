"""Trees of parts: sets are cut until the checker's own bounds prove each part."""

from __future__ import annotations

import time
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autodual.errors import InputError
from autodual.proof.multipliers import BELOW, ROOT, Dual
from autodual_check.checking import Bounds, Proof
from autodual_check.network import Relu, Values

GRID = 128
"""Slopes α are multiples of 1 / GRID in a file."""

ENOUGH = 1024
"""By how many units a bound must exceed what is claimed: what is bounded together with others is
rounded with them, and the checker may put others together."""

LEAST = 2.0**-6
"""Of the largest slope, what an input counts for at least: where its own changes sign, it can bend
the network all the same."""

FINEST, STEP = 36, 4
"""Numbers of parts are smaller than those of whole sets, so that their units may be finer: by a
multiple of STEP bits, and not finer than 2^-FINEST."""


@dataclass
class Part:
    """A part of a set: what was cut on the way to it, how it is proved, and how it was cut.

    Attributes:
        tree: which of the claims it belongs to.
        path: node, entry, sign, t of each cut, the first ones first.
        alpha: [ReLUs] whole numbers, slopes in units of 1 / GRID; or None for those of the way.
        beta: [path], multipliers.
        scale: 0 if the part is empty by its multipliers.
        finer: by how many bits its unit is finer than that of whole sets.
        cut: node, entry and t, if it is no leaf.
    """

    tree: int
    path: tuple[tuple[int, int, int, float], ...] = ()
    alpha: np.ndarray | None = None
    beta: np.ndarray = field(default_factory=lambda: np.zeros(0))
    scale: int = 1
    finer: int = 0
    cut: tuple[int, int, float] | None = None
    halves: tuple[Part, ...] = ()

    def divide(self, node: int, entry: int, at: float, finer: int) -> tuple[Part, ...]:
        """Cut the part, and return its halves, whose unit is finer by so many bits."""
        self.cut, beta = (node, entry, at), np.append(self.beta, 0.0)
        self.halves = tuple(
            Part(self.tree, (*self.path, (node, entry, sign, at)), self.alpha, beta, 1, finer)
            for sign in (-1, 1)
        )
        return self.halves


@dataclass(frozen=True)
class Claim:
    """What a tree proves of a set: rows z_y − z_k > least, one of them at each point if ``any``."""

    set: int
    any: bool
    y: np.ndarray
    k: np.ndarray
    least: np.ndarray


class Growth:
    """The search for trees of one proof.

    Args:
        proof: its network and sets.
        claims: a tree for each.
        way: [equal, nodes that get rows], as the checker takes it.
        end, most: when, by the clock, and after how many parts to give up.
    """

    def __init__(
        self,
        proof: Proof,
        claims: Sequence[Claim],
        way: np.ndarray,
        end: float,
        most: int,
    ) -> None:
        self.proof, self.claims, self.way = proof, claims, way
        self.end, self.most, self.dual = end, most, Dual(proof)
        self.whole: dict[int, list[Values]] = {}
        self.roots = [Part(i) for i in range(len(claims))]

    def run(self, by_units: bool) -> list[Part]:
        """Return the roots of trees whose leaves are all proved.

        Raises:
            InputError: time or parts were not enough, or nothing is left to cut.
        """
        todo, made = {0: self.roots[::-1]}, len(self.roots)
        while todo:
            if time.monotonic() > self.end or made > self.most:
                raise InputError(
                    f"no proof within the time or parts allowed: {made} parts, and more"
                )
            waiting = todo.pop(max(todo))
            rest, some = waiting[: -self.proof.together], waiting[-self.proof.together :]
            if rest:
                todo[some[0].finer] = rest
            for part in self.units(some) if by_units else self.inputs(some):
                todo.setdefault(part.halves[0].finer, []).extend(part.halves)
                made += 1
        return self.roots

    def bounds(self, parts: Sequence[Part], alpha: np.ndarray | bool, again: bool) -> Bounds:
        """Return what the checker knows of parts."""
        sets = [self.claims[part.tree].set for part in parts]
        proof, N, more = self.proof, copy(self.proof.numbers), 2.0 ** parts[0].finer
        N.unit *= more
        for s in set(sets) - set(self.whole):
            some, slopes, no = np.array([s]), bool(self.way[0]), np.zeros((6, 0))
            self.whole[s] = Bounds(proof, proof.numbers, some, slopes, self.way, [], no).values
        base = [
            tuple(np.concatenate([getattr(z, e) for z in each], 1) * more for e in ("lo", "hi"))
            for each in zip(*(self.whole[s] for s in sets), strict=True)
        ]
        rows, cuts = self.way * again, self.cuts(parts)
        return Bounds(proof, N, np.array(sets), alpha, rows, base, cuts)

    def cuts(self, parts: Sequence[Part]) -> np.ndarray:
        """Return the cuts of parts as the checker has them, [6, cuts]."""
        N, rows = self.proof.numbers, list[tuple[float, ...]]()
        for b, part in enumerate(parts):
            for (node, entry, sign, at), beta in zip(part.path, part.beta, strict=True):
                rows.append((node, entry, b, sign, at, np.rint(beta * N.dual)))
        return np.array(rows).reshape(-1, 6).T

    def inputs(self, parts: list[Part]) -> list[Part]:
        """Cut those parts that are not proved at an input, and return them."""
        bounds = self.bounds(parts, bool(self.way[0]), True)
        best, side = np.full(len(parts), -np.inf), np.zeros(len(parts), np.int64)
        lo, hi = bounds.values[0].lo, bounds.values[0].hi
        for r in range(max(len(self.claims[part.tree].y) for part in parts)):
            b = np.array([i for i, p in enumerate(parts) if r < len(self.claims[p.tree].y)])
            y, k, least = (
                np.array([getattr(self.claims[parts[i].tree], e)[r] for i in b])
                for e in ("y", "k", "least")
            )
            rows = _Watched(bounds)
            room = rows.least(len(self.proof.ops), y, k, b, np.ones(len(b)), True)
            room -= least * bounds.N.unit
            slope = np.zeros((len(lo), len(b)))
            slope[rows.at] = np.abs(rows.V)
            gain = np.maximum(slope, LEAST * slope.max(0) + 1e-9) * (hi - lo)[:, b]
            better = room > best[b]
            best[b[better]], side[b[better]] = room[better], gain[:, better].argmax(0)
        left = np.flatnonzero((best <= ENOUGH) & ~bounds.empty)
        cuts = [self.middle(bounds, int(i), int(side[i])) for i in left]
        return self.divided(parts, bounds, left, cuts)

    def units(self, parts: list[Part]) -> list[Part]:
        """Cut those parts that are not proved at a unit, and return them."""
        start = self.bounds(parts, False, False)
        y, k, least = self.rows(parts, start)
        alpha = np.stack([self.slopes(start, b, part) for b, part in enumerate(parts)], 1)
        steps = BELOW if any(part.path for part in parts) else ROOT
        goal = least + 2 * ENOUGH / start.N.unit
        goal = goal + 1e-6 * (1 + np.abs(goal))
        goal[start.empty] = -np.inf
        found = self.dual.improve(start, self.cuts(parts), y, k, alpha, goal, steps)
        grid = np.rint(found.alpha * GRID)
        ends = np.cumsum([len(part.path) for part in parts])
        for part, a, beta in zip(parts, grid.T, np.split(found.beta, ends[:-1]), strict=True):
            part.alpha, part.beta = a.astype(np.uint8), beta.astype(np.float32).astype(np.float64)
        proved = self.proved(parts, y, k, least, grid, np.ones(len(parts))) | start.empty
        voids = np.array([bool(part.beta.any()) for part in parts]) & ~proved
        if voids.any():
            void = self.proved(parts, y, k, 0 * least, grid, np.zeros(len(parts))) & voids
            for i in np.flatnonzero(void):
                parts[i].scale = 0
            proved |= void
        left = np.flatnonzero(~proved)
        cuts = [self.choice(found.losses, start, int(i)) for i in left]
        return self.divided(parts, start, left, cuts)

    def divided(
        self,
        parts: list[Part],
        bounds: Bounds,
        left: np.ndarray,
        cuts: Sequence[tuple[int, int, float]],
    ) -> list[Part]:
        """Return the parts that are left, each with halves in a unit that suits its numbers."""
        cut = [parts[i] for i in left]
        for i, part, where in zip(left, cut, cuts, strict=True):
            all_ = self.size(self.whole[self.claims[part.tree].set], 0) / self.proof.numbers.unit
            bits = np.log2(all_ * bounds.N.unit / max(self.size(bounds.values, i), 1.0))
            most = max(part.finer, (FINEST - np.log2(self.proof.numbers.unit)) // STEP * STEP)
            part.divide(*where, int(np.clip(bits // STEP * STEP, part.finer, most)))
        return cut

    @staticmethod
    def size(values: Sequence[Values], b: int) -> float:
        """Return how large the numbers of one part are, in its unit."""
        return float(max(max(-z.lo[:, b].min(), z.hi[:, b].max()) for z in values))

    def proved(
        self,
        parts: list[Part],
        y: np.ndarray,
        k: np.ndarray,
        least: np.ndarray,
        grid: np.ndarray,
        scale: np.ndarray,
    ) -> np.ndarray:
        """Return of which parts the checker's bounds exceed what is claimed, [B] bool."""
        bounds = self.bounds(parts, grid / GRID, False)
        own = np.arange(len(parts))
        lower = bounds.least(len(self.proof.ops), y, k, own, scale, True)
        return bounds.empty | (lower > ENOUGH + least * bounds.N.unit)

    def rows(self, parts: list[Part], bounds: Bounds) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return y, k and least [B] of the row of each part that is nearest to what is claimed."""
        claims, size = [self.claims[part.tree] for part in parts], bounds.N.unit
        count = np.array([len(claim.y) for claim in claims])
        y, k, least = (
            np.concatenate([getattr(claim, e) for claim in claims]) for e in ("y", "k", "least")
        )
        start, owner = np.cumsum(count) - count, np.repeat(np.arange(len(parts)), count)
        best = start
        if (count > 1).any():
            one = np.ones(len(y))
            room = bounds.least(len(self.proof.ops), y, k, owner, one, True) - least * size
            best = np.array(
                [s + room[s : s + n].argmax() for s, n in zip(start, count, strict=True)]
            )
        return y[best], k[best], least[best].astype(np.float64)

    def slopes(self, bounds: Bounds, b: int, part: Part) -> np.ndarray:
        """Return the slopes a part starts from: its parent's, or 0 or 1."""
        if part.alpha is not None:
            return part.alpha / GRID
        found = np.zeros(self.proof.relus)
        for op, inputs in zip(self.proof.ops, self.proof.nodes, strict=True):
            if isinstance(op, Relu):
                z = bounds.values[inputs[0]]
                found[op.mine] = z.lo[:, b] + z.hi[:, b] > 0
        return found

    def choice(
        self, losses: Sequence[np.ndarray | None], bounds: Bounds, b: int
    ) -> tuple[int, int, float]:
        """Return the unit whose lines cost a part most, or the widest input if no sign is open.

        Raises:
            InputError: nothing is left to cut.
        """
        best, found = 0.0, None
        for node, loss in enumerate(losses):
            if loss is not None and loss[:, b].max(initial=-1.0) > best:
                best, found = float(loss[:, b].max()), (node, int(loss[:, b].argmax()), 0.0)
        if found is not None:
            return found
        box = bounds.values[0]
        return self.middle(bounds, b, int((box.hi - box.lo)[:, b].argmax()))

    def middle(self, bounds: Bounds, b: int, side: int) -> tuple[int, int, float]:
        """Return the cut of a part in the middle of a side.

        Raises:
            InputError: it is a point there.
        """
        lo, hi = bounds.values[0].lo[side, b], bounds.values[0].hi[side, b]
        if hi - lo < 2:
            raise InputError("no proof: a part cannot be cut any more")
        return 0, side, float((lo + hi) // 2) / bounds.N.unit


def grown(
    proof: Proof,
    claims: Sequence[Claim],
    way: np.ndarray,
    seconds: float,
    most: int,
    by_units: bool,
) -> list[Part]:
    """Return the roots of trees whose leaves are all proved.

    Args:
        proof, claims, way, most: as for ``Growth``.
        seconds: after how long to give up.
        by_units: cut units inside the network in place of inputs.

    Raises:
        InputError: time or parts were not enough, or nothing is left to cut.
    """
    return Growth(proof, claims, way, time.monotonic() + seconds, most).run(by_units)


class _Watched:
    """Bounds that keep the rows that come to the input."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds, self.at, self.V = bounds, np.zeros(0, np.int64), np.zeros((0, 1))

    def least(self, *args: Any) -> np.ndarray:
        """Return lower bounds."""
        support = self.bounds.support

        def watched(at: np.ndarray, V: np.ndarray, owner: np.ndarray) -> np.ndarray:
            self.at, self.V = at, V
            return support(at, V, owner)

        self.bounds.support = watched  # type: ignore[method-assign]
        try:
            return self.bounds.least(*args)
        finally:
            del self.bounds.support


def listed(claims: Sequence[Claim], roots: Sequence[Part]) -> dict[str, np.ndarray]:
    """Return the arrays of trees: each part, all of its lower half, all of its upper half."""
    todo, parts = list(roots[::-1]), list[Part]()
    while todo:
        part = todo.pop()
        parts.append(part)
        todo += part.halves[::-1]
    leaves = [part for part in parts if part.cut is None]
    alphas = {leaf.alpha.tobytes(): leaf.alpha for leaf in leaves if leaf.alpha is not None}
    place = {key: i for i, key in enumerate(alphas)}
    index = [-1 if leaf.alpha is None else place[leaf.alpha.tobytes()] for leaf in leaves]
    again = [int(leaf.alpha is None and bool(leaf.path)) for leaf in leaves]
    arrays: dict[str, np.ndarray] = {
        "trees": np.array([[c.set, c.any, len(c.y)] for c in claims], np.int32),
        "rows": np.stack([np.concatenate([getattr(c, e) for c in claims]) for e in "yk"], 1).astype(
            np.int32
        ),
        "least": np.concatenate([c.least for c in claims]).astype(np.float64),
        "cuts": np.array([part.cut[:2] if part.cut else (-1, 0) for part in parts], np.int32),
        "at": np.array([part.cut[2] if part.cut else 0.0 for part in parts]),
        "leaves": np.array(
            [
                [i, a, leaf.scale, leaf.finer]
                for i, a, leaf in zip(index, again, leaves, strict=True)
            ],
            np.int32,
        ),
    }
    beta = np.concatenate([leaf.beta[::-1] for leaf in leaves])
    if len(beta):
        arrays["beta"] = beta.astype(np.float32)
    if alphas:
        arrays["alpha"] = np.stack(list(alphas.values()))
    return arrays
