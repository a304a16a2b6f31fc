"""The largest of perturbed numbers, the smallest, and the smooth maximum log(eᵃ + eᵇ)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autodual.duals.base import Call
from autodual.duals.elementwise import Elementwise, worst
from autodual.duals.relaxed import Planes, Slopes
from autodual.interval import Interval
from autodual.rounding import down, gamma, least, up


def shares(box: Interval) -> Tensor:
    """Return slopes s [n, *] ≥ 0, Σ s = 1, for two parallel planes around max z on a box.

    max z − Σ sᵢzᵢ lies between 0 and maxⱼ (uⱼ − sⱼ(uⱼ − ℓⱼ)) − Σ sᵢℓᵢ. The slopes bring all uⱼ that
    are above it down to one level τ there, sⱼ = [uⱼ − τ]₊/(uⱼ − ℓⱼ), as water finds its level; for
    two numbers that is the chord of ReLU of their difference. τ is no less than the largest ℓ, so
    that what cannot be largest has slope 0, and what is so on the whole box has slope 1: the op is
    exact there.
    """
    floor, first = box.lower.max(0, keepdim=True)
    above = (box.upper - floor).clamp(min=0)
    width = (box.upper - box.lower).masked_fill(above == 0, torch.inf)
    height, order = above.sort(0, descending=True)
    inverse = (1 / width).gather(0, order)
    full, total = (height * inverse).cumsum(0) - 1, inverse.cumsum(0)
    level = full / total.masked_fill(total == 0, 1)  # 0 where none is above: its gradient is too
    level = level.nan_to_num(0, 0, 0).amax(0, keepdim=True)
    share = ((above - level.clamp(min=0)) / width).clamp(min=0)
    rest = 1 - share.sum(0, keepdim=True)
    return share.scatter_add(0, first, rest)


def largest_planes(call: Call, *given: Any) -> Planes:
    """Enclose max(z₁, …, zₙ) on a box by the closest two planes with slopes s.

    z ↦ maxⱼ zⱼ − Σ sᵢzᵢ is largest where some zⱼ is as large as all others, and they are where
    their own terms are largest. It is smallest where some number t is the maximum, and every other
    zᵢ is as close to it as it can be if sᵢ > 0, or smallest: t is the largest ℓ or some u.
    """
    *boxes, slopes = given
    box = _stacked(boxes)
    s = shares(box) if slopes is None else torch.stack(list(slopes))
    rest = torch.maximum(-s * box.lower, -s * box.upper)
    alone = torch.maximum((1 - s) * box.lower, (1 - s) * box.upper)
    upper = (alone - rest).amax(0) + rest.sum(0)
    lower = torch.zeros_like(upper) if slopes is None else _lowest(box, s)
    return Planes.with_slopes(tuple(s) if slopes is None else slopes, lower, upper)


def _lowest(box: Interval, s: Tensor) -> Tensor:
    """Return the least value of max z − Σ sᵢzᵢ on a box."""
    floor = box.lower.amax(0)
    up, down = s.clamp(min=0), (s.clamp(max=0) * box.lower).sum(0)
    tops = [floor, *(torch.maximum(u, floor) for u in box.upper)]
    return torch.stack([t - (up * torch.minimum(box.upper, t)).sum(0) for t in tops]).amin(0) - down


AWAY = 0.6
"""How far from the middle of a box towards its top upper planes are compared. Rows tend to take all
entries of a window up together; a plane through them reaches far above max u there."""


def free_planes(call: Call, *boxes: Interval, at: Sequence[Tensor]) -> Planes:
    """Enclose max(z₁, …, zₙ) by slopes of their own for each side.

    Below by the one entry that is largest in the middle of the box; above by the plane of
    ``shares`` or by max u, whichever is lower on the way from the middle of the box to its top.
    """
    box = _stacked(boxes)
    only, top = _one(box.center), box.upper.amax(0)
    tilted = largest_planes(call, *boxes, None)
    s, b = torch.stack(tilted.upper_slopes), tilted.upper_intercept
    low = (s * torch.lerp(box.center, box.upper, AWAY)).sum(0) + b <= top
    slopes = torch.where(low, s, torch.zeros_like(s))
    return Planes(tuple(only), torch.zeros_like(b), tuple(slopes), torch.where(low, b, top))


def beside(call: Call, *boxes: Interval, chosen: Planes) -> list[Planes]:
    """Return a plane below max(z₁, …, zₙ) for each entry alone; above, max u and that of shares."""
    box = _stacked(boxes)
    tilted, zero = largest_planes(call, *boxes, None), torch.zeros_like(box.lower[0])
    flat = (zero,) * len(boxes), box.upper.amax(0)
    above = (flat, (tilted.upper_slopes, tilted.upper_intercept))
    alone = [tuple(zero + (i == j) for j in range(len(boxes))) for i in range(len(boxes))]
    return [Planes(slopes, zero, *above[i % 2]) for i, slopes in enumerate(alone)]


def beside_below(call: Call, *boxes: Interval, chosen: Planes) -> list[Planes]:
    """Return those of min(z₁, …, zₙ) likewise."""
    found = beside(call, *map(_negated, boxes), chosen=chosen)
    return [_mirrored(planes) for planes in found]


def free_below(call: Call, *boxes: Interval, at: Sequence[Tensor]) -> Planes:
    """Enclose min(z₁, …, zₙ) likewise."""
    return _mirrored(free_planes(call, *map(_negated, boxes), at=at))


def smallest_planes(call: Call, *given: Any) -> Planes:
    """Enclose min(z₁, …, zₙ) = −max(−z₁, …, −zₙ)."""
    *boxes, slopes = given
    return _mirrored(largest_planes(call, *map(_negated, boxes), slopes))


def _stacked(boxes: Sequence[Interval]) -> Interval:
    return Interval(torch.stack([b.lower for b in boxes]), torch.stack([b.upper for b in boxes]))


def _one(z: Tensor) -> Tensor:
    """Return 1 where the largest of z [n, *] is, and else 0."""
    return torch.zeros_like(z).scatter(0, z.argmax(0, keepdim=True), 1)


def _negated(box: Interval) -> Interval:
    return Interval(-box.upper, -box.lower)


def _mirrored(planes: Planes) -> Planes:
    """Return the planes around −f(−z) for those around f; parallel ones stay parallel."""
    return Planes(
        planes.upper_slopes, -planes.upper_intercept, planes.lower_slopes, -planes.lower_intercept
    )


def largest_leaves(
    call: Call, *boxes: Interval, planes: Planes, errors: float, floor: float
) -> Tensor:
    """Return how far max(z₁, …, zₙ) may leave two planes on a box.

    Above, it does so most where some zⱼ is the largest and all others are where their own terms
    are, as in ``largest_planes``. Below, for slopes s ≥ 0 with Σ s = 1 − δ, max z − Σ sᵢzᵢ is at
    least δ·max z, and max z lies between the largest ℓ and the largest u.
    """
    box, count = _stacked(boxes), len(boxes)
    dtype = box.lower.dtype
    lost = gamma(2 * count + 4, dtype)
    s, b = torch.stack(list(planes.upper_slopes)), planes.upper_intercept
    rest = torch.maximum(-s * box.lower, -s * box.upper)
    alone = torch.maximum((1 - s) * box.lower, (1 - s) * box.upper)
    size = alone.abs() + rest.abs().sum(0) + b.abs()
    above = (alone + (rest.sum(0) - rest) - b + lost * size).amax(0)
    s, b = torch.stack(list(planes.lower_slopes)), planes.lower_intercept
    least_top, most_top = box.lower.amax(0), box.upper.amax(0)
    delta, top = 1 - s.sum(0), torch.maximum(least_top.abs(), most_top.abs())
    at_least = torch.where(delta >= 0, delta * least_top, delta * most_top)
    size = (1 + s.sum(0) + delta.abs()) * top + b.abs()
    below = (b - at_least + lost * size).masked_fill((s < 0).any(0), torch.inf)
    return worst([above + least(dtype), below + least(dtype)])


def smallest_leaves(
    call: Call, *boxes: Interval, planes: Planes, errors: float, floor: float
) -> Tensor:
    """Return how far min(z₁, …, zₙ) may leave two planes on a box, as max(−z) those around it."""
    turned = map(_negated, boxes)
    mirrored = _mirrored(planes)
    return largest_leaves(call, *turned, planes=mirrored, errors=errors, floor=floor)


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


def logaddexp_leaves(
    call: Call, a: Interval, b: Interval, *, planes: Planes, errors: float, floor: float
) -> Tensor:
    """Return how far log(eᵃ + eᵇ) = b + p(a − b) may leave two planes on a box.

    p(d) − s d is largest at an end; it lies above its tangent at any point. (1 − s_a − s_b) b is
    extreme at an end.
    """
    low, high = down(a.lower - b.upper), up(a.upper - b.lower)
    zero, far = torch.zeros_like(low), torch.maximum(low.abs(), high.abs())
    most = b.magnitude
    size = (1 + errors) * (call(high, zero) + floor)
    missed = []
    for slopes, intercept, sign in (
        (planes.upper_slopes, planes.upper_intercept, 1),
        (planes.lower_slopes, planes.lower_intercept, -1),
    ):
        s, rest = slopes[0], 1 - slopes[0] - slopes[1]
        at = s.clamp(0, 1).logit().nan_to_num(0).clamp(low, high)
        turn = at.sigmoid() - s
        tangent = call(at, zero) - s * at + torch.minimum(turn * (low - at), turn * (high - at))
        ends = torch.maximum(call(low, zero) - s * low, call(high, zero) - s * high)
        shift = torch.maximum(sign * rest * b.lower, sign * rest * b.upper)
        gap = (ends - intercept if sign > 0 else intercept - tangent) + shift
        steep = 1 + slopes[0].abs() + slopes[1].abs()
        lost = gamma(8, low.dtype) * (size + steep * (8 * far + most) + intercept.abs())
        missed.append(gap + lost)
    return worst(missed) + least(low.dtype)


def one_alone(call: Call, *boxes: Interval) -> Sequence[Slopes]:
    """Return the slopes of one entry alone, the largest in the middle of the box, and of none."""
    only = _one(_stacked(boxes).center)
    return tuple(only), tuple(torch.zeros_like(only))


def smallest_alone(call: Call, *boxes: Interval) -> Sequence[Slopes]:
    """Return the slopes of one entry alone, the smallest in the middle, and of none."""
    return one_alone(call, *map(_negated, boxes))


def tangent(call: Call, a: Interval, b: Interval) -> Sequence[Slopes]:
    """Return the slopes of log(eᵃ + eᵇ) in the middle of the box."""
    share = torch.sigmoid(a.center - b.center)
    return ((share, 1 - share),)


@dataclass(frozen=True, kw_only=True)
class Extreme(Elementwise):
    """The dual layer of a maximum or minimum, which other solvers can choose an argument of.

    Args:
        sign: 1 for the largest, −1 for the smallest.
    """

    sign: int


BOTH = ("self", "other")

ANY = ("values",)

TABLE = {
    "aten.maximum.default": Extreme(
        largest_planes,
        slopes=one_alone,
        beside=beside,
        sign=1,
        arguments=BOTH,
        errors=0,
        leaves=largest_leaves,
    ),
    "aten.minimum.default": Extreme(
        smallest_planes,
        slopes=smallest_alone,
        beside=beside_below,
        sign=-1,
        arguments=BOTH,
        errors=0,
        leaves=smallest_leaves,
    ),
    "autodual.largest": Extreme(
        largest_planes,
        free=free_planes,
        beside=beside,
        sign=1,
        arguments=ANY,
        listed=True,
        errors=0,
        leaves=largest_leaves,
    ),
    "autodual.smallest": Extreme(
        smallest_planes,
        free=free_below,
        beside=beside_below,
        sign=-1,
        arguments=ANY,
        listed=True,
        errors=0,
        leaves=smallest_leaves,
    ),
    "aten.logaddexp.default": Elementwise(
        logaddexp_planes,
        arguments=BOTH,
        slopes=tangent,
        errors=6,
        floor=1.0,
        leaves=logaddexp_leaves,
    ),
}
