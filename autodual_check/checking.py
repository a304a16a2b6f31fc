"""What a file claims, compared with what weak duality proves."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autodual_check.network import Affine, Relu, Rows, Values, below, charge, coarse, shifted, whole
from autodual_check.reading import Invalid, Unsupported, need, read

LARGEST, MANY = 2**23, 2**26
"""How many entries all nodes may have together, and how many weights and reads."""

TOGETHER, ENTRIES = 64, 2**22
"""How many sets are bounded at once at most; how many numbers an array of theirs may hold."""

KINDS = {"box": 0, "linf": 0, "l1": 1, "l2": 2}


class Bounds:
    """What is proved of every node over B sets, of boxes [n, B] in units, or balls in them.

    ``ball`` is (center [n, B], radius [B], 1 or 2 for the norm), or None; ``rows`` are the nodes
    whose entries get rows where interval arithmetic leaves their sign open.
    """

    def __init__(self, proof: Proof, lo: np.ndarray, hi: np.ndarray, ball: Any, way: Any) -> None:
        self.proof, self.ball, self.free, rows = proof, ball, way[0] == "free", way[1]
        self.values = [Values((lo + hi) >> 1 if ball is None else ball[0], lo, hi)]
        for i, (op, inputs) in enumerate(zip(proof.ops, proof.inputs, strict=True), 1):
            proof.look()
            op.free = self.free
            self.values.append(op.forward([self.values[j] for j in inputs]))
            if i in rows:
                self.tighten(i)

    def tighten(self, i: int) -> None:
        """Bound by rows those entries of node i whose sign is open, a place at a time."""
        z, op = self.values[i], self.proof.ops[i - 1]
        p = op.p if op.n > op.p else 1  # where a place has one entry all go together
        unit, owner = np.nonzero((z.lo < 0) & (z.hi > 0))
        size = max(1, ENTRIES // self.proof.wide)
        for place in np.unique(unit % p):
            mine = np.flatnonzero(unit % p == place)
            for some in np.split(mine, range(size, len(mine), size)):
                u, b = unit[some], owner[some]
                at, row = np.unique(u, return_inverse=True)
                V = np.zeros((len(at), len(u)))
                V[row, np.arange(len(u))] = 2.0**self.proof.dual
                fall = self.fall(i, (at, V), b)
                rise = self.fall(i, (at, -V), b) if self.free else fall
                z.lo[u, b] = np.maximum(z.lo[u, b], z.c[u, b] - fall)
                z.hi[u, b] = np.minimum(z.hi[u, b], z.c[u, b] + rise)
        z.measure()

    def fall(self, i: int, rows: Rows, owner: np.ndarray) -> np.ndarray:
        """Return d [R], in units, with Vδ ≥ −d for rows of node i over the sets ``owner`` [R].

        Vδ ≥ V_in δ_in − what the node's own error and the rounding of V_in may cost.
        """
        waiting, total = {i: [rows]}, np.zeros(len(owner), np.int64)
        for j in range(i, 0, -1):
            if j not in waiting:
                continue
            self.proof.look()
            op, start = self.proof.ops[j - 1], 0
            (at, V), paid, halves = op.back(_joined(waiting.pop(j)), owner, self.proof.dual)
            total += paid
            for source in self.proof.inputs[j - 1]:
                z = self.values[source]
                first, last = np.searchsorted(at, [start, start + len(z.c)])
                mine = at[first:last] - start
                radius = z.radius[mine] * op.open[mine] if op.relu else z.radius[mine]
                lost = below(radius.sum(0), 2.0**47) * halves
                total += np.ceil(shifted(lost, -self.proof.dual - 1)).astype(np.int64)[owner]
                waiting.setdefault(source, []).append((mine, V[first:last]))
                start += len(z.c)
        return total + self.support(_joined(waiting[0]), owner) if 0 in waiting else total

    def support(self, rows: Rows, owner: np.ndarray) -> np.ndarray:
        """Return at least −Vδ over the sets: Σ|V|r over boxes, ε‖V‖_* over balls, or less.

        Of a ball |V| more, since its center is rounded to half a unit.
        """
        V, dual = np.abs(rows[1]), self.proof.dual
        box = charge(V, self.values[0].radius[rows[0]], owner, dual)
        if self.ball is None:
            return box
        _, eps, power = self.ball
        norm = V.max(0, initial=0)
        if power == 2:
            X, h = coarse(V, 2.0**20)
            squares = below((X * X).sum(0), 2.0**53).tolist()
            norm = np.array([math.isqrt(int(s)) + 1.0 for s in squares]) * 2.0**h
        moved = charge(V.sum(0)[None], np.ones((1, len(eps))), owner, dual)
        return np.minimum(
            box, charge(norm[None], eps[None].astype(np.float64), owner, dual) + moved
        )

    def least(self, y: np.ndarray, k: np.ndarray, owner: np.ndarray) -> np.ndarray:
        """Return lower bounds [R], in units, on z_y − z_k of the last node, on z_y where k < 0."""
        z, size = self.values[-1], max(1, ENTRIES // self.proof.wide)
        found = [np.zeros(0, np.int64)]
        for start in range(0, len(y), size):
            plus, minus, b = (x[start : start + size] for x in (y, k, owner))
            other = minus >= 0
            at = np.unique(np.concatenate([plus, minus[other]]))
            V, columns = np.zeros((len(at), len(b))), np.arange(len(b))
            V[np.searchsorted(at, plus), columns] = 2.0**self.proof.dual
            V[np.searchsorted(at, minus[other]), columns[other]] -= 2.0**self.proof.dual
            fall = self.fall(len(self.proof.ops), (at, V), b)
            along = z.c[plus, b] - np.where(other, z.c[minus, b], 0) - fall
            found.append(np.maximum(along, z.lo[plus, b] - np.where(other, z.hi[minus, b], 0)))
        return np.concatenate(found)


def _joined(rows: Sequence[Rows]) -> Rows:
    """Return sums of rows."""
    if len(rows) == 1:
        return rows[0]
    at = np.unique(np.concatenate([r[0] for r in rows]))
    V = np.zeros((len(at), rows[0][1].shape[1]))
    for mine, more in rows:
        V[np.searchsorted(at, mine)] += below(more, 2.0**46)
    return at, V


class Proof:
    """A network, sets of inputs, and claims, as a file has them."""

    def __init__(
        self, header: dict[str, Any], arrays: dict[str, np.ndarray], seconds: float = math.inf
    ) -> None:
        self.header, self.arrays, self.end = header, arrays, time.monotonic() + seconds
        get: Any = header.get
        self.unit, self.dual, n = sizes = [get(name) for name in ("unit", "dual", "input")]
        need(all(type(s) is int for s in sizes) and n > 0, "unit, dual, input: not whole numbers")
        need(-60 <= self.unit <= 80 and 0 <= self.dual <= 40, "unit, dual: out of range")
        self.sizes, self.inputs, self.ops = [n], list[list[int]](), list[Any]()
        self.ways, nodes, self.room = get("ways"), get("nodes"), MANY
        need(isinstance(nodes, list) and 0 < len(nodes) <= 4096, "nodes: none, or too many")
        for i, node in enumerate(nodes, 1):
            self.ops.append(self.op(node, f"node {i}"))
            self.inputs.append(node[1])
            self.sizes.append(self.ops[-1].n)
        need(sum(self.sizes) <= LARGEST, "the network is too large")
        self.wide = max([op.g * op.k * op.p for op in self.ops if not op.relu] + self.sizes)
        self.together = min(TOGETHER, max(1, ENTRIES // (sum(self.sizes) + self.wide)))
        need(isinstance(self.ways, list) and len(self.ways) > 0, "ways: no list")
        for way in self.ways:
            need(isinstance(way, list) and len(way) == 2, "ways: not [slopes, rows]")
            need(way[0] in ("equal", "free") and isinstance(way[1], list), "ways: no rows")

    def look(self) -> None:
        """Raise if time is over."""
        if time.monotonic() > self.end:
            raise Unsupported("it takes longer than --seconds allows")

    def table(self, name: str, kinds: dict[str, Any]) -> dict[str, Any]:
        """Return a table of the header, of one of a few kinds."""
        table: Any = self.header.get(name)
        if not isinstance(table, dict) or table.get("kind") not in tuple(kinds):
            raise Unsupported(f"{name}: none of {', '.join(kinds)}")
        return table

    def array(self, name: Any, kind: str, *shape: int | None) -> np.ndarray:
        """Return an array of floats ("f") or whole numbers ("i"), of a shape where it is known."""
        array: Any = self.arrays.get(name) if isinstance(name, str) else None
        fits = array is not None and array.dtype.kind == kind and array.ndim == len(shape)
        need(fits, f"array {str(name)[:40]!r}: missing, or of another kind")
        same = all(n in (None, m) for n, m in zip(shape, array.shape, strict=True))
        need(same, f"array {name!r}: its shape is {list(array.shape)}")
        return array

    def op(self, node: Any, where: str) -> Affine | Relu:
        """Return a node that reads earlier ones."""
        need(isinstance(node, list) and len(node) > 1, f"{where}: not [op, inputs, …]")
        op, inputs = node[:2]
        need(isinstance(inputs, list) and 0 < len(inputs) <= 64, f"{where}: no inputs, or too many")
        known = range(len(self.sizes))
        need(all(type(j) is int and j in known for j in inputs), f"{where}: no earlier nodes")
        if op == "relu" and len(inputs) == 1 and len(node) == 2:
            return Relu(self.sizes[inputs[0]])
        if op != "affine" or len(node) != 5:
            raise Unsupported(f"{where}: neither a relu of one input nor affine")
        W, size = self.array(node[2], "f", None, None, None), sum(self.sizes[j] for j in inputs)
        g, m, k = W.shape
        index, b = self.array(node[3], "i", g, k, None), self.array(node[4], "f", g, m, None)
        p = index.shape[2]
        need(b.shape[2] in (1, p), f"{where}: its bias does not fit")
        self.room -= g * k * (m + p)
        fits = self.room >= 0 and max(size, sum(self.sizes) + g * m * p) <= LARGEST
        need(fits, f"{where}: the network is too large")
        need(index.min() >= -1 and index.max() < size, f"{where}: its index points outside")
        return Affine(W, index, b, size, self.unit)

    def sets(self) -> tuple[np.ndarray, np.ndarray]:
        """Return boxes [N, n] in units around the sets; see about balls, if they are that."""
        said, n = self.table("set", KINDS), self.sizes[0]
        self.power = KINDS[said["kind"]]

        def ends(*shape: int | None) -> list[np.ndarray]:
            low, high = (self.array(said.get(e), "f", *shape) for e in ("lower", "upper"))
            need(low.shape == high.shape, "set: its ends differ in shape")
            return [
                whole(np.floor(shifted(low, self.unit))),
                whole(np.ceil(shifted(high, self.unit))),
            ]

        if said["kind"] == "box":
            lo, hi = ends(None, n)
        else:
            x = self.array(said.get("x"), "f", None, n)
            eps = self.array(said.get("eps"), "f", len(x))
            need(eps.min() >= 0, "set: a radius is negative")
            x, self.eps = shifted(x, self.unit), whole(np.ceil(shifted(eps, self.unit)))
            self.x = whole(np.rint(x))
            lo, hi = whole(np.floor(x)) - self.eps[:, None], whole(np.ceil(x)) + self.eps[:, None]
            if "lower" in said or "upper" in said:
                least, most = ends(n)
                lo, hi = np.maximum(lo, least), np.minimum(hi, most)
        need(bool((lo <= hi).all()), "set: one is empty")
        return lo, hi

    def bounds(self, some: np.ndarray, lo: np.ndarray, hi: np.ndarray, way: int) -> Bounds:
        """Bound the network over boxes [B, n], each a part of one of the sets ``some`` [B]."""
        ball = (self.x[some].T, self.eps[some], self.power) if self.power else None
        lo, hi = np.ascontiguousarray(lo.T), np.ascontiguousarray(hi.T)
        return Bounds(self, lo, hi, ball, self.ways[way])

    def chosen(self, said: dict[str, Any], count: int) -> list[tuple[int, np.ndarray]]:
        """Return which of ``count`` parts go which way, as many as are bounded at once."""
        way = self.array(said.get("way"), "i", count)
        need(way.min() >= 0 and way.max() < len(self.ways), "way: there is no such way")
        each, size = [(w, np.flatnonzero(way == w)) for w in range(len(self.ways))], self.together
        return [(w, mine[i : i + size]) for w, mine in each for i in range(0, len(mine), size)]

    def digest(self) -> str:
        """Return what tells this network from others: sha256 of its nodes and their numbers."""
        told = hashlib.sha256(repr(self.sizes[0]).encode())
        for op, inputs, *names in self.header["nodes"]:
            told.update(repr((op, inputs)).encode())
            for array in map(self.arrays.__getitem__, names):
                told.update(repr((array.dtype.str, array.shape)).encode() + array.tobytes())
        return told.hexdigest()


def margins(proof: Proof, said: dict[str, Any]) -> np.ndarray:
    """Return lower bounds [N, K], in units, on z_y − z_k over the sets, 0 at k = y."""
    (lo, hi), K = proof.sets(), proof.sizes[-1]
    labels, found = proof.array(said.get("labels"), "i", len(lo)), np.zeros((len(lo), K), np.int64)
    need(labels.min() >= 0 and labels.max() < K, "labels: no class of the network's")
    for way, some in proof.chosen(said, len(lo)):
        b, k = np.nonzero(labels[some, None] != np.arange(K))
        bounds = proof.bounds(some, lo[some], hi[some], way)
        found[some[b], k] = bounds.least(labels[some][b], k, b)
    return found


def _margins(proof: Proof, said: dict[str, Any]) -> str:
    """Check claims [N, K] of margins for labels [N]."""
    claims = proof.array(said.get("margins"), "f", None, proof.sizes[-1])
    derived = shifted(margins(proof, said), -proof.unit)
    need(len(claims) == len(derived), "margins: not of each set")
    for i, k in np.argwhere(~(claims <= derived)).tolist():
        raise Invalid(
            f"set {i}, class {k}: {claims[i, k]:.9g} is claimed, {derived[i, k]:.9g} derived"
        )
    own = np.arange(claims.shape[1]) == proof.array(said["labels"], "i", len(claims))[:, None]
    return f"{len(claims)} sets, of which {int(((claims > 0) | own).all(1).sum())} have one class"


def parts(proof: Proof, said: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the parts that sets are cut into: the boxes [P, n], and which set each is of [P].

    A cut in two is by x_f ≤ t and x_f ≥ t, which together hold all of a part. ``cuts`` lists f for
    each part, in the order part, all of its lower half, all of its upper half; −1 for one that is
    left whole.
    """
    lo, hi = proof.sets()
    cuts = proof.array(said.get("cuts"), "i", None)
    at = shifted(proof.array(said.get("at"), "f", len(cuts)), proof.unit)
    fits = cuts.min() >= -1 and cuts.max() < lo.shape[1] and cuts.size * lo.shape[1] <= MANY
    need(fits, "cuts: not inputs, or too many")
    least, most = whole(np.floor(at)), whole(np.ceil(at))
    todo, found = [(i, lo[i], hi[i]) for i in reversed(range(len(lo)))], []
    for part, cut in enumerate(cuts.tolist()):
        need(len(todo) > 0, f"part {part}: it belongs to no set")
        i, low, high = todo.pop()
        if cut < 0:
            found.append((i, low, high))
        else:
            left, right = high.copy(), low.copy()
            left[cut], right[cut] = min(high[cut], most[part]), max(low[cut], least[part])
            todo += [(i, right, high), (i, low, left)]
    need(not todo, f"{len(todo)} parts are missing")
    owner, low, high = (np.array(each) for each in zip(*found, strict=True))
    return low, high, owner


