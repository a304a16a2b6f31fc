"""ReLU, LeakyReLU, PReLU and abs: two linear pieces that meet at zero (thesis, Corollary 5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from autodual.duals.base import Call
from autodual.duals.piecewise import Piecewise, enclose, pieces
from autodual.duals.relaxed import Lines, Planes
from autodual.interval import Interval


def relu_lines(call: Call, box: Interval, slope: Tensor | None) -> Lines:
    """Enclose max(z, 0) on [ℓ, u].

    For ℓ < 0 < u the slope is u/(u − ℓ) and the intercepts are 0 and −ℓ·slope, so that

        ν_in = u/(u − ℓ) ν_out,    h = −ℓ[ν_in]₊.

    Otherwise the op is linear there: slope 0 or 1, no intercept.
    """
    if slope is not None:
        return enclose(call, box, slope, (0.0,))
    slope, intercept = _Chord.apply(box.lower, box.upper)
    return Lines.parallel(slope, torch.zeros_like(slope), intercept)


class _Chord(torch.autograd.Function):
    """u/(u − ℓ) and −ℓu/(u − ℓ) where ℓ < 0 < u, elsewhere the op's own slope and 0.

    Training asks for this of every unit in every step: left to autograd it would keep four times
    as many tensors.
    """

    @staticmethod
    def forward(ctx: Any, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        spanning = (lower < 0) & (upper > 0)
        width = torch.where(spanning, upper - lower, 1.0)
        slope = torch.where(spanning, upper, (lower >= 0).to(upper)) / width
        intercept = torch.where(spanning, -lower * slope, 0.0)
        ctx.save_for_backward(spanning, width, slope, lower)
        return slope, intercept

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor, intercepts: Tensor) -> tuple[Tensor, Tensor]:
        spanning, width, slope, lower = ctx.saved_tensors
        each = torch.addcmul(slopes, lower, intercepts, value=-1).div_(width)
        at_lower = torch.where(spanning, (each - intercepts).mul_(slope), 0.0)
        return at_lower, torch.where(spanning, torch.addcmul(each, each, slope, value=-1), 0.0)


def relu_free(call: Call, box: Interval, at: Sequence[Tensor]) -> Lines:
    """Enclose max(z, 0) between the chord and that of its pieces which is higher at a point.

    Where rounding decides which it is, the lower line is parallel to the chord.
    """
    lines, (point,) = relu_lines(call, box, None), at
    piece = (point > 0).to(point)
    toss = lines.meet | (point.abs() <= 64 * torch.finfo(point.dtype).eps * box.upper.detach())
    lower = torch.where(toss, lines.lower_slope, piece)
    return Lines(lower, lines.lower_intercept, lines.upper_slope, lines.upper_intercept)


def relu_beside(call: Call, box: Interval, chosen: Planes) -> list[Planes]:
    """Return the piece which is farther from the lower line."""
    (slope,) = chosen.lower_slopes
    piece = (slope < 0.5).to(slope)
    upper = chosen.upper_slopes, chosen.upper_intercept
    return [Planes((piece,), torch.zeros_like(slope), *upper)]


def hinge(negative: Callable[[Call], float | Tensor]) -> Piecewise:
    """Return the rule of max(z, 0) + s·min(z, 0), with s given by the call.

    Between the chord on [ℓ, u] and its parallel through 0. Any s is allowed: negative ones make
    the op a V, those above 1 make it concave.
    """

    def lines(call: Call, box: Interval, slope: Tensor | None) -> Lines:
        if slope is None:
            s, spanning = negative(call), (box.lower < 0) & (box.upper > 0)
            width = torch.where(spanning, box.upper - box.lower, torch.ones_like(box.lower))
            chord = (box.upper - s * box.lower) / width
            outside = torch.where(box.lower >= 0, torch.ones_like(chord), s)
            slope = torch.where(spanning, chord, outside)
        return enclose(call, box, slope, (0.0,))

    return pieces(0.0, lines=lines, errors=2)


TABLE = {
    "aten.relu.default": pieces(
        0.0, nondecreasing=True, lines=relu_lines, free=relu_free, beside=relu_beside, errors=0
    ),
    "aten.leaky_relu.default": hinge(lambda call: call["negative_slope"]),
    "aten._prelu_kernel.default": hinge(lambda call: call["weight"]),
    "aten.abs.default": hinge(lambda call: -1.0),
}
