"""Threshold: z above an end, a constant below it; it may jump there."""

from __future__ import annotations

import torch
from torch import Tensor

from autodual.duals.base import Call
from autodual.duals.elementwise import Elementwise
from autodual.duals.piecewise import enclose, monotone_between
from autodual.duals.relaxed import Lines
from autodual.interval import Interval


def threshold_lines(call: Call, box: Interval, slope: Tensor | None) -> Lines:
    """Enclose f with the slope of the chord, or of the piece if the box lies within one."""
    end = call["threshold"]
    if slope is None:
        crossing = (box.lower <= end) & (box.upper > end)
        width = torch.where(crossing, box.upper - box.lower, 1.0)
        chord = (call(box.upper) - call(box.lower)) / width
        slope = torch.where(crossing, chord, (box.lower > end).to(chord))
    return enclose(call, box, slope, (end,), jumps=True)


def threshold_interval(call: Call, box: Interval) -> Interval:
    """Bound f by its values at the ends and on both sides of the jump."""
    return monotone_between(call["threshold"], jumps=True)(call, box)


TABLE = {"aten.threshold.default": Elementwise(threshold_lines, threshold_interval)}
