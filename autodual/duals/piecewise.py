"""Functions made of linear pieces: exact intercepts for any slope."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from autodual.duals.base import Call, Lines
from autodual.interval import Interval


def candidates(box: Interval, breakpoints: Sequence[float]) -> list[Tensor]:
    """Return the points where a piecewise linear function minus a line can be extreme on the box.

    A breakpoint outside the box is replaced by the nearer end.
    """
    ends = [box.lower, box.upper]
    return ends + [torch.clamp(torch.full_like(box.lower, b), *ends) for b in breakpoints]


def enclose(call: Call, box: Interval, slope: Tensor, breakpoints: Sequence[float]) -> Lines:
    """Return the tightest two lines with this slope around f on the box.

    f(z) − a·z is piecewise linear too, so its extremes lie at the ends and the breakpoints.
    """
    gaps = torch.stack([call(z) - slope * z for z in candidates(box, breakpoints)])
    return Lines.parallel(slope, gaps.amin(0), gaps.amax(0))


def monotone_between(*breakpoints: float) -> Callable[[Call, Interval], Interval]:
    """Return exact interval arithmetic for a function that is monotone between breakpoints."""

    def interval(call: Call, box: Interval) -> Interval:
        values = torch.stack([call(z) for z in candidates(box, breakpoints)])
        return Interval(values.amin(0), values.amax(0))

    return interval
