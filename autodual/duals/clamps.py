"""Clamps, shrinkages and thresholds: linear pieces that bend or jump where the call says.

For a clamp to [−1, 1] and ℓ < −1, 1 < u the narrowest two lines have the slope 2/(1 + m) with
m = max(u, −ℓ), and h = |(1 − slope) ν_out|: Corollary 6 of the thesis, whose equations 3.62–3.63
as printed have slope and intercept swapped and max(u, ℓ), which is unsound. If [ℓ, u] meets one
bend only, the slope is the chord's; if none, the op is linear there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from autodual.duals.base import Call, DualLayer, Either
from autodual.duals.piecewise import Piecewise, enclose, pieces
from autodual.duals.relaxed import Lines
from autodual.interval import Interval

Ends = Callable[[Mapping[str, Any]], tuple[float, float]]
"""The arguments of a call → the two ends of a clamp."""


def clamp_slope(box: Interval, low: float, high: float) -> Tensor:
    """Return the slope of the two narrowest lines around min(max(z, low), high), in one formula.

    Write c and r for the midpoint and half the length of [low, high], and m = max(u − c, c − ℓ).
    For ℓ < low and high < u the slope is 2r/(r + m).
    """
    lower, upper = box.lower, box.upper
    width = torch.where(upper > lower, upper - lower, torch.ones_like(upper))
    chord = (torch.clamp(upper, low, high) - torch.clamp(lower, low, high)) / width
    linear = (lower >= low) & (upper <= high)
    slope = torch.where(linear, torch.ones_like(chord), chord)
    if math.isfinite(low) and math.isfinite(high):
        center, radius = (low + high) / 2, (high - low) / 2
        both = (lower < low) & (upper > high)
        reach = torch.maximum(upper - center, center - lower)
        reach = torch.where(both, reach, torch.ones_like(reach))
        slope = torch.where(both, 2 * radius / (radius + reach), slope)
    return torch.where((upper <= low) | (lower >= high), torch.zeros_like(slope), slope)


def clamp(
    *breakpoints: float | str, ends: Ends, scale: float = 1.0, errors: float = 1, floor: float = 0.0
) -> Piecewise:
    """Return the rule of a clamp, given where it finds its ends; ``scale`` is its steep slope."""

    def lines(call: Call, box: Interval, slope: Tensor | None) -> Lines:
        low, high = ends(call.args)
        slope = scale * clamp_slope(box, low, high) if slope is None else slope
        return enclose(call, box, slope, [b for b in (low, high) if math.isfinite(b)])

    return pieces(*breakpoints, nondecreasing=True, lines=lines, errors=errors, floor=floor)


def named(low: str, high: str) -> Ends:
    """Return the ends that the arguments of these names hold; the larger wins, as in torch."""

    def ends(args: Mapping[str, Any]) -> tuple[float, float]:
        least = -math.inf if args.get(low) is None else float(args[low])
        most = math.inf if args.get(high) is None else float(args[high])
        return min(least, most), most

    return ends


def minus_lambda(call: Call) -> float:
    """Return the lower end of what a shrinkage sends to zero."""
    return -float(call["lambd"])


SHRINK = pieces(minus_lambda, "lambd", nondecreasing=True)

TABLE: dict[str, DualLayer | Either] = {
    "aten.hardtanh.default": clamp("min_val", "max_val", ends=named("min_val", "max_val")),
    "aten.relu6.default": clamp(0.0, 6.0, ends=lambda args: (0.0, 6.0)),
    "aten.hardsigmoid.default": clamp(
        -3.0, 3.0, ends=lambda args: (-3.0, 3.0), scale=1 / 6, errors=4, floor=1.0
    ),
    "aten.clamp.default": clamp("min", "max", ends=named("min", "max")),
    "aten.clamp_min.default": clamp("min", ends=named("min", "max")),
    "aten.clamp_max.default": clamp("max", ends=named("min", "max")),
    "aten.softshrink.default": Either(
        (
            replace(SHRINK, accepts=lambda args: float(args["lambd"]) <= 1, errors=3, floor=1.0),
            SHRINK,
        )
    ),
    "aten.hardshrink.default": pieces(
        minus_lambda, "lambd", jumps=True, nondecreasing=True, errors=0
    ),
    "aten.threshold.default": pieces("threshold", jumps=True, errors=0),
}
