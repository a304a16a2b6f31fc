"""How the sum of a row, ‖(w₁∘ν₁, r₂∘ν₂, …)‖₁, is found: exactly, or from random projections.

A linear combination of ν with independent standard Cauchy coefficients is ‖ν‖₁ times a Cauchy
variable, so that samples pushed *forward* through the linearised network, with the noise wⱼ·cⱼ
added at the input and rⱼ·cⱼ after every elementwise op, give samples of every entry's sum at
once (thesis, 3.4.5 and Algorithm 3; Li, Hastie and Church, 2007).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from autodual.errors import InputError


@dataclass(frozen=True)
class Exact:
    """Every sum in full, from rows that travel back. Sound."""


@dataclass(frozen=True)
class Median:
    """What the estimators that guarantee nothing share.

    Args:
        r: the number of projections.
        generator: where the noise comes from; torch's own generator if not given.
    """

    r: int
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        _check_count("r", self.r)


class Cauchy(Median):
    """The median of |r Cauchy projections|: an estimate for sets that are boxes (ℓ∞)."""


class Normal(Median):
    """r normal projections for ε‖ν₁‖₂, their root mean square; Cauchy ones for what ops add.

    An estimate for ℓ2 balls.
    """


@dataclass(frozen=True)
class Geometric:
    """An upper bound on every sum that holds with probability 1 − δ, for sets that are boxes.

    Each sum is bounded by the largest of ``repeats`` geometric means of r projections, divided
    by 1 − t (``margin``). Every bounded node draws noise of its own, which the lines before it
    do not depend on, so that a union bound over all sums estimated for an example holds.

    Args:
        r: the number of projections in one geometric mean.
        repeats: how many geometric means.
        delta: the probability, per example, that its certificate is wrong.
        generator: as for ``Median``.
    """

    r: int = 200
    repeats: int = 10
    delta: float = 0.01
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        _check_count("r", self.r)
        _check_count("repeats", self.repeats)
        if not 0 < self.delta < 1:
            raise InputError(f"delta must lie between 0 and 1, not {self.delta}")


Estimator = Exact | Median | Geometric


def tail(t: float, r: int) -> float:
    """Bound Pr(geo ≤ (1 − t)‖ν‖₁) for the geometric mean of r absolute Cauchy projections.

    By Chernoff, exp(−r(a·atan a − ½ ln(1 + a²))) with a = −(2/π) ln(1 − t).
    """
    a = -2 / math.pi * math.log1p(-t)
    return math.exp(-r * (a * math.atan(a) - math.log1p(a * a) / 2))


def margin(r: int, repeats: int, delta: float) -> float:
    """Return the smallest t for which the largest of ``repeats`` means fails with chance ≤ δ.

    They are independent, so each may fail with chance δ^(1/repeats). Rounded up.
    """
    goal = delta ** (1 / repeats)
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if middle < 1 and tail(middle, r) <= goal:
            high = middle
        else:
            low = middle
    return high


def median(samples: Tensor) -> Tensor:
    """Return the lower median of |samples| over the last dimension; gradients reach it alone."""
    return samples.abs().kthvalue((samples.shape[-1] + 1) // 2).values


def root_mean_square(samples: Tensor) -> Tensor:
    """Return the root of the mean square over the last dimension."""
    return torch.linalg.vector_norm(samples, dim=-1) / math.sqrt(samples.shape[-1])


def log_mean(samples: Tensor) -> Tensor:
    """Return the logarithm of the geometric mean of |samples| over the last dimension."""
    return samples.abs().log().mean(-1)


def _check_count(name: str, count: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(f"{name} must be a positive whole number, not {count!r}")
