"""Functions made of linear pieces: exact intercepts for any slope."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from autodual.duals.base import Call
from autodual.duals.relaxed import Lines
from autodual.interval import Interval


def candidates(box: Interval, breakpoints: Sequence[float], jumps: bool = False) -> list[Tensor]:
    """Return the points where a piecewise linear function minus a line can be extreme on the box.

    A breakpoint outside the box is replaced by the nearer end. Where the function ``jumps`` it
    takes the values of both pieces: the neighbours of a breakpoint, an ulp away, are added.
    """
    ends = [box.lower, box.upper]
    points = [torch.full_like(box.lower, b) for b in breakpoints]
    if jumps:
        far = torch.full_like(box.lower, math.inf)
        points += [torch.nextafter(p, side) for p in points for side in (-far, far)]
    return ends + [torch.clamp(point, *ends) for point in points]


def enclose(
    call: Call, box: Interval, slope: Tensor, breakpoints: Sequence[float], jumps: bool = False
) -> Lines:
    """Return the tightest two lines with this slope around f on the box.

    f(z) − a·z is piecewise linear too, so its extremes lie at the ends and the breakpoints.
    """
    gaps = torch.stack([call(z) - slope * z for z in candidates(box, breakpoints, jumps)])
    return Lines.parallel(slope, gaps.amin(0), gaps.amax(0))


def corner_slopes(call: Call, box: Interval, breakpoints: Sequence[float]) -> list[Tensor]:
    """Return the slopes of the lines through any two corners of f on the box.

    The convex hull of f is made of such lines.
    """
    slopes = []
    for z, w in itertools.combinations(candidates(box, breakpoints), 2):
        apart = torch.where(z == w, torch.ones_like(z), z - w)
        slopes.append((call(z) - call(w)) / apart)
    return slopes


def monotone_between(
    *breakpoints: float, jumps: bool = False
) -> Callable[[Call, Interval], Interval]:
    """Return exact interval arithmetic for a function that is monotone between breakpoints."""

    def interval(call: Call, box: Interval) -> Interval:
        values = torch.stack([call(z) for z in candidates(box, breakpoints, jumps)])
        return Interval(values.amin(0), values.amax(0))

    return interval
