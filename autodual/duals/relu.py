"""ReLU, LeakyReLU, PReLU and abs: two linear pieces that meet at zero (thesis, Corollary 5)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from autodual.duals.base import Call
from autodual.duals.elementwise import Elementwise
from autodual.duals.piecewise import corner_slopes, enclose, monotone_between
from autodual.duals.relaxed import Lines
from autodual.interval import Interval


def relu_lines(call: Call, box: Interval, slope: Tensor | None) -> Lines:
    """Enclose max(z, 0) on [ℓ, u].

    For ℓ < 0 < u the slope is u/(u − ℓ) and the intercepts are 0 and −ℓ·slope, so that

        ν_in = u/(u − ℓ) ν_out,    h = −ℓ[ν_in]₊.

    Otherwise the op is linear there: slope 0 or 1, no intercept.
    """
    if slope is not None:
        return enclose(call, box, slope, breakpoints=(0.0,))
    spanning = (box.lower < 0) & (box.upper > 0)
    lower = torch.where(spanning, box.lower, torch.zeros_like(box.lower))
    upper = torch.where(spanning, box.upper, (box.lower >= 0).to(box.lower))
    width = torch.where(spanning, upper - lower, torch.ones_like(upper))
    slope = upper / width
    return Lines.parallel(slope, torch.zeros_like(slope), -lower * slope)


def hinge_lines(call: Call, box: Interval, slope: Tensor | None, negative: float | Tensor) -> Lines:
    """Enclose max(z, 0) + s·min(z, 0) between the chord on [ℓ, u] and its parallel through 0.

    Any s is allowed: negative ones make the op a V, those above 1 make it concave.
    """
    if slope is None:
        spanning = (box.lower < 0) & (box.upper > 0)
        width = torch.where(spanning, box.upper - box.lower, torch.ones_like(box.lower))
        chord = (box.upper - negative * box.lower) / width
        outside = torch.where(box.lower >= 0, torch.ones_like(chord), negative)
        slope = torch.where(spanning, chord, outside)
    return enclose(call, box, slope, breakpoints=(0.0,))


def bent_at_zero(call: Call, box: Interval) -> list[Tensor]:
    """Return the slopes of both pieces; for ReLU, the lower line takes 1 if u > −ℓ, else 0."""
    return corner_slopes(call, box, (0.0,))


def hinge(negative: Callable[[Call], float | Tensor]) -> Elementwise:
    """Return the rule of max(z, 0) + s·min(z, 0), with s given by the call."""
    return Elementwise(
        lambda call, box, slope: hinge_lines(call, box, slope, negative(call)),
        interval=monotone_between(0.0),
        slopes=bent_at_zero,
    )


TABLE = {
    "aten.relu.default": Elementwise(relu_lines, slopes=bent_at_zero),
    "aten.leaky_relu.default": hinge(lambda call: call["negative_slope"]),
    "aten._prelu_kernel.default": hinge(lambda call: call["weight"]),
    "aten.abs.default": hinge(lambda call: -1.0),
}
