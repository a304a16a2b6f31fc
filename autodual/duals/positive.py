"""Roots, reciprocals and logarithms of numbers known to be no less than some least one.

Sums of squares are never negative, whatever their bound says: f(max(z, least)) is f(z), and has
a bound on every box. Below ``least`` it is level; that is a kink.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from autodual.duals.base import Call
from autodual.duals.curves import Curve, by_curve
from autodual.duals.elementwise import Elementwise

FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "sqrt": (torch.sqrt, lambda z: torch.rsqrt(z) / 2),
    "rsqrt": (torch.rsqrt, lambda z: -torch.rsqrt(z) / (2 * z)),
    "reciprocal": (torch.reciprocal, lambda z: -(z**-2)),
    "log": (torch.log, torch.reciprocal),
}
"""Monotone functions, and their derivatives."""


def above(input: Tensor, name: str, least: float) -> Tensor:
    """Return f(max(z, least)) for the function of a name."""
    return FUNCTIONS[name][0](input.clamp(min=least))


def _curve(call: Call) -> Curve:
    slope, least = FUNCTIONS[call["name"]][1], float(call["least"])

    def derivative(z: Tensor) -> Tensor:
        inside = z > least
        return torch.where(inside, slope(torch.where(inside, z, least + 1.0)), 0.0)

    return Curve(derivative, (least,))


ABOVE: Elementwise = by_curve(_curve, argument="input")

TABLE = {"autodual.above": ABOVE}
