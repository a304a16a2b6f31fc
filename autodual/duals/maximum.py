"""The larger of two perturbed numbers, the smaller, and the smooth maximum log(eᵃ + eᵇ)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autodual.duals.base import Call
from autodual.duals.elementwise import Elementwise
from autodual.duals.relaxed import Planes, Slopes
from autodual.interval import Interval


def enclose(call: Call, a: Interval, b: Interval, slopes: Slopes) -> Planes:
    """Return the tightest two planes with these slopes around max(a, b) or min(a, b).

    f(a, b) − s_a a − s_b b has two linear pieces that meet at a = b. Its extremes lie at the
    corners of the box and at the ends of that diagonal; where the box does not meet the diagonal,
    at points of the box in their place.
    """
    low = torch.maximum(a.lower, b.lower)
    high = torch.minimum(a.upper, b.upper)
    points = [(p, q) for p in (a.lower, a.upper) for q in (b.lower, b.upper)]
    points += [(p.clamp(a.lower, a.upper), p.clamp(b.lower, b.upper)) for p in (low, high)]
    gaps = torch.stack([call(p, q) - slopes[0] * p - slopes[1] * q for p, q in points])
    return Planes.with_slopes(slopes, gaps.amin(0), gaps.amax(0))


def chord(a: Interval, b: Interval) -> Tensor:
    """Return the slope of the chord of max(d, 0) on the interval of d = a − b."""
    lower, upper = a.lower - b.upper, a.upper - b.lower
    spanning = (lower < 0) & (upper > 0)
    width = torch.where(spanning, upper - lower, torch.ones_like(upper))
    return torch.where(spanning, upper, (lower >= 0).to(lower)) / width


def maximum_planes(call: Call, a: Interval, b: Interval, slopes: Slopes | None) -> Planes:
    """Enclose max(a, b) = b + max(a − b, 0) as ReLU's lines do: slopes s and 1 − s.

    Where one is larger on the whole box, s is 1 or 0 and the op is exact.
    """
    share = chord(a, b)
    return enclose(call, a, b, slopes or (share, 1 - share))


def minimum_planes(call: Call, a: Interval, b: Interval, slopes: Slopes | None) -> Planes:
    """Enclose min(a, b) = a − max(a − b, 0): slopes 1 − s and s."""
    share = chord(a, b)
    return enclose(call, a, b, slopes or (1 - share, share))


def logaddexp_planes(call: Call, a: Interval, b: Interval, slopes: Slopes | None) -> Planes:
    """Enclose log(eᵃ + eᵇ) = b + p(d) with p(d) = log(1 + eᵈ) and d = a − b on [ℓ, u].

    The slopes are s and 1 − s for the slope s of p's chord, which is exact at both ends. As p is
    convex, p(d) − s d is largest at an end and smallest where p′(d) = s, at d = log s/(1 − s).
    With any slopes s_a, s_b there is a rest (1 − s_a − s_b) b, bounded by its interval.
    """
    lower, upper = a.lower - b.upper, a.upper - b.lower
    zero = torch.zeros_like(lower)
    if slopes is None:
        width = torch.where(upper > lower, upper - lower, torch.ones_like(upper))
        share = (call(upper, zero) - call(lower, zero)) / width
        share = torch.minimum(torch.maximum(share, lower.sigmoid()), upper.sigmoid())
        slopes = share, 1 - share
    steep = slopes[0].detach().clamp(0, 1).logit()
    points = [lower, upper, steep.clamp(lower.detach(), upper.detach())]
    gaps = torch.stack([call(d, zero) - slopes[0] * d for d in points])
    rest = torch.stack([(1 - slopes[0] - slopes[1]) * end for end in (b.lower, b.upper)])
    return Planes.with_slopes(slopes, gaps.amin(0) + rest.amin(0), gaps.amax(0) + rest.amax(0))


def either(call: Call, a: Interval, b: Interval) -> Sequence[Slopes]:
    """Return the slopes of a alone and of b alone, of which max and min are made."""
    one, zero = torch.ones_like(a.lower), torch.zeros_like(a.lower)
    return (one, zero), (zero, one)


def tangent(call: Call, a: Interval, b: Interval) -> Sequence[Slopes]:
    """Return the slopes of log(eᵃ + eᵇ) in the middle of the box."""
    share = torch.sigmoid(a.center - b.center)
    return ((share, 1 - share),)


BOTH = ("self", "other")

TABLE = {
    "aten.maximum.default": Elementwise(maximum_planes, arguments=BOTH, slopes=either),
    "aten.minimum.default": Elementwise(minimum_planes, arguments=BOTH, slopes=either),
    "aten.logaddexp.default": Elementwise(logaddexp_planes, arguments=BOTH, slopes=tangent),
}
