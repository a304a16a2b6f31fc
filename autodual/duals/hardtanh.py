"""Clamps: hardtanh, ReLU6, hardsigmoid, clamp (thesis, Corollary 6, corrected)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from autodual.duals.base import Call
from autodual.duals.elementwise import Elementwise
from autodual.duals.piecewise import corner_slopes, enclose
from autodual.duals.relaxed import Lines
from autodual.interval import Interval


def clamp_lines(call: Call, box: Interval, slope: Tensor | None, low: float, high: float) -> Lines:
    """Enclose min(max(z, low), high) on [ℓ, u].

    Write c and r for the midpoint and half the length of [low, high], and m = max(u − c, c − ℓ).
    For ℓ < low and high < u the best common slope is 2r/(r + m); with [low, high] = [−1, 1] this
    is 2/(1 + max(u, −ℓ)), and h = |(1 − slope) ν_out|. (Equations 3.62–3.63 as printed have slope
    and intercept swapped and max(u, ℓ), which is unsound.) If [ℓ, u] meets one bend only, the
    slope is the chord's; if none, the op is linear there.
    """
    if slope is None:
        slope = _slope(box, low, high)
    return enclose(call, box, slope, _bends(low, high))


def _bends(low: float, high: float) -> tuple[float, ...]:
    return tuple(b for b in (low, high) if math.isfinite(b))


def _slope(box: Interval, low: float, high: float) -> Tensor:
    lower, upper = box.lower, box.upper
    width = torch.where(upper > lower, upper - lower, torch.ones_like(upper))
    chord = (torch.clamp(upper, low, high) - torch.clamp(lower, low, high)) / width
    flat = (upper <= low) | (lower >= high)
    linear = (lower >= low) & (upper <= high)
    slope = torch.where(linear, torch.ones_like(chord), chord)
    if low > -float("inf") and high < float("inf"):
        center, radius = (low + high) / 2, (high - low) / 2
        reach = torch.maximum(upper - center, center - lower)
        both = (lower < low) & (upper > high)
        reach = torch.where(both, reach, torch.ones_like(reach))
        slope = torch.where(both, 2 * radius / (radius + reach), slope)
    return torch.where(flat, torch.zeros_like(slope), slope)


Range = Callable[[Mapping[str, Any]], tuple[float, float]]


def clamp_to(ends: Range) -> Elementwise:
    """Return the rule of a clamp, given where it finds its ends among its arguments."""
    return Elementwise(
        lambda call, box, slope: clamp_lines(call, box, slope, *ends(call.args)),
        slopes=lambda call, box: corner_slopes(call, box, _bends(*ends(call.args))),
    )


def _named(low: str, high: str) -> Range:
    """Return the ends that the arguments of these names hold; the larger wins, as in torch."""

    def ends(args: Mapping[str, Any]) -> tuple[float, float]:
        least = -math.inf if args.get(low) is None else float(args[low])
        most = math.inf if args.get(high) is None else float(args[high])
        return min(least, most), most

    return ends


def hardsigmoid_lines(call: Call, box: Interval, slope: Tensor | None) -> Lines:
    """Enclose min(max(z + 3, 0), 6)/6: a clamp to [−3, 3], moved and divided by 6."""
    if slope is None:
        slope = _slope(box, -3.0, 3.0) / 6
    return enclose(call, box, slope, (-3.0, 3.0))


TABLE = {
    "aten.hardsigmoid.default": Elementwise(
        hardsigmoid_lines, slopes=lambda call, box: corner_slopes(call, box, (-3.0, 3.0))
    ),
    "aten.hardtanh.default": clamp_to(_named("min_val", "max_val")),
    "aten.relu6.default": clamp_to(lambda args: (0.0, 6.0)),
    "aten.clamp.default": clamp_to(_named("min", "max")),
    "aten.clamp_min.default": clamp_to(_named("min", "max")),
    "aten.clamp_max.default": clamp_to(_named("min", "max")),
}
