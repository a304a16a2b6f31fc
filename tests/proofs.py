"""A second reading of proofs, which shares nothing with the checker: plain float64, dense matrices.

``Read`` takes a file apart by the format's description; ``derived`` finds the margins that the
checker should find, by the same relaxation without rounding; ``violated`` looks for points at which
a claim is wrong.
"""

import json
import math
import zlib
from dataclasses import dataclass

import numpy as np


class Read:
    """A file: header and arrays."""

    def __init__(self, raw: bytes) -> None:
        line, _, rest = raw.partition(b"\n")
        assert line == b"autodual-proof 1"
        size = int.from_bytes(rest[:8], "little")
        self.header = json.loads(rest[8 : 8 + size])
        data, start, self.arrays = zlib.decompress(rest[8 + size :]), 0, {}
        for name, dtype, shape in self.header["arrays"]:
            count = math.prod(shape)
            array = np.frombuffer(data, dtype, count, start)
            self.arrays[name], start = array.reshape(shape), start + array.nbytes

    def __getitem__(self, name):
        return self.arrays[name].astype(np.float64)

    def packed(self) -> bytes:
        """Return the file with what was changed."""
        arrays = {k: np.ascontiguousarray(a) for k, a in self.arrays.items()}
        listed = [[k, a.dtype.str, list(a.shape)] for k, a in arrays.items()]
        told = json.dumps({**self.header, "arrays": listed}).encode()
        data = zlib.compress(b"".join(a.tobytes() for a in arrays.values()))
        return b"autodual-proof 1\n" + len(told).to_bytes(8, "little") + told + data

    def boxes(self):
        """Return the ends [N, n] of boxes that hold the sets."""
        said = self.header["set"]
        if said["kind"] == "box":
            return self[said["lower"]], self[said["upper"]]
        x, eps = self[said["x"]], self[said["eps"]][:, None]
        low, high = x - eps, x + eps
        if "lower" in said:
            low, high = np.maximum(low, self[said["lower"]]), np.minimum(high, self[said["upper"]])
        return low, high

    def matrices(self):
        """Return each node as (inputs, A, b), or (inputs, None, None) for a ReLU."""
        sizes, found = [self.header["input"]], []
        for op, inputs, *names in self.header["nodes"]:
            n = sum(sizes[j] for j in inputs)
            if op == "relu":
                found.append((inputs, None, None))
                sizes.append(n)
                continue
            W, index, b = self[names[0]], self.arrays[names[1]], self[names[2]]
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
        """Return the outputs at points [N, n]."""
        values = [x]
        for inputs, A, b in self.matrices():
            z = np.concatenate([values[j] for j in inputs], 1)
            values.append(np.maximum(z, 0) if A is None else z @ A.T + b)
        return values[-1]

    def points(self, count, generator):
        """Return points [count, N, n] of the sets: corners, edges, inner ones."""
        low, high = self.boxes()
        t = generator.random((count, *low.shape))
        t = np.where(generator.random((count, *low.shape)) < 0.7, np.rint(t), t)
        x = low + t * (high - low)
        if self.header["set"]["kind"] in ("l1", "l2"):
            center, eps = self[self.header["set"]["x"]], self[self.header["set"]["eps"]]
            order = 1 if self.header["set"]["kind"] == "l1" else 2
            step = x - center
            size = np.linalg.norm(step, order, axis=2)
            keep = np.minimum(1, eps / np.maximum(size, 1e-300))
            x = center + step * keep[..., None]
        return x


def violated(read: Read, count: int = 200, seed: int = 0, tolerance: float = 1e-7) -> bool:
    """Return whether a claim is wrong at some point that is tried."""
    said, generator = read.header["property"], np.random.default_rng(seed)
    x = read.points(count, generator)
    z = read.run(x.reshape(-1, x.shape[2])).reshape(*x.shape[:2], -1)
    room = tolerance * (1 + np.abs(z).max())
    if said["kind"] == "margins":
        labels = read.arrays[said["labels"]].astype(np.int64)
        own = np.take_along_axis(z, labels[None, :, None], 2)
        return bool((read[said["margins"]] > (own - z).min(0) + room).any())
    first, last = (read.arrays[said[e]] for e in ("first", "last"))
    k = np.arange(z.shape[2])
    asked = (first[:, None] <= k) & (k <= last[:, None])
    return bool((np.where(asked, z, -np.inf).max(2) < -room).any())


@dataclass
class _Box:
    """The relaxation of one example, as far as it is known."""

    c: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    lines: tuple = ()


def derived(read: Read, example: int) -> np.ndarray:
    """Return margins [K] on z_y − z_k by the relaxation that the example's way names."""
    said, set_ = read.header["property"], read.header["set"]
    slopes, rows = read.header["ways"][int(read.arrays[said["way"]][example])]
    low, high = (end[example] for end in read.boxes())
    ball = set_["kind"] in ("l1", "l2")
    x = read[set_["x"]][example] if ball else (low + high) / 2
    known, nodes = [_Box(x, low, high)], read.matrices()

    def support(nu):
        box = np.abs(nu) @ np.maximum(high - x, x - low)
        if not ball:
            return box
        dual = np.inf if set_["kind"] == "l1" else 2
        return min(box, read[set_["eps"]][example] * np.linalg.norm(nu, dual))

    def fall(i, row):
        nu = {i: row}
        total = 0.0
        for j in range(i, 0, -1):
            if j not in nu:
                continue
            v, (inputs, A, _) = nu.pop(j), nodes[j - 1]
            if A is None:
                a, s, below, above = known[j].lines
                total += np.maximum(v, 0) @ below + np.maximum(-v, 0) @ above
                back = np.maximum(v, 0) * a - np.maximum(-v, 0) * s
            else:
                back = v @ A
            start = 0
            for source in inputs:
                n = len(known[source].c)
                nu[source] = nu.get(source, 0) + back[start : start + n]
                start += n
        return total + (support(nu[0]) if 0 in nu else 0)

    for i, (inputs, A, b) in enumerate(nodes, 1):
        c, lo, hi = (
            np.concatenate([getattr(known[j], e) for j in inputs]) for e in ("c", "lo", "hi")
        )
        if A is not None:
            c = A @ c + b
            plus, minus = np.maximum(A, 0), np.minimum(A, 0)
            box = _Box(c, plus @ lo + minus @ hi + b, plus @ hi + minus @ lo + b)
        else:
            open_ = (lo < 0) & (hi > 0)
            s = np.where(open_, hi / np.where(open_, hi - lo, 1), lo >= 0)
            h = np.where(open_, -s * lo, 0)
            a = np.where(open_ & (slopes == "free"), c > 0, s)
            middle = (a * c + s * c + h) / 2
            box = _Box(middle, np.maximum(lo, 0), np.maximum(hi, 0))
            box.lines = a, s, middle - a * c, s * c + h - middle
        known.append(box)
        if i in rows:
            for u in np.flatnonzero((box.lo < 0) & (box.hi > 0)):
                unit = np.eye(len(box.c))[u]
                box.lo[u] = max(box.lo[u], box.c[u] - fall(i, unit))
                box.hi[u] = min(box.hi[u], box.c[u] + fall(i, -unit))
    z, y = known[-1], int(read.arrays[said["labels"]][example])
    margins = np.zeros(len(z.c))
    for k in range(len(z.c)):
        if k != y:
            row = np.eye(len(z.c))[y] - np.eye(len(z.c))[k]
            margins[k] = max(row @ z.c - fall(len(nodes), row), z.lo[y] - z.hi[k])
    return margins
