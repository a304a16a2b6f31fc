"""Lines differentiate in the ends of their box like their finite differences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from autodual.duals import Call, Elementwise
from autodual.interval import Interval
from autodual.testing.elementwise import first
from autodual.testing.strategies import Reach

UNDEFINED = "f is not defined where that is tried; see reach="
NARROW = "the range is so narrow that differences are rounding; see reach="
"""Why gradients were not compared."""

LINE = ("slope", "lower intercept", "upper intercept")
"""What parallel lines are made of."""


def check_gradients(
    rule: Elementwise, call: Call, shape: torch.Size, reach: Reach | None
) -> str | None:
    """Lines differentiate in ℓ and u like their finite differences, away from the bends.

    f may bend where a range ends: no difference is taken across that. Entries where f is not
    defined, or differences are mostly rounding, say nothing.
    """
    lower, upper, step = _boxes(rule, call, shape, reach)
    ends = lower.requires_grad_(), upper.requires_grad_()
    found = _lines(rule, call, *ends)
    defined, tried = torch.stack(found).isfinite().all(0), False
    if not bool(defined.any()):
        return UNDEFINED
    for name, end, (i, j) in zip("ℓu", ends, ((step, 0), (0, step)), strict=True):
        with torch.no_grad():
            noise = _noise(found, lower, upper, step)
            after = _lines(rule, call, lower + i, upper + j)
            before = _lines(rule, call, lower - i, upper - j)
        for k, what in enumerate(LINE):
            gradient, difference = _gradient(found[k], end), (after[k] - before[k]) / (2 * step)
            room = 1e-5 + 1e-3 * difference.abs()
            told = defined & difference.isfinite() & (noise[k] <= room)
            broken = told & ~((gradient - difference).abs() <= room + noise[k])
            assert not bool(broken.any()), (
                f"lines do not differentiate like their differences, the {what} in {name}: "
                + first(broken, ℓ=lower, u=upper, gradient=gradient, difference=difference)
            )
            tried = tried or bool(told.any())
    return None if tried else NARROW


def _lines(rule: Elementwise, call: Call, lower: Tensor, upper: Tensor) -> list[Tensor]:
    """Return slope and intercepts of parallel lines."""
    found = rule.relax(call, Interval(lower, upper))
    return [found.lower_slopes[0], found.lower_intercept, found.upper_intercept]


def _boxes(
    rule: Elementwise, call: Call, shape: torch.Size, reach: Reach | None
) -> tuple[Tensor, Tensor, float]:
    """Return ends to differentiate at, and a step. The last two boxes serve where others do not."""
    starts = torch.tensor([-3.3, -0.7, 0.27, 1.3, -8.0, 0.61, 1.3, 0.2], dtype=torch.float64)
    widths = torch.tensor([9.7, 0.9, 0.11, 0.53, 3.1, 4.3, 0.53, 0.31], dtype=torch.float64)
    step = 1e-6
    if reach is not None:  # they lie in [−8, 6.4]
        low, high, step = _off_the_ends(reach)
        scale = (high - low) / 14.4
        starts, widths = low + (starts + 8) * scale, widths * scale
    *usual, one, other = torch.stack([starts, starts + widths], 1)
    ends = torch.stack(usual).repeat(shape.numel() // len(usual) + 1, 1)[: shape.numel()]
    lower, upper = (end.reshape(shape) for end in ends.unbind(1))
    for start, stop in (one, other):
        defined = torch.stack(_lines(rule, call, lower, upper)).isfinite().all(0)
        lower, upper = torch.where(defined, lower, start), torch.where(defined, upper, stop)
    return lower, upper, step


def _off_the_ends(reach: Reach) -> tuple[float, float, float]:
    """Return the part of a range to differentiate in, off its ends, and a step far shorter.

    The part about 0 if there is one: further away many functions are out of all bounds. Off by a
    share that leads to no number at which functions bend.
    """
    low, high = max(reach[0], -8.0), min(reach[1], 6.4)
    low, high = (low, high) if high - low >= min(1.0, reach[1] - reach[0]) else reach
    extent, size = high - low, max(1.0, abs(low), abs(high))
    off = extent / (16 * math.pi)
    return low + off, high - off, min(1e-6 * size, 1e-4 * extent)


def _noise(lines: Sequence[Tensor], lower: Tensor, upper: Tensor, step: float) -> list[Tensor]:
    """Return what rounding may do to the differences of a chord's slope and of its intercepts."""
    slope, *intercepts = (line.abs() for line in lines)
    far = torch.maximum(lower.abs(), upper.abs())
    size = torch.maximum(torch.maximum(*intercepts), slope * far)
    apart = torch.finfo(size.dtype).eps * size / step
    steep = apart / (upper - lower)
    return [steep, steep * far + apart, steep * far + apart]


def _gradient(line: Tensor, end: Tensor) -> Tensor:
    """Return how the numbers of lines move with an end of their boxes."""
    if not line.requires_grad:
        return torch.zeros_like(end)
    (found,) = torch.autograd.grad(
        line.sum(), end, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return found
