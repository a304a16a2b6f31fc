"""A second reading of proofs, which shares nothing with the checker: plain float64, dense matrices.

``Read`` takes a file apart by the format's description; ``derived`` finds the bounds that the
checker should find of each leaf, by the same relaxation without rounding; ``violated`` looks for
points at which a claim is wrong.
"""

import json
import math
import zlib
from dataclasses import dataclass

import numpy as np


class Read:
    """A file: what nodes read, and arrays."""

    def __init__(self, raw: bytes) -> None:
        line, _, rest = raw.partition(b"\n")
        assert line == b"autodual-proof 3"
        size = int.from_bytes(rest[:8], "little")
        self.header = json.loads(rest[8 : 8 + size])
        data, start, self.arrays = zlib.decompress(rest[8 + size :]), 0, {}
        for name, dtype, shape in self.header["arrays"]:
            count = math.prod(shape)
            array = np.frombuffer(data, dtype, count, start)
            self.arrays[name], start = array.reshape(shape), start + array.nbytes

    def __getitem__(self, name):
        return self.arrays[name].astype(np.float64)

    @property
    def power(self):
        return int(self.arrays["head"][3])

    def packed(self) -> bytes:
        """Return the file with what was changed."""
        arrays = {k: np.ascontiguousarray(a) for k, a in self.arrays.items()}
        listed = [[k, a.dtype.str, list(a.shape)] for k, a in arrays.items()]
        told = json.dumps({**self.header, "arrays": listed}).encode()
        data = zlib.compress(b"".join(a.tobytes() for a in arrays.values()))
        return b"autodual-proof 3\n" + len(told).to_bytes(8, "little") + told + data

    def boxes(self):
        """Return the ends [N, n] of boxes that hold the sets."""
        low, high = -np.inf, np.inf
        if "x" in self.arrays:
            low, high = self["x"] - self["eps"][:, None], self["x"] + self["eps"][:, None]
        if "lower" in self.arrays:
            low, high = np.maximum(low, self["lower"]), np.minimum(high, self["upper"])
        return low, high

    def matrices(self):
        """Return each node as (inputs, A, b), or (inputs, None, None) for a ReLU."""
        sizes, found = [int(self.arrays["head"][2])], []
        for i, inputs in enumerate(self.header["nodes"], 1):
            n = sum(sizes[j] for j in inputs)
            if f"W{i}" not in self.arrays:
                found.append((inputs, None, None))
                sizes.append(n)
                continue
            W, index, b = self[f"W{i}"], self.arrays[f"I{i}"], self[f"b{i}"]
            (g, m, k), p = W.shape, index.shape[2]
            A = np.zeros((g, m, p, n))
            for group in range(g):
                for j in range(k):
                    for place in range(p):
                        if index[group, j, place] >= 0:
                            A[group, :, place, index[group, j, place]] += W[group, :, j]
            b = np.broadcast_to(b, (g, m, p)).reshape(-1)
            found.append((inputs, A.reshape(-1, n), b))
            sizes.append(g * m * p)
        return found

    def run(self, x):
        """Return the values of all nodes at points [N, n]."""
        values = [x]
        for inputs, A, b in self.matrices():
            z = np.concatenate([values[j] for j in inputs], 1)
            values.append(np.maximum(z, 0) if A is None else z @ A.T + b)
        return values

    def points(self, count, generator):
        """Return points [count, N, n] of the sets: corners, edges, inner ones."""
        low, high = self.boxes()
        t = generator.random((count, *low.shape))
        t = np.where(generator.random((count, *low.shape)) < 0.7, np.rint(t), t)
        x = low + t * (high - low)
        if self.power and "x" in self.arrays:
            center, eps = self["x"], self["eps"]
            step = x - center
            size = np.linalg.norm(step, self.power, axis=2)
            keep = np.minimum(1, eps / np.maximum(size, 1e-300))
            x = center + step * keep[..., None]
            outside = (x < low) | (x > high)  # where a domain does not hold the center
            x[outside.any(2)] = np.nan
        return x

    def leaves(self):
        """Return for each leaf its tree, and node, entry, sign, t, β of what was cut above it."""
        cuts, at = self.arrays["cuts"].tolist(), self["at"]
        beta = iter(self["beta"].tolist()) if "beta" in self.arrays else iter([])
        parts, found = iter(range(len(cuts))), []

        def grow(tree, path):
            part = next(parts)
            node, entry = cuts[part]
            if node < 0:
                found.append((tree, [(*cut, next(beta)) for cut in path]))
                return
            for sign in (-1, 1):
                grow(tree, [(node, entry, sign, float(at[part])), *path])

        for tree in range(len(self.arrays["trees"])):
            grow(tree, [])
        return found

    def claims(self, tree):
        """Return y, k and least of the rows of a tree."""
        count = self.arrays["trees"][:, 2]
        mine = slice(int(count[:tree].sum()), int(count[: tree + 1].sum()))
        return *self.arrays["rows"][mine].astype(np.int64).T, self["least"][mine]


