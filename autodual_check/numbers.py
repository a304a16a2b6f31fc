"""Whole numbers in float64 and int64, and what is said where they do not fit.

Below 2^53 sums, differences and products of whole numbers in float64 are exact, in any order.
"""

from __future__ import annotations

import time

import numpy as np

EXACT = 2.0**53
MOST = 2**44
"""Values, in units, lie below."""

SLOPE = 16
"""Slopes are whole numbers in units of 2^-SLOPE."""

WEIGHT = 24
"""The bits of each part of a weight."""


class Invalid(Exception):
    """The file does not prove what it claims: where, and why."""


class Unsupported(Exception):
    """The file may be right, but this program cannot tell."""


class Clock:
    """Raises when time is over."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def look(self) -> None:
        """Raise if it is."""
        if time.monotonic() > self.end:
            raise Unsupported("it takes longer than --seconds allows")


def below(x: np.ndarray, most: float, what: str) -> np.ndarray:
    """Return x if every |x| is below ``most``."""
    if x.size and not max(float(x.max()), -float(x.min())) < most:
        raise Unsupported(f"{what} is too large for the unit that the file chose")
    return x


def shifted(x: np.ndarray, by: int) -> np.ndarray:
    """Return x·2^by in float64: exact, as exponents here stay far from the ends of their range."""
    return np.asarray(x, np.float64) * 2.0**by


def floor(x: np.ndarray, by: int) -> np.ndarray:
    """Return ⌊x·2^by⌋."""
    return below(np.floor(shifted(x, by)), MOST, "a number").astype(np.int64)


def ceil(x: np.ndarray, by: int) -> np.ndarray:
    """Return ⌈x·2^by⌉."""
    return below(np.ceil(shifted(x, by)), MOST, "a number").astype(np.int64)


def near(x: np.ndarray, by: int) -> np.ndarray:
    """Return x·2^by to the nearest whole number, in float64: half of one away from it at most."""
    return np.rint(shifted(x, by))


def coarse(x: np.ndarray, most: float) -> tuple[np.ndarray, int]:
    """Return whole numbers X and h ≥ 0 with X·2^h ≥ x and every |X| ≤ ``most``."""
    top, h = float(np.abs(x).max()) if x.size else 0.0, 0
    while top * 2.0**-h > most - 1:
        h += 1
    return np.ceil(shifted(x, -h)), h


def digits(x: np.ndarray, bits: int) -> list[np.ndarray]:
    """Return X₀, X₁, … in float64 with Σ Xₜ·2^(t·bits) = x and every |Xₜ| < 2^bits."""
    if bits < 4:
        raise Unsupported("a sum has too many terms")
    x, found, most = np.asarray(x, np.float64), [], 2.0**bits
    while x.size and not max(float(x.max()), -float(x.min())) < most:
        high = np.trunc(x / most)
        found.append(x - high * most)
        x = high
    return [*found, x]


def product(A: np.ndarray, X: np.ndarray, terms: int, out: np.ndarray | None = None) -> np.ndarray:
    """Return A X for whole numbers, exactly: ``terms`` such products may yet be added up."""
    tops = [max(float(x.max()), -float(x.min())) if x.size else 0.0 for x in (A, X)]
    if not tops[0] * tops[1] * terms < EXACT:
        raise Unsupported("a sum is too large for whole numbers in float64")
    return np.matmul(A, X, out=out)
