"""Numbers, and a network of affine nodes and ReLUs: forward for values, and back for rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from autodual_check.reading import need

WEIGHT, SLOPE, TERMS = 24, 16, 2**24
"""Bits of weights as whole numbers; of slopes behind the point; how many products are added up."""


def below(x: np.ndarray, most: float) -> np.ndarray:
    """Return x if every |x| is below ``most``; NaN is not."""
    fits = x.size == 0 or most == np.inf or max(float(x.max()), -float(x.min())) < most
    need(fits, "a number is too large for the units that the file chose", "unsupported")
    return x


class Numbers:
    """Whole numbers; or floats, where g is 16 γₙ for sums of n terms, and underflow takes half."""

    def __init__(self, head: list[int], floats: bool) -> None:
        self.unit, self.dual, self.g, self.half = 2.0 ** head[0], 2.0 ** head[1], 0.0, 0.5
        self.value, self.row, self.total, self.exact = 2.0**36, 2.0**46, 2.0**50, 2.0**53
        if floats:
            self.unit, self.dual, self.g, self.half = 1.0, 1.0, 2.0**-49, 2.0**-1000
            self.value, self.row, self.total, self.exact = 2.0**250, np.inf, 2.0**250, np.inf

    def up(self, x: np.ndarray, size: Any = 0) -> np.ndarray:
        """Return at least what x should be, that was found by sums of terms of |x| + ``size``."""
        below(x, self.total)
        return x + (self.g * (np.abs(x) + size) + self.half) if self.g else np.ceil(x)

    def near(self, x: np.ndarray) -> np.ndarray:
        """Return the nearest whole number; of floats x itself."""
        return below(x if self.g else np.rint(x), self.row)

    def digits(self, x: np.ndarray, terms: int) -> tuple[int, list[np.ndarray]]:
        """Return t and X₀, X₁, … with x = Σ Xᵢ tⁱ and Xᵢ < t, so that W X may be added up."""
        bits, found = 53 - WEIGHT - terms.bit_length(), [x]
        need(bits > 3 and terms <= TERMS, "a sum has too many terms", "unsupported")
        while not self.g and (high := np.trunc(found[-1] * 2.0**-bits)).any():
            found[-1:] = [found[-1] - high * 2.0**bits, high]
        return 2**bits, found

    def coarse(self, x: np.ndarray, most: float) -> tuple[np.ndarray, float]:
        """Return X and h with X·h ≥ x and every |X| ≤ ``most``; of floats x and 1."""
        h = 0 if self.g else int(np.frexp(np.abs(x).max(initial=0) / (most - 1))[1])
        return (x, 1.0) if self.g else (np.ceil(x / 2.0 ** max(0, h)), 2.0 ** max(0, h))

    def charge(self, V: np.ndarray, e: np.ndarray, owner: np.ndarray) -> np.ndarray:
        """Return Σᵢ Vᵢeᵢ or a little more, in units of values [R]: V ≥ 0 [n, R], e ≥ 0 [n, B]."""
        e, h = self.coarse(e, 2.0**52 / float(below(V.sum(0), 4 * self.row).max(initial=1)))
        return self.up(np.einsum("ir,ir->r", V, e[:, owner]) * (h / self.dual))


class Values:
    """What is proved of z = c + δ, [n, B]: lo ≤ z ≤ hi, a δ_in − below ≤ δ ≤ s δ_in + above."""

    def __init__(self, N: Numbers, c: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> None:
        self.N, (self.c, self.lo, self.hi) = N, (below(x, N.value) for x in (c, lo, hi))
        self.a = self.s = self.below = self.above = self.up = self.down = self.radius = c


class Affine:
    """z [g, m, p] = W [g, m, k] · inputs[index [g, k, p]] + b [g, m, 1 or p]; −1 reads a zero."""

    def __init__(self, N: Numbers, W: np.ndarray, index: np.ndarray, b: np.ndarray, size: int):
        (self.g, self.m, self.k), self.p, self.N, self.w = W.shape, index.shape[2], N, 1.0
        self.n, self.wide, self.size = self.g * self.m * self.p, self.g * self.k * self.p, size
        self.where = np.where(index < 0, size, index).astype(np.int64)
        self.b = np.broadcast_to(b, (self.g, self.m, self.p)).reshape(-1, 1)
        self.terms = self.m * int(np.bincount(self.where.ravel())[:size].max(initial=1))
        if not N.g:  # Ŵ = W·w in whole numbers, up to 1/2
            self.w = 2.0 ** (WEIGHT - int(np.frexp(np.abs(W).max())[1]))
            W = np.rint(W * self.w)
        self.W, self.T, self.sizes = W, np.ascontiguousarray(W.transpose(0, 2, 1)), np.abs(W)
        self.top, self.ones = max(1.0, float(self.sizes.max())), np.ones(W.shape)

    def product(self, A: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return A [g, m, k], made of W or 1, times what places read of x [size, B]."""
        padded = np.concatenate([x, np.zeros((1, x.shape[1]))])[self.where]
        X = below(padded.reshape(self.g, self.k, -1), self.N.exact / (self.k * np.abs(A).max() + 1))
        return np.matmul(A, X).reshape(self.n, -1)

    def forward(self, inputs: list[Values], slopes: Any) -> Values:
        """Find c, what interval arithmetic proves about it, and e for which δ = Ŵ δ_in ± e."""
        N, every = inputs[0].N, [[z.c, z.up, z.down, z.radius] for z in inputs]
        c_in, up, down, radius = (np.concatenate(each) for each in zip(*every, strict=True))
        c = N.near(b := self.b * N.unit) + np.zeros((self.n, c_in.shape[1]))
        t, digits = N.digits(c_in, self.k)
        for i, digit in enumerate(digits):
            c = c + N.near(self.product(self.W, digit) * (t**i / self.w))
        size, (E, share) = np.abs(c_in) + radius, (self.sizes, N.g) if N.g else (self.ones, 0.5)
        e = N.up(self.product(E, size) * (share / self.w) + N.g * np.abs(b))
        e += (len(digits) + 1) * 2 * N.half
        (up, down), h = N.coarse(np.stack([up, down]), t / 4)
        both, apart = self.product(self.sizes, up + down), self.product(self.W, up - down)
        rise, fall = (N.up((both + x) * (h / self.w / 2), both) + e for x in (apart, -apart))
        z = Values(N, c, -N.up(fall - c), N.up(c + rise))
        z.below = z.above = e
        return z

    def back(self, z: Values, at: np.ndarray, V: np.ndarray, owner: Any) -> Any:
        """Return the entries that are read, their rows Ŵᵀ V, and how often these were rounded."""
        places, of = np.unique(at % self.p, return_inverse=True)
        full = np.zeros((self.g * self.m, len(places), V.shape[1]))
        full[at // self.p, of] = V
        flat = self.where[:, :, places].ravel()
        order = np.argsort(flat, kind="stable")[: int((flat < self.size).sum())]
        entries, start = np.unique(flat[order], return_index=True)
        alone = len(entries) == flat.size and np.array_equal(order, np.arange(flat.size))
        total, (t, digits) = np.zeros((len(entries), V.shape[1])), self.N.digits(full, self.terms)
        for i, digit in enumerate(digits):
            X = below(digit, self.N.exact / (self.top * self.terms)).reshape(self.g, self.m, -1)
            parts = np.matmul(self.T, X).reshape(-1, V.shape[1])
            sums = parts if alone else np.add.reduceat(parts[order], start)
            total += self.N.near(sums * (t**i / self.w))
        return entries, total, len(digits)


class Relu:
    """z = max(z_in, 0), with slopes a of all ReLUs, here ``mine``; or True: a = s; or False."""

    p = wide = terms = 1

    def __init__(self, n: int, start: int) -> None:
        self.n, self.mine = n, slice(start, start + n)

    def forward(self, inputs: list[Values], slopes: Any) -> Values:
        """Find both lines, and c in the middle between them."""
        z, N, c, lo, hi = inputs[0], inputs[0].N, inputs[0].c, inputs[0].lo, inputs[0].hi
        open_ = (lo < 0) & (hi > 0)
        s = hi / np.where(open_, hi - lo, 1)
        s = np.where(open_, s if N.g else np.rint(s * 2.0**SLOPE) * 2.0**-SLOPE, lo >= 0)
        h = np.where(open_, np.maximum(-s * lo, (1 - s) * hi), 0)
        a = s if slopes is True else c > 0 if slopes is False else slopes[self.mine]
        a = s if slopes is True else np.where(open_, a, s)
        least, most, size = a * c, s * c + h, np.abs(c) + h + z.radius
        out = Values(N, N.near((least + most) / 2), np.maximum(lo, 0), np.maximum(hi, 0))
        ends = [np.maximum(N.up(x, size), 0) for x in (out.c - least, most - out.c)]
        ends = [np.maximum(*ends)] * 2 if slopes is True else ends  # rows and −rows cost the same
        out.a, out.s, (out.below, out.above) = a, s, ends
        return out

    def back(self, z: Values, at: np.ndarray, V: np.ndarray, owner: Any) -> Any:
        """Return rows for the least value of Vδ: by the lower line where V > 0, else the upper."""
        a, s, N = z.a[at], z.s[at], z.N
        slope = s[:, owner] if z.a is z.s else np.where(V > 0, a[:, owner], s[:, owner])
        long = np.abs(V).max(initial=0) >= N.exact * 2.0**-SLOPE  # then the product is rounded, too
        return at, N.near(below(V, N.row) * slope), 1 + int(long)