def violated(read: Read, count: int = 200, seed: int = 0, tolerance: float = 1e-7) -> bool:
    """Return whether a claim is wrong at some point that is tried."""
    x = read.points(count, np.random.default_rng(seed))
    z = read.run(x.reshape(-1, x.shape[2]))[-1].reshape(*x.shape[:2], -1)
    room = tolerance * (1 + np.nanmax(np.abs(z), initial=0))
    for tree, (of, any_, _) in enumerate(read.arrays["trees"]):
        y, k, least = read.claims(tree)
        own, zero = z[:, of], np.zeros((count, 1))
        rows = np.concatenate([own, zero], 1)
        wrong = rows[:, y] - rows[:, k] < least - room
        if bool((wrong.all(1) if any_ else wrong.any(1)).any()):
            return True
    return False


@dataclass
class _Box:
    """The relaxation of one node, as far as it is known."""

    c: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    lines: tuple = ()


class Relaxed:
    """A set of a file, or a part of it, as the way and the leaf of the file relax it."""

    def __init__(self, read, example, slopes, rows, base=None, cuts=()):
        self.read, self.example, self.nodes, self.cuts = read, example, read.matrices(), cuts
        low, high = (end[example] for end in read.boxes())
        self.ball = bool(read.power) and "x" in read.arrays
        self.known, start, self.empty = [_Box(low, low, high)], 0, False
        for i in range(len(self.nodes) + 1):
            if i > 0:
                self.known.append(self.forward(*self.nodes[i - 1], slopes, start))
                start += 0 if self.nodes[i - 1][1] is not None else len(self.known[-1].c)
            box = self.known[i]
            box.lo, box.hi = box.lo.copy(), box.hi.copy()
            if base is not None:
                box.lo = np.maximum(box.lo, base[i].lo)
                box.hi = np.minimum(box.hi, base[i].hi)
            for node, entry, sign, t, _ in cuts:
                if node == i and sign > 0:
                    box.lo[entry] = max(box.lo[entry], t)
                elif node == i:
                    box.hi[entry] = min(box.hi[entry], t)
            if i == 0:
                box.c = read["x"][example] if self.ball else (box.lo + box.hi) / 2
            if i in rows:
                for u in np.flatnonzero((box.lo < 0) & (box.hi > 0)):
                    unit = np.eye(len(box.c))[u]
                    box.lo[u] = max(box.lo[u], box.c[u] - self.fall(i, unit))
                    box.hi[u] = min(box.hi[u], box.c[u] + self.fall(i, -unit))
            self.empty |= bool((box.lo > box.hi + 1e-9 * (1 + np.abs(box.hi))).any())
            box.hi = np.maximum(box.lo, box.hi)

    def forward(self, inputs, A, b, slopes, start):
        c, lo, hi = (
            np.concatenate([getattr(self.known[j], e) for j in inputs]) for e in ("c", "lo", "hi")
        )
        if A is not None:
            plus, minus = np.maximum(A, 0), np.minimum(A, 0)
            return _Box(A @ c + b, plus @ lo + minus @ hi + b, plus @ hi + minus @ lo + b)
        open_ = (lo < 0) & (hi > 0)
        s = np.where(open_, hi / np.where(open_, hi - lo, 1), lo >= 0)
        h = np.where(open_, -s * lo, 0)
        if isinstance(slopes, str):
            a = s if slopes == "equal" else c > 0
        else:
            a = slopes[start : start + len(c)]
        a = np.where(open_, a, s)
        middle = (a * c + s * c + h) / 2
        lines = a, s, middle - a * c, s * c + h - middle
        return _Box(middle, np.maximum(lo, 0), np.maximum(hi, 0), lines)

    def support(self, nu):
        box = self.known[0]
        along = np.abs(nu) @ np.maximum(box.hi - box.c, box.c - box.lo)
        if not self.ball:
            return along
        dual = np.inf if self.read.power == 1 else 2
        return min(along, self.read["eps"][self.example] * np.linalg.norm(nu, dual))

    def fall(self, i, row, cuts=()):
        """Return how far row z can fall below its value at the center, less what cuts add."""
        nu, total = {i: row}, 0.0
        for node, entry, sign, t, beta in cuts:
            unit = np.eye(len(self.known[node].c))[entry]
            nu[node] = nu.get(node, 0) - sign * beta * unit
            total += sign * beta * (self.known[node].c[entry] - t)
        for j in range(max(nu), 0, -1):
            if j not in nu:
                continue
            v, (inputs, A, _) = nu.pop(j), self.nodes[j - 1]
            if A is None:
                a, s, below, above = self.known[j].lines
                total += np.maximum(v, 0) @ below + np.maximum(-v, 0) @ above
                back = np.maximum(v, 0) * a - np.maximum(-v, 0) * s
            else:
                back = v @ A
            start = 0
            for source in inputs:
                n = len(self.known[source].c)
                nu[source] = nu.get(source, 0) + back[start : start + n]
                start += n
        return total + (self.support(nu[0]) if 0 in nu else 0)

    def least(self, y, k, scale):
        """Return a lower bound on scale (z_y − z_k)."""
        c = self.known[-1].c
        row = np.eye(len(c) + 1)[y] - np.eye(len(c) + 1)[k]
        row = scale * row[:-1]
        return row @ c - self.fall(len(self.nodes), row, self.cuts)