def _positive(proof: Proof, said: dict[str, Any]) -> str:
    """Check that everywhere in each set one of the outputs ``first`` to ``last`` is positive."""
    lo, hi, owner = parts(proof, said)
    count = len(np.unique(owner))
    first, last = (proof.array(said.get(e), "i", count)[owner] for e in ("first", "last"))
    need(first.min() >= 0 and last.max() < proof.sizes[-1], "first, last: not outputs")
    for way, some in proof.chosen(said, len(owner)):
        some = some[(lo[some] <= hi[some]).all(1)]  # no point lies in the others
        bounds = proof.bounds(owner[some], lo[some], hi[some], way)
        proved = np.zeros(len(some), bool)
        for k in range(int(last.max()) + 1):
            (b,) = np.nonzero(~proved & (first[some] <= k) & (k <= last[some]))
            proved[b] = bounds.least(np.full(len(b), k), np.full(len(b), -1), b) > 0
        for part in some[~proved].tolist():
            raise Invalid(f"part {part}, of set {owner[part]}: no output is proved to be positive")
    return f"{count} sets in {len(owner)} parts"


CHECKS = {"margins": _margins, "positive": _positive}


def check(path: Path, seconds: float = math.inf) -> tuple[str, str]:
    """Return "valid", "invalid" or "unsupported", and what there is to say about it."""
    try:
        proof = Proof(*read(path), seconds)
        said = proof.table("property", CHECKS)
        return "valid", f"{CHECKS[said['kind']](proof, said)}; network {proof.digest()}"
    except Invalid as error:
        return "invalid", str(error)
    except (Unsupported, MemoryError) as error:
        return "unsupported", str(error) or "it takes more memory than there is"
