"""The network in fixed point: affine nodes and ReLUs, forward for values and back for rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autodual_check.numbers import (
    EXACT,
    MOST,
    SLOPE,
    WEIGHT,
    Unsupported,
    below,
    coarse,
    digits,
    near,
    product,
    shifted,
)

PARTS = 3
"""Of how many parts of WEIGHT bits the weights that carry centers are made, at most."""

Rows = tuple[np.ndarray, np.ndarray]
"""(at, V): rows are columns of V [len(at), R] for the entries ``at`` of a value, and 0 elsewhere."""


class Values:
    """What is proved of z = c + δ for B examples, in units: lo ≤ z ≤ hi, int64 [n, B]."""

    def __init__(self, c: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> None:
        self.c, self.lo, self.hi = (below(x, MOST, "a value") for x in (c, lo, hi))
        self.measure()

    def measure(self) -> None:
        """See how far δ may rise and fall, and how large |δ| may be."""
        self.up, self.down = np.maximum(self.hi - self.c, 0), np.maximum(self.c - self.lo, 0)
        self.radius = np.maximum(self.up, self.down).astype(np.float64)

    def tighten(self, i: np.ndarray, b: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> None:
        """Intersect the entries i of the examples b with further bounds."""
        self.lo[i, b] = np.maximum(self.lo[i, b], lo)
        self.hi[i, b] = np.minimum(self.hi[i, b], hi)


def charge(V: np.ndarray, e: np.ndarray, owner: np.ndarray, dual: int) -> np.ndarray:
    """Return ⌈Σᵢ Vᵢeᵢ·2^-dual⌉ or a little more, int64 [R], for whole V ≥ 0 [n, R] and e [n, B]."""
    total = float(V.sum(0).max()) if V.size else 0.0
    if not total < 2.0**48:
        raise Unsupported("dual variables are too large for their unit")
    e, h = coarse(e, 2.0**52 / max(total, 1.0))
    sums = np.ceil(shifted(np.einsum("ir,ir->r", V, e[:, owner]), h - dual))
    return below(sums, 2.0**50, "a sum of errors").astype(np.int64)


class Touched:
    """Which entries some gathered columns read, ``at``, and which columns read each of them."""

    def __init__(self, where: np.ndarray, size: int) -> None:
        flat = where.ravel()
        order = np.argsort(flat, kind="stable")[: int((flat < size).sum())]
        self.at, start, count = np.unique(flat[order], return_index=True, return_counts=True)
        most = int(count.max()) if len(count) else 0
        if len(self.at) * most > 2**26:
            raise Unsupported("an entry is read too often")
        self.readers = np.full((most, len(self.at)), flat.size)
        for d in range(most):
            self.readers[d, count > d] = order[start[count > d] + d]
        self.alone = most == 1 and np.array_equal(self.readers[0], np.arange(flat.size))

    def add(self, padded: np.ndarray) -> np.ndarray:
        """Add up what the readers of each entry say: rows of [L + 1, R], of which the last is 0."""
        if self.alone:
            return padded[:-1]
        total = np.zeros((len(self.at), padded.shape[1]))
        for readers in self.readers:
            total += padded[readers]
        return total


class Affine:
    """z = W·cat[index] + b, for g groups of m outputs at p places that read k entries each.

    W [g, m, k]; index [g, k, p] of entries of the inputs in a row, −1 for a zero; b [g, m, 1 or p];
    the output [g, m, p] lies flat. For a convolution ``index`` has the windows.
    """

    relu = False

    def __init__(
        self,
        inputs: list[int],
        W: np.ndarray,
        index: np.ndarray,
        b: np.ndarray,
        size: int,
        unit: int,
    ) -> None:
        self.inputs, self.size, self.unit = inputs, size, unit
        (self.g, self.m, self.k), self.p = W.shape, index.shape[2]
        self.n = self.g * self.m * self.p
        self.where = np.where(index < 0, size, index).astype(np.int64)
        self.b = np.broadcast_to(b, (self.g, self.m, self.p)).reshape(-1, 1)
        self.w = WEIGHT - int(np.frexp(np.abs(W).max())[1])
        rest, self.parts = shifted(W, self.w), []
        while not self.parts or (rest.any() and len(self.parts) < PARTS):
            self.parts.append(np.rint(rest))
            rest = shifted(rest - self.parts[-1], WEIGHT)
        self.whole = not rest.any()
        self.down = np.ascontiguousarray(self.parts[0].transpose(0, 2, 1))
        self.touched: dict[bytes, Touched] = {}

    def read(self, x: np.ndarray) -> np.ndarray:
        """Return what each place reads of x [size, B], [g, k, p·B]."""
        padded = np.concatenate([x, np.zeros((1, x.shape[1]))])
        return padded[self.where].reshape(self.g, self.k, -1)

    def forward(self, inputs: Sequence[Values]) -> Values:
        """Find c = W c_in + b up to rounding, e, and what interval arithmetic proves about c.

        With Ŵ the first part of W, δ = Ŵ δ_in ± e: e makes good for the other parts, and for what
        rounding took from c.
        """
        c_in, up, down, radius = (
            np.concatenate([getattr(z, name) for z in inputs])
            for name in ("c", "up", "down", "radius")
        )
        B, bits = c_in.shape[1], 53 - WEIGHT - self.k.bit_length()
        c, halves = near(self.b, self.unit) + np.zeros((self.n, B)), 1
        for t, digit in enumerate(digits(c_in, bits)):
            read = self.read(digit)
            for s, part in enumerate(self.parts):
                sums = product(part, read, self.k).reshape(self.n, B)
                c += below(near(sums, t * bits - self.w - s * WEIGHT), 2.0**46, "a value")
                halves += 1
        e = np.full((self.g, 1, self.p, B), (halves + 1) // 2, np.float64)
        if not self.whole:
            beyond = np.abs(self.read(c_in)).sum(1).reshape(e.shape)
            last = self.w + (len(self.parts) - 1) * WEIGHT
            e += np.ceil(shifted(below(beyond, EXACT, "a sum"), -last - 1))
        if len(self.parts) > 1:
            spread = self.read(radius).sum(1).reshape(e.shape)
            e += np.ceil(shifted(below(spread, EXACT, "a sum"), -self.w - 1))
        self.e = np.broadcast_to(e, (self.g, self.m, self.p, B)).reshape(self.n, B)
        (up, down), h = coarse(np.stack([up, down]), 2.0 ** (bits - 2))
        both = product(np.abs(self.parts[0]), self.read(up + down), self.k)
        apart = product(self.parts[0], self.read(up - down), self.k)
        rise, fall = (
            np.ceil(shifted(x.reshape(self.n, B), h - self.w - 1)) + self.e
            for x in (both + apart, both - apart)
        )
        ends = (below(x, MOST, "a value").astype(np.int64) for x in (c, c - fall, c + rise))
        return Values(*ends)

    def back(self, rows: Rows, owner: np.ndarray, dual: int) -> tuple[Rows, np.ndarray, int]:
        """Return rows for the inputs, Ŵᵀ V up to rounding, what e costs, and how many halves."""
        at, V = rows
        paid, R = charge(np.abs(V), self.e[at], owner, dual), V.shape[1]
        places, of = np.unique(at % self.p, return_inverse=True)
        full = np.zeros((self.g * self.m, len(places), R))
        full[at // self.p, of] = V
        key = places.tobytes()
        if key not in self.touched:
            self.touched[key] = Touched(self.where[:, :, places], self.size)
        touched = self.touched[key]
        terms = self.m * max(1, len(touched.readers))
        cut, length = 53 - WEIGHT - terms.bit_length(), self.g * self.k * len(places)
        total, halves = np.zeros((len(touched.at), R)), 0
        for t, digit in enumerate(digits(full.reshape(self.g, self.m, -1), cut)):
            padded = np.zeros((length + 1, R))
            shape = self.g, self.k, len(places) * R
            product(self.down, digit, terms, out=padded[:-1].reshape(shape))
            total += below(near(touched.add(padded), t * cut - self.w), 2.0**46, "a dual variable")
            halves += 1
        return (touched.at, total), paid, halves


class Relu:
    """z = max(z_in, 0), between two lines wherever 0 lies inside of what is proved of z_in."""

    relu = True

    def __init__(self, source: int, n: int, free: bool) -> None:
        self.inputs, self.n, self.p, self.free = [source], n, 1, free

    def forward(self, inputs: Sequence[Values]) -> Values:
        """Find lines around the op on its interval, and c in the middle between them.

        a z ≤ max(z, 0) ≤ s z + h, for any a in [0, 1] and s, with h the larger of what is missing
        at either end; in δ and units, a δ_in − below ≤ δ ≤ s δ_in + above.
        """
        (z,) = inputs
        one, c, lo, hi = 1 << SLOPE, z.c, z.lo, z.hi
        self.open = (lo < 0) & (hi > 0)
        width = np.where(self.open, hi - lo, 1)
        s = np.rint(np.where(self.open, one * (hi / width), one * (lo >= 0))).astype(np.int64)
        a = np.where(self.open & self.free, one * (c > 0), s)
        h = np.where(self.open, np.maximum(-s * lo, (one - s) * hi), 0)
        least, most = a * c, s * c + h
        own = (least + most) >> (SLOPE + 1)
        self.below = (own - (least >> SLOPE)).astype(np.float64)
        self.above = ((-(-most >> SLOPE)) - own).astype(np.float64)
        self.a, self.s = a * 2.0**-SLOPE, s * 2.0**-SLOPE
        self.both = np.maximum(self.below, self.above)
        return Values(own, np.maximum(lo, 0), np.maximum(hi, 0))

    def back(self, rows: Rows, owner: np.ndarray, dual: int) -> tuple[Rows, np.ndarray, int]:
        """Return rows for the input, what the lines cost, and how many halves rounding took.

        For the least value of Vδ: the lower line where V > 0, the upper one where V < 0.
        """
        at, V = rows
        below(V, 2.0 ** (53 - SLOPE), "a dual variable")

        def mine(x: np.ndarray) -> np.ndarray:
            return x[at][:, owner]

        if not self.free:
            return (at, np.rint(V * mine(self.s))), charge(np.abs(V), self.both[at], owner, dual), 1
        rising, falling = np.maximum(V, 0), np.maximum(-V, 0)
        paid = charge(rising, self.below[at], owner, dual)
        paid += charge(falling, self.above[at], owner, dual)
        return (at, np.rint(rising * mine(self.a) - falling * mine(self.s))), paid, 1
