"""Roots, reciprocals and logarithms of numbers that are never below some least one.

``passes/positive.py`` writes them. Below the least number f(max(z, least)) is level; it bends
there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from autodual.duals.base import Call
from autodual.duals.curves import Curve, by_curve

DERIVATIVES: dict[str, Callable[[Tensor], Tensor]] = {
    "sqrt": lambda z: torch.rsqrt(z) / 2,
    "rsqrt": lambda z: -torch.rsqrt(z) / (2 * z),
    "reciprocal": lambda z: -(z**-2),
    "log": torch.reciprocal,
}


def _curve(call: Call) -> Curve:
    derivative, least = DERIVATIVES[call["name"]], float(call["least"])

    def bent(z: Tensor) -> Tensor:
        inside = z > least
        slope = derivative(torch.where(inside, z, least + 1.0))
        return torch.where(inside, slope, torch.zeros_like(slope))

    return Curve(bent, (least,))


TABLE = {"autodual.above": by_curve(_curve, argument="input")}