def derived(read: Read):
    """Yield for each leaf its tree, whether it is empty, its scale, and the bounds of its rows."""
    equal, *way = read.arrays["way"].tolist()
    rows = [i for i, row in enumerate(way, 1) if row]
    rule = "equal" if equal else "free"
    whole = {}
    for (tree, cuts), (alpha, again, scale, _) in zip(
        read.leaves(), read.arrays["leaves"].tolist(), strict=True
    ):
        example = int(read.arrays["trees"][tree, 0])
        if example not in whole:
            whole[example] = Relaxed(read, example, rule, rows)
        slopes = rule if alpha < 0 else read["alpha"][alpha] / 128
        base = whole[example].known
        leaf = Relaxed(read, example, slopes, rows if again else (), base, cuts)
        y, k, _ = read.claims(tree)
        yield (
            tree,
            leaf.empty,
            scale,
            np.array([leaf.least(*row, scale) for row in zip(y, k, strict=True)]),
        )


def holds(read: Read, tolerance: float = 1e-6) -> bool:
    """Return whether what is derived proves what is claimed, but for so much."""
    for tree, empty, scale, lower in derived(read):
        right = lower > scale * (read.claims(tree)[2] - tolerance * (1 + np.abs(lower)))
        proved = right.any() if read.arrays["trees"][tree, 1] else right.all()
        if not (empty or proved):
            return False
    return True
