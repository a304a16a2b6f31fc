"""Softshrink and hardshrink: zero on [−λ, λ], a line of slope 1 on either side."""

from __future__ import annotations

import torch
from torch import Tensor

from autodual.duals.base import Call
from autodual.duals.elementwise import Elementwise
from autodual.duals.piecewise import corner_slopes, enclose
from autodual.duals.relaxed import Lines
from autodual.interval import Interval


def shrink(jumps: bool) -> Elementwise:
    """Return the rule; hardshrink ``jumps`` from 0 to ±λ, softshrink is moved towards 0."""

    def lines(call: Call, box: Interval, slope: Tensor | None) -> Lines:
        """Enclose f with the slope of the chord, or of the piece if the box lies within one."""
        edge = float(call["lambd"])
        if slope is None:
            silent = (box.lower >= -edge) & (box.upper <= edge)
            moving = (box.lower > edge) | (box.upper < -edge)
            width = torch.where(silent | moving, 1.0, box.upper - box.lower)
            chord = (call(box.upper) - call(box.lower)) / width
            slope = torch.where(silent | moving, moving.to(chord), chord)
        return enclose(call, box, slope, (-edge, edge), jumps)

    def slopes(call: Call, box: Interval) -> list[Tensor]:
        edge = float(call["lambd"])
        return corner_slopes(call, box, (-edge, edge))

    return Elementwise(lines, slopes=slopes)


TABLE = {
    "aten.softshrink.default": shrink(jumps=False),
    "aten.hardshrink.default": shrink(jumps=True),
}
