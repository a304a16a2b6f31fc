"""Bounds of a network over sets of inputs, by intervals and by rows that travel back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from autodual_check.network import Affine, Relu, Rows, Values, charge
from autodual_check.numbers import EXACT, Clock, below, coarse, shifted

ENTRIES = 2**22
"""How many numbers an array of rows may hold, about."""


class Box:
    """The sets {lower ≤ x ≤ upper}, ends [n, B] in units."""

    def __init__(self, lower: np.ndarray, upper: np.ndarray) -> None:
        self.start = Values((lower + upper) >> 1, lower, upper)

    def charge(self, rows: Rows, owner: np.ndarray, dual: int) -> np.ndarray:
        """Return an upper bound on −Vδ."""
        at, V = rows
        return charge(np.abs(V), self.start.radius[at], owner, dual)


class Ball(Box):
    """The sets {x : ‖x − x⁰‖ ≤ ε} in boxes, for the ℓ1 or the ℓ2 norm: ``power`` 1 or 2."""

    def __init__(
        self, x: np.ndarray, eps: np.ndarray, box: tuple[np.ndarray, np.ndarray], power: int
    ) -> None:
        self.eps, self.power, self.start = eps.astype(np.float64), power, Values(x, *box)

    def charge(self, rows: Rows, owner: np.ndarray, dual: int) -> np.ndarray:
        """Return the smaller of what the box and the ball give: ε‖V‖_* for the dual norm.

        One more of each entry, since c is x⁰ to half a unit.
        """
        V = np.abs(rows[1])
        if self.power == 1:
            norm = V.max(0, initial=0)
        else:
            X, h = coarse(V, 2.0**23)
            squares = below((X * X).sum(0), EXACT, "a sum of squares")
            norm = np.array([math.isqrt(int(s)) + 1.0 for s in squares]) * 2.0**h
        ball = charge(norm[None], self.eps[None], owner, dual)
        ball += charge(V, np.ones_like(self.start.radius[rows[0]]), owner, dual)
        return np.minimum(ball, super().charge(rows, owner, dual))


class Bounds:
    """What is proved of every node of a network over B sets.

    Args:
        ops: the nodes after the input, each of which reads earlier ones.
        sets: of the inputs.
        dual: dual variables are whole numbers in units of 2^-dual.
        rows: the nodes whose entries get rows where interval arithmetic leaves their sign open.
    """

    def __init__(
        self,
        ops: Sequence[Affine | Relu],
        sets: Box,
        dual: int,
        rows: Sequence[int],
        clock: Clock,
    ) -> None:
        self.ops, self.sets, self.dual, self.clock = ops, sets, dual, clock
        self.values = [sets.start]
        self.free = any(op.relu and op.free for op in ops)
        for i, op in enumerate(ops, 1):
            clock.look()
            self.values.append(op.forward([self.values[j] for j in op.inputs]))
            if i in rows:
                self.tighten(i)

    def tighten(self, i: int) -> None:
        """Bound those entries of node i by rows whose sign is open."""
        z, op = self.values[i], self.ops[i - 1]
        unit, owner = np.nonzero((z.lo < 0) & (z.hi > 0))
        places = np.unique(unit % op.p)
        size = max(1, ENTRIES // max(len(v.c) for v in self.values[: i + 1]))
        for place in places:
            mine = np.flatnonzero(unit % op.p == place)
            for some in np.split(mine, range(size, len(mine), size)):
                u, b = unit[some], owner[some]
                at, row = np.unique(u, return_inverse=True)
                V = np.zeros((len(at), len(u)))
                V[row, np.arange(len(u))] = 2.0**self.dual
                fall = self.fall(i, (at, V), b)
                rise = self.fall(i, (at, -V), b) if self.free else fall
                z.tighten(u, b, z.c[u, b] - fall, z.c[u, b] + rise)
        z.measure()

    def fall(self, i: int, rows: Rows, owner: np.ndarray) -> np.ndarray:
        """Return d [R], in units, with Vδ ≥ −d for rows of node i over the sets of ``owner`` [R].

        From V at a node's output follows V_in at its inputs, with Vδ ≥ V_in δ_in − what the node's
        own error and the rounding of V_in may cost; at the input the set answers.
        """
        waiting, total = {i: [rows]}, np.zeros(len(owner), np.int64)
        for j in range(i, 0, -1):
            if j not in waiting:
                continue
            self.clock.look()
            op = self.ops[j - 1]
            (at, V), paid, halves = op.back(_joined(waiting.pop(j)), owner, self.dual)
            total += paid
            start = 0
            for source in op.inputs:
                z = self.values[source]
                first, last = np.searchsorted(at, [start, start + len(z.c)])
                mine = at[first:last] - start
                radius = z.radius[mine] * op.open[mine] if op.relu else z.radius[mine]
                lost = below(radius.sum(0), EXACT / 64, "a sum of radii") * halves
                total += np.ceil(shifted(lost, -self.dual - 1)).astype(np.int64)[owner]
                waiting.setdefault(source, []).append((mine, V[first:last]))
                start += len(z.c)
        if 0 in waiting:
            total += self.sets.charge(_joined(waiting[0]), owner, self.dual)
        return total

    def least(self, V: np.ndarray, owner: np.ndarray) -> np.ndarray:
        """Return lower bounds [R], in units, on rows V [n, R] of −1, 0, 1 of the last node."""
        i, z = len(self.ops), self.values[-1]
        fall = self.fall(i, (np.arange(len(V)), V * 2.0**self.dual), owner)
        c, lo, hi = (x[:, owner] for x in (z.c, z.lo, z.hi))
        sign = V.astype(np.int64)
        apart = np.where(V > 0, lo, 0) - np.where(V < 0, hi, 0)
        return np.maximum((sign * c).sum(0) - fall, apart.sum(0))


def _joined(rows: Sequence[Rows]) -> Rows:
    """Return sums of rows."""
    if len(rows) == 1:
        return rows[0]
    at = np.unique(np.concatenate([r[0] for r in rows]))
    V = np.zeros((len(at), rows[0][1].shape[1]))
    for mine, more in rows:
        V[np.searchsorted(at, mine)] += below(more, 2.0**46, "a dual variable")
    return at, below(V, 2.0**46, "a dual variable")
