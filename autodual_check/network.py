"""The network in whole numbers: affine nodes and ReLUs, forward for values and back for rows.

Below 2^53 sums, differences and products of whole numbers in float64 are exact, in any order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autodual_check.reading import Unsupported

MOST, DUALS = 2.0**44, 2.0**46
"""Values and dual variables, in units, lie below."""

WEIGHT, PARTS, SLOPE = 24, 3, 16
"""Weights are made of up to PARTS numbers of WEIGHT bits; slopes have SLOPE bits."""

Rows = tuple[np.ndarray, np.ndarray]
"""(at, V): columns of V [len(at), R] are rows for the entries ``at`` of a value, else 0."""


def below(x: np.ndarray, most: float) -> np.ndarray:
    """Return x if every |x| is below ``most``."""
    if x.size and not max(float(x.max()), -float(x.min())) < most:
        raise Unsupported("a number is too large for the units that the file chose")
    return x


def shifted(x: np.ndarray, by: int) -> np.ndarray:
    """Return x·2^by in float64: exact, as exponents here stay far from the ends of their range."""
    return np.asarray(x, np.float64) * 2.0**by


def whole(x: np.ndarray) -> np.ndarray:
    """Return whole numbers in int64."""
    return below(x, MOST).astype(np.int64)


def coarse(x: np.ndarray, most: float) -> tuple[np.ndarray, int]:
    """Return whole numbers X and h ≥ 0 with X·2^h ≥ x and every |X| ≤ ``most``."""
    top, h = float(np.abs(x).max(initial=0)), 0
    while top * 2.0**-h > most - 1:
        h += 1
    return np.ceil(shifted(x, -h)), h


def digits(x: np.ndarray, bits: int) -> list[np.ndarray]:
    """Return X₀, X₁, … with Σ Xₜ·2^(t·bits) = x and every |Xₜ| < 2^bits."""
    if bits < 4:
        raise Unsupported("a sum has too many terms")
    found, most = [], 2.0**bits
    while x.size and not max(float(x.max()), -float(x.min())) < most:
        high = np.trunc(x / most)
        found.append(x - high * most)
        x = high
    return [*found, x]


def product(A: np.ndarray, X: np.ndarray, terms: int, out: np.ndarray | None = None) -> np.ndarray:
    """Return A X for whole numbers, exactly: ``terms`` such products may be added up."""
    tops = [max(float(x.max()), -float(x.min())) if x.size else 0.0 for x in (A, X)]
    if not tops[0] * tops[1] * terms < 2.0**53:
        raise Unsupported("a sum is too large for whole numbers in float64")
    return np.matmul(A, X, out=out)


def charge(V: np.ndarray, e: np.ndarray, owner: np.ndarray, dual: int) -> np.ndarray:
    """Return ⌈Σᵢ Vᵢeᵢ·2^-dual⌉ or a little more, int64 [R], for whole V ≥ 0 [n, R] and e [n, B]."""
    total = float(below(V.sum(0), 2.0**48).max(initial=1))
    e, h = coarse(e, 2.0**52 / total)
    sums = np.ceil(shifted(np.einsum("ir,ir->r", V, e[:, owner]), h - dual))
    return below(sums, 2.0**50).astype(np.int64)


class Values:
    """What is proved of z = c + δ for B examples, in units: lo ≤ z ≤ hi, int64 [n, B]."""

    def __init__(self, c: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> None:
        self.c, self.lo, self.hi = map(whole, (c, lo, hi))
        self.measure()

    def measure(self) -> None:
        """See how far δ may rise and fall, and how large |δ| may be."""
        self.up, self.down = np.maximum(self.hi - self.c, 0), np.maximum(self.c - self.lo, 0)
        self.radius = np.maximum(self.up, self.down).astype(np.float64)


class Touched:
    """Which entries some gathered columns read, ``at``, and which columns read each of them."""

    def __init__(self, where: np.ndarray, size: int) -> None:
        flat = where.ravel()
        order = np.argsort(flat, kind="stable")[: int((flat < size).sum())]
        self.at, start, count = np.unique(flat[order], return_index=True, return_counts=True)
        most = int(count.max(initial=0))
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
        self, W: np.ndarray, index: np.ndarray, b: np.ndarray, size: int, unit: int
    ) -> None:
        (self.g, self.m, self.k), self.p, self.unit = W.shape, index.shape[2], unit
        self.n, self.size = self.g * self.m * self.p, size
        self.where = np.where(index < 0, size, index).astype(np.int64)
        self.b = np.broadcast_to(b, (self.g, self.m, self.p)).reshape(-1, 1)
        self.w = WEIGHT - int(np.frexp(np.abs(W).max())[1])
        rest, self.parts = shifted(W, self.w), list[np.ndarray]()
        while not self.parts or (rest.any() and len(self.parts) < PARTS):
            self.parts.append(np.rint(rest))
            rest = shifted(rest - self.parts[-1], WEIGHT)
        self.rest = bool(rest.any())
        self.transposed = np.ascontiguousarray(self.parts[0].transpose(0, 2, 1))
        self.touched: dict[bytes, Touched] = {}

    def read(self, x: np.ndarray) -> np.ndarray:
        """Return what each place reads of x [size, B], [g, k, p·B]."""
        padded = np.concatenate([x, np.zeros((1, x.shape[1]))])
        return padded[self.where].reshape(self.g, self.k, -1)

    def sums(self, x: np.ndarray, by: int) -> np.ndarray:
        """Return ⌈2^by Σ |x|⌉ over what each place reads, [g, 1, p, B]."""
        total = below(np.abs(self.read(x)).sum(1), 2.0**53)
        return np.ceil(shifted(total, by)).reshape(self.g, 1, self.p, -1)

    def forward(self, inputs: Sequence[Values]) -> Values:
        """Find c = W c_in + b up to rounding, e, and what interval arithmetic proves about c.

        With Ŵ the first part of W, δ = Ŵ δ_in ± e: e makes good for the other parts, and for what
        rounding took from c.
        """
        c_in, up, down, radius = (
            np.concatenate([getattr(z, name) for z in inputs]).astype(np.float64)
            for name in ("c", "up", "down", "radius")
        )
        B, bits = c_in.shape[1], 53 - WEIGHT - self.k.bit_length()
        c, halves = np.rint(shifted(self.b, self.unit)) + np.zeros((self.n, B)), 1
        for t, digit in enumerate(digits(c_in, bits)):
            read = self.read(digit)
            for s, part in enumerate(self.parts):
                sums = product(part, read, self.k).reshape(self.n, B)
                c += below(np.rint(shifted(sums, t * bits - self.w - s * WEIGHT)), DUALS)
                halves += 1
        e = np.full((self.g, 1, self.p, B), (halves + 1) // 2, np.float64)
        if self.rest:
            e += self.sums(c_in, -self.w - (PARTS - 1) * WEIGHT - 1)
        if len(self.parts) > 1:
            e += self.sums(radius, -self.w - 1)
        self.e = np.broadcast_to(e, (self.g, self.m, self.p, B)).reshape(self.n, B)
        (up, down), h = coarse(np.stack([up, down]), 2.0 ** (bits - 2))
        both = product(np.abs(self.parts[0]), self.read(up + down), self.k)
        apart = product(self.parts[0], self.read(up - down), self.k)
        rise, fall = (
            np.ceil(shifted(x.reshape(self.n, B), h - self.w - 1)) + self.e
            for x in (both + apart, both - apart)
        )
        return Values(c, c - fall, c + rise)

    def back(self, rows: Rows, owner: np.ndarray, dual: int) -> tuple[Rows, np.ndarray, int]:
        """Return rows Ŵᵀ V up to rounding, what e costs, and how many halves rounding took."""
        (at, V), R = rows, rows[1].shape[1]
        paid = charge(np.abs(V), self.e[at], owner, dual)
        places, of = np.unique(at % self.p, return_inverse=True)
        full = np.zeros((self.g * self.m, len(places), R))
        full[at // self.p, of] = V
        key = places.tobytes()
        if sum(len(touched.at) for touched in self.touched.values()) > 2**22:
            self.touched.clear()
        if key not in self.touched:
            self.touched[key] = Touched(self.where[:, :, places], self.size)
        touched, L = self.touched[key], self.g * self.k * len(places)
        terms = self.m * max(1, len(touched.readers))
        cut, total, halves = 53 - WEIGHT - terms.bit_length(), np.zeros((len(touched.at), R)), 0
        for t, digit in enumerate(digits(full.reshape(self.g, self.m, -1), cut)):
            padded = np.zeros((L + 1, R))
            out = padded[:-1].reshape(self.g, self.k, -1)
            product(self.transposed, digit, terms, out)
            total += below(np.rint(shifted(touched.add(padded), t * cut - self.w)), DUALS)
            halves += 1
        return (touched.at, total), paid, halves


class Relu:
    """z = max(z_in, 0), between two lines wherever 0 lies inside of what is proved of z_in."""

    relu, p = True, 1

    def __init__(self, n: int) -> None:
        self.n, self.free = n, False

    def forward(self, inputs: Sequence[Values]) -> Values:
        """Find lines around the op on its interval, and c in the middle between them.

        a z ≤ max(z, 0) ≤ s z + h for any a in [0, 1] and any s, with h the larger of what is
        missing at the two ends; in δ, a δ_in − below ≤ δ ≤ s δ_in + above.
        """
        c, lo, hi, one = inputs[0].c, inputs[0].lo, inputs[0].hi, 1 << SLOPE
        self.open = (lo < 0) & (hi > 0)
        chord = one * (hi / np.where(self.open, hi - lo, 1))
        s = np.rint(np.where(self.open, chord, one * (lo >= 0))).astype(np.int64)
        a = np.where(self.open & self.free, one * (c > 0), s)
        h = np.where(self.open, np.maximum(-s * lo, (one - s) * hi), 0)
        least, most = a * c, s * c + h
        middle = (least + most) >> (SLOPE + 1)
        self.below = (middle - (least >> SLOPE)).astype(np.float64)
        self.above = (-(-most >> SLOPE) - middle).astype(np.float64)
        self.a, self.s = shifted(a, -SLOPE), shifted(s, -SLOPE)
        return Values(middle, np.maximum(lo, 0), np.maximum(hi, 0))

    def back(self, rows: Rows, owner: np.ndarray, dual: int) -> tuple[Rows, np.ndarray, int]:
        """Return rows for the input, what the lines cost, and how many halves rounding took.

        For the least value of Vδ: by the lower line where V > 0, by the upper one where V < 0.
        """
        at, V = rows[0], below(rows[1], 2.0 ** (53 - SLOPE))
        if not self.free:
            paid = charge(np.abs(V), np.maximum(self.below, self.above)[at], owner, dual)
            return (at, np.rint(V * self.s[at][:, owner])), paid, 1
        plus, minus = np.maximum(V, 0), np.maximum(-V, 0)
        paid = charge(plus, self.below[at], owner, dual)
        paid += charge(minus, self.above[at], owner, dual)
        return (at, np.rint(plus * self.a[at][:, owner] - minus * self.s[at][:, owner])), paid, 1
