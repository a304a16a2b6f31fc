"""What samples say about a sum, and how surely."""

from __future__ import annotations

import math

import torch
from torch import Tensor


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
