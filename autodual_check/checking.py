"""What a file claims, compared with what weak duality proves; README.md says why that is right."""

from __future__ import annotations

import hashlib
import time
from copy import copy
from typing import Any

import numpy as np

from autodual_check.network import Affine, Numbers, Relu, Values, below
from autodual_check.reading import Unproved, need, read

LARGEST, MANY, ENTRIES, TOGETHER = 2**22, 2**26, 2**22, 64
"""Most entries of all nodes; weights and reads; numbers of what is bounded at once; such sets."""


def groups(key: np.ndarray, size: int) -> list[np.ndarray]:
    """Return where ``key`` has each of its values, in parts of up to ``size``."""
    order = np.argsort(key, kind="stable")
    each = np.split(order, np.flatnonzero(np.diff(key[order])) + 1)
    return [mine[i : i + size] for mine in each for i in range(0, len(mine), max(1, size))]


class Bounds:
    """What is proved over sets ``some`` [B], cut at node, entry, set, s, t, β: s (z − t) ≥ 0.

    N has their unit; ``rows`` says which nodes get rows, ``base`` what is known of whole sets.
    """

    def __init__(self, proof: Any, N: Any, some: Any, slopes: Any, rows: Any, base: Any, cuts: Any):
        self.proof, self.N, self.slopes, B = proof, N, slopes, len(some)
        lo, hi, self.ball = proof.sets(N, some)
        self.values, self.pull = [Values(N, lo, lo, hi)], dict[int, Any]()
        self.empty = np.zeros(B, bool)
        for i, inputs in enumerate([[], *proof.nodes]):
            need(time.monotonic() < proof.end, "it takes longer than --seconds", "unsupported")
            if i > 0:
                z = proof.ops[i - 1].forward([self.values[j] for j in inputs], slopes)
                self.values.append(z)
            z, (u, b, s, t, beta) = self.values[i], cuts[1:, cuts[0] == i]
            u, b = u.astype(int), b.astype(int)
            t = -s * N.coarse(below(-s * t * N.unit, N.total), np.inf)[0]
            for lo, hi in base[i : i + 1]:
                z.lo, z.hi = np.maximum(z.lo, lo), np.minimum(z.hi, hi)
            np.maximum.at(z.lo, (u[s > 0], b[s > 0]), t[s > 0])
            np.minimum.at(z.hi, (u[s < 0], b[s < 0]), t[s < 0])
            if i == 0:
                z.c = self.ball[0] if self.ball else N.near((z.lo + z.hi) / 2)
            elif rows[i]:
                self.tighten(i)
            self.empty |= (z.lo > z.hi).any(0)
            z.hi = np.maximum(z.lo, z.hi)
            z.up, z.down = (np.maximum(N.up(x), 0) for x in (z.hi - z.c, z.c - z.lo))
            z.radius = np.maximum(z.up, z.down)
            if len(u):  # νᵀz ≥ νᵀz − Σ β s (z − t): rows −β s of δ, and a cost of β s (c − t)
                at, row = np.unique(u, return_inverse=True)
                np.add.at(V := np.zeros((len(at), B)), (row, b), -s * beta)
                most = float(below(np.bincount(b, beta, B), N.row).max())
                X, h = N.coarse(s * (z.c[u, b] - t), 2.0**52 / max(1.0, most))
                size = np.bincount(b, beta * (np.abs(X) + z.radius[u, b]), B)
                cost = np.bincount(b, beta * X, B) * (h / N.dual)
                self.pull[i] = at, V, N.up(cost, size)

    def tighten(self, i: int) -> None:
        """Bound by rows those entries of node i whose sign is open, a place at a time."""
        z, op = self.values[i], self.proof.ops[i - 1]
        unit, owner = np.nonzero((z.lo < 0) & (z.hi > 0))
        for some in groups(unit % op.p if op.n > op.p else 0 * unit, len(unit)):
            u, b, none = unit[some], owner[some], np.full(len(some), -1)
            low = self.least(i, u, none, b, none + 2)
            high = 2 * z.c[u, b] - low if self.slopes is True else -self.least(i, u, none, b, none)
            z.lo[u, b] = np.maximum(z.lo[u, b], low)
            z.hi[u, b] = np.minimum(z.hi[u, b], self.N.up(high))

    def least(self, i: int, y: Any, k: Any, b: Any, sign: Any, pull: bool = False) -> np.ndarray:
        """Return lower bounds [R] on sign (z_y − z_k) of node i over sets b; z_k is 0 for k < 0."""
        found, c = np.zeros(len(y)), self.values[i].c
        for some in groups(np.zeros(len(y)), max(1, ENTRIES // max(4096, self.proof.wide))):
            at, columns = np.unique(np.append(y[some], k[some])), np.arange(len(some))
            V = np.zeros((len(at), len(some)))
            V[np.searchsorted(at, y[some]), columns] += sign[some]
            V[np.searchsorted(at, k[some]), columns] -= sign[some]
            at, V = at[at >= 0], V[at >= 0]
            along = (V * c[at][:, b[some]]).sum(0)
            fall = self.fall(i, at, V * self.N.dual, b[some], pull)
            found[some] = -self.N.up(fall - along, np.abs(along))
        return found

    def fall(self, i: int, at: np.ndarray, V: np.ndarray, owner: Any, pull: bool) -> np.ndarray:
        """Return d [R] with Vδ ≥ −d, for rows V at entries ``at`` of node i over sets ``owner``."""
        N, waiting, total = self.N, {i: [(at, V, 0)]}, np.zeros(len(owner))
        for j in range(i, -1, -1):
            need(time.monotonic() < self.proof.end, "--seconds are over", "unsupported")
            if pull and j in self.pull:
                where, rows, cost = self.pull[j]
                waiting.setdefault(j, []).append((where, rows[:, owner], 0))
                total = N.up(total + cost[owner])
            if j not in waiting:
                continue
            parts, z, start = waiting.pop(j), self.values[j], 0
            at = parts[0][0] if len(parts) == 1 else np.unique(np.hstack([p[0] for p in parts]))
            V = parts[0][1] if len(parts) == 1 else np.zeros((len(at), len(owner)))
            for where, rows, times in parts:
                if len(parts) > 1:
                    V[np.searchsorted(at, where)] += below(rows, N.row / len(parts))
                if times:  # how often these were rounded
                    lost = below(z.radius[where].sum(0) * times, N.exact) * (N.half / N.dual)
                    total = N.up(total + N.up(lost)[owner])
            if j == 0:
                return N.up(total + self.support(at, V, owner))
            charged = [(np.maximum(V, 0), z.below), (np.maximum(-V, 0), z.above)]
            for rows, e in charged if z.below is not z.above else [(np.abs(V), z.below)]:
                total = N.up(total + N.charge(rows, e[at], owner))
            at, V, times = self.proof.ops[j - 1].back(z, at, V, owner)
            for source in self.proof.nodes[j - 1]:
                own = slice(*np.searchsorted(at, [start, start + self.proof.sizes[source]]))
                waiting.setdefault(source, []).append((at[own] - start, V[own], times))
                start += self.proof.sizes[source]
        return total

    def support(self, at: np.ndarray, V: np.ndarray, owner: np.ndarray) -> np.ndarray:
        """Return at least −Vδ over the sets: Σ|V|r or ε‖V‖_*; centers of balls are off by half."""
        V, N = np.abs(V), self.N
        box = N.charge(V, self.values[0].radius[at], owner)
        if not self.ball:
            return box
        norm, (X, h) = V.max(0, initial=0), N.coarse(V, 2.0**19)
        if self.proof.power == 2:
            root = np.sqrt(N.up(below((X * X).sum(0), N.exact)))
            norm = N.up(root) if N.g else (np.floor(root) + 1) * h
        moved = N.charge(V.sum(0)[None], 0 * self.ball[1][None] + N.half, owner)
        return np.minimum(box, N.up(N.charge(norm[None], self.ball[1][None], owner) + moved))


class Proof:
    """A network, sets of inputs, trees of their parts and claims, as a file has them."""

    def __init__(self, nodes: Any, arrays: Any, seconds: float = np.inf, floats: bool = False):
        self.nodes, self.arrays, self.end = nodes, arrays, time.monotonic() + seconds
        head = self.array("head", "i", 4, low=[-60, 0, 1, 0], high=[80, 40, LARGEST, 2]).tolist()
        self.numbers, self.sizes, self.power = Numbers(head, floats), [head[2]], head[3]
        self.ops, self.relus, room = list[Any](), 0, MANY
        need(type(nodes) is list and 0 < len(nodes) <= 4096, "nodes: none, or too many")
        for i, inputs in enumerate(nodes, 1):
            right = 0 < len(inputs) <= 64 and all(type(j) is int and 0 <= j < i for j in inputs)
            need(right, f"node {i}: it reads no earlier nodes")
            n = size = sum(self.sizes[j] for j in inputs)
            if f"W{i}" in arrays:
                W = self.array(f"W{i}", "f", None, None, None)
                index = self.array(f"I{i}", "i", len(W), W.shape[2], None, low=-1, high=size - 1)
                b = self.array(f"b{i}", "f", *W.shape[:2], None)
                need(b.shape[2] in (1, index.shape[2]), f"node {i}: its bias does not fit")
                n, room = W[..., 0].size * index.shape[2], room - W.size - index.size
                need(max(n, size) <= LARGEST and room >= 0, "the network is too large")
                self.ops.append(Affine(self.numbers, W, index, b, size))
            else:
                need(len(inputs) == 1, f"node {i}: a ReLU of several")
                self.ops.append(Relu(n, self.relus))
                self.relus += n
            self.sizes.append(n)
            need(sum(self.sizes) <= LARGEST, "the network is too large")
        n, self.box, self.ball = head[2], list[Any](), list[Any]()
        if "lower" in arrays:
            self.box = [self.array(name, "f", None, n) for name in ("lower", "upper")]
        if "x" in arrays:
            self.ball = [x := self.array("x", "f", None, n), self.array("eps", "f", len(x), low=0)]
        self.count = len((self.ball or self.box or [()])[0])
        need(self.count and {*map(len, self.box)} <= {1, self.count}, "lower: not of each set")
        self.wide = max([op.wide for op in self.ops] + self.sizes)
        self.together = min(TOGETHER, max(1, ENTRIES // (sum(self.sizes) + self.wide)))
        self.numbers.g *= sum(self.sizes) + self.wide + 64 * i + max(op.terms for op in self.ops)

    def array(self, name: str, kind: str, *shape: Any, low: Any = -1e300, high: Any = 1e300) -> Any:
        """Return an array of floats, whole numbers or bytes, of a shape and range where known."""
        array: np.ndarray = self.arrays.get(name, np.zeros(()))
        right = array.dtype.kind == kind and array.ndim == len(shape)
        right = right and all(n in (None, m) for n, m in zip(shape, array.shape, strict=True))
        array = array.astype(np.float64 if kind == "f" else np.int64)
        need(right and ((array >= low) & (array <= high)).all(), f"{name}: missing, or not as said")
        return array

    def sets(self, N: Numbers, some: np.ndarray) -> tuple[Any, Any, Any]:
        """Return the ends [n, B] of boxes around sets; centers and radii, if they are balls."""
        lo, hi, ball = np.array(-np.inf), np.array(np.inf), None
        if self.box:
            lower, upper = (end[some * (len(end) > 1)].T * N.unit for end in self.box)
            lo, hi = -N.up(-lower), N.up(upper)
        if self.ball:
            x, eps = self.ball[0][some].T * N.unit, N.up(self.ball[1][some] * N.unit)
            lo, hi = np.maximum(lo, -N.up(N.up(-x) + eps)), np.minimum(hi, N.up(N.up(x) + eps))
            ball = (below(N.near(x), N.value), eps) if self.power else None
        need((lo <= hi).all(), "sets: one is empty")
        return lo, hi, ball

    def walk(self) -> None:
        """Read claims, and trees: each part, all of its half z ≤ t, all of its half z ≥ t."""
        N, path, owner = self.numbers, list[Any](), list[int]()
        self.trees = self.array("trees", "i", None, 3, low=0, high=[self.count - 1, 1, 2**16])
        cuts = self.array("cuts", "i", None, 2, low=[-1, 0], high=[len(self.sizes) - 1, LARGEST])
        need((cuts[:, 1] < np.array(self.sizes)[cuts[:, 0]]).all(), "cuts: no entry of a node")
        todo: list[Any] = [(tree, ()) for tree in range(len(self.trees))][::-1]
        for part, node in enumerate(cuts[:, 0].tolist()):
            need(todo and part < LARGEST, f"part {part}: it belongs to no tree, or is too much")
            tree, above = todo.pop()
            if node >= 0:
                todo += [(tree, (above, part, 1)), (tree, (above, part, -1))]
                continue
            while above:
                path.append((len(owner), *above[1:]))
                above = above[0]
            owner.append(tree)
            need(len(path) <= LARGEST, "the trees are too large", "unsupported")
        need(not todo, f"{len(todo)} parts are missing")
        leaf, parts, sign = np.array(path, np.int64).reshape(-1, 3).T
        at = self.array("at", "f", len(cuts))[parts]
        beta = self.array("beta", "f", len(leaf), low=0) if len(leaf) else np.zeros(0)
        self.owner = np.array(owner)
        self.cuts = np.stack([*cuts[parts].T, leaf, sign, at, N.near(beta * N.dual)])
        self.rows = self.array("rows", "i", None, 2, low=[0, -1], high=self.sizes[-1] - 1)
        self.least = self.array("least", "f", len(self.rows))
        need(self.trees[:, 2].sum() == len(self.rows), "trees: they have another number of rows")
        self.way, self.alpha = self.array("way", "u", len(self.sizes), high=1), np.zeros((0, 0))
        if "alpha" in self.arrays:
            self.alpha = self.array("alpha", "u", None, self.relus, high=128) / 128
        most = [len(self.alpha) - 1, 1, 1, 40]
        self.leaves = self.array("leaves", "i", len(owner), 4, low=[-1, 0, 0, 0], high=most)

    def check(self) -> str:
        """Check all claims: bound sets, then the leaves in them; return how many there are."""
        self.walk()
        of, count, last = self.trees[self.owner, 0], self.trees[:, 2], np.cumsum(self.trees[:, 2])
        kinds, way = self.leaves @ [0, 1, 0, 4] + 2 * (self.leaves[:, 0] >= 0), self.way
        for sets in groups(np.zeros(self.count), self.together):
            whole = Bounds(self, self.numbers, sets, bool(way[0]), way, [], self.cuts[:, :0])
            inside = np.flatnonzero(np.isin(of, sets))
            for mine in (inside[part] for part in groups(kinds[inside], self.together)):
                alpha, again, scale, finer = self.leaves[mine].T
                N, at, more = copy(self.numbers), np.searchsorted(sets, of[mine]), 2.0 ** finer[0]
                N.unit *= more
                base = [np.stack([z.lo, z.hi])[:, :, at] * more for z in whole.values]
                own = np.searchsorted(self.cuts[2], [mine, mine + 1]).T
                cuts = self.cuts[:, np.concatenate([np.arange(*ends) for ends in own])]
                cuts[2] = np.searchsorted(mine, cuts[2])
                slopes = self.alpha[alpha].T if alpha[0] >= 0 else whole.slopes
                bounds = Bounds(self, N, of[mine], slopes, way * again[0], base, cuts)
                tree = self.owner[mine]
                leaf = np.repeat(np.arange(len(mine)), count[tree])
                row = np.concatenate([np.arange(last[t] - count[t], last[t]) for t in tree])
                y, k = self.rows[row].T
                lower = bounds.least(len(self.ops), y, k, leaf, scale[leaf], True)
                holds = lower / N.unit > self.least[row] * scale[leaf]
                right, wrong = (np.bincount(leaf[x], minlength=len(mine)) for x in (holds, ~holds))
                proved = bounds.empty | np.where(self.trees[tree, 1] > 0, right > 0, wrong == 0)
                told = (lower[leaf == proved.argmin()] / N.unit).tolist()[:9]
                need(proved.all(), f"leaf {mine[proved.argmin()]}: of its rows only {told}")
        return f"{self.count} sets, {len(self.rows)} claims, {len(self.owner)} leaves"


@np.errstate(over="raise", invalid="raise", divide="raise")
def check(path: Any, seconds: float = np.inf, floats: bool = False) -> tuple[str, str]:
    """Return "valid", "invalid" or "unsupported", and what there is to say about it."""
    try:
        nodes, arrays = read(path)
        found, told = Proof(nodes, arrays, seconds, floats).check(), hashlib.sha256()
        told.update(f"{nodes} {arrays['head'][2]} ".encode())
        for name, a in sorted((name, a) for name, a in arrays.items() if name[1:].isdigit()):
            told.update(f"{name} {a.dtype.str} {a.shape} ".encode() + a.tobytes())
        return "valid", f"{found}; network {told.hexdigest()}"
    except Unproved as error:
        return error.args[0], error.args[1]
    except MemoryError:
        return "unsupported", "it takes more memory than there is"
    except Exception as error:  # whatever garbage does here, it is no proof
        return "invalid", f"{type(error).__name__}: {str(error)[:80]!r}"
