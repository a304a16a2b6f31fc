"""Sums, differences, and products with a constant."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from autodual.duals.affine import Affine, Transpose, no_sums, pixel_by_pixel, summed, sums
from autodual.duals.base import Call, DualLayer, Either, Hole
from autodual.duals.elementwise import Elementwise, worst
from autodual.duals.relaxed import Planes, Slopes
from autodual.interval import Interval


def swap_ends(i: Interval) -> Interval:
    """Return the interval for −z with its signs dropped: what a nonincreasing op reads."""
    return Interval(i.upper, i.lower)


def _difference(sign_of: Callable[[Call], dict[str, float]]) -> Callable[..., Interval]:
    """Bound an op that is nondecreasing or nonincreasing in each argument, by its sign."""

    def interval(call: Call, *z: Interval) -> Interval:
        signs = sign_of(call)
        names = [name for name, arg in call.args.items() if isinstance(arg, Hole)]
        facing = [i if signs[name] >= 0 else swap_ends(i) for name, i in zip(names, z, strict=True)]
        return Interval(call(*(i.lower for i in facing)), call(*(i.upper for i in facing)))

    return interval


def scaled(call: Call, z: Interval) -> Interval:
    """Bound z·c or z/c for a constant c of any sign."""
    ends = call(z.lower), call(z.upper)
    return Interval(torch.minimum(*ends), torch.maximum(*ends))


def corners(call: Callable[[Tensor, Tensor], Tensor], x: Interval, y: Interval) -> Interval:
    """Bound a product entry by entry: its extremes lie at the corners of the box."""
    ends = [call(p, q) for p in (x.lower, x.upper) for q in (y.lower, y.upper)]
    values = torch.stack(ends)
    return Interval(values.amin(0), values.amax(0))


def _signed(sign_of: Callable[[Call], dict[str, float]]) -> Transpose:
    """Return ν ↦ ν_in = ±α ν_out for each summand, by its sign."""

    def transpose(call: Call, nu: Tensor, shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
        signs = sign_of(call)
        names = [name for name, arg in call.args.items() if isinstance(arg, Hole)]
        pulled = [summed(nu, shape) for shape in shapes]
        return [
            rows if signs[name] == 1 else signs[name] * rows
            for name, rows in zip(names, pulled, strict=True)
        ]

    return transpose


def transpose_scaled(call: Call, nu: Tensor, shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
    """ν_in = c ν_out for z ↦ c·z."""
    (factor,) = (call[name] for name in ("self", "other") if not isinstance(call[name], Hole))
    return (summed(nu * factor, shapes[0]),)


def transpose_divided(call: Call, nu: Tensor, shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
    """ν_in = ν_out/c for z ↦ z/c."""
    return (summed(nu / call["other"], shapes[0]),)


def _transpose_total(scale: Callable[[int], float]) -> Transpose:
    """Return ν ↦ ν_in, ν_out times what ``scale`` says of the number of entries in each sum."""

    def transpose(call: Call, nu: Tensor, shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
        (shape,) = shapes
        dims = sorted(d % len(shape) for d in call["dim"] or range(len(shape)))
        kept = [1 if i in dims else size for i, size in enumerate(shape)]
        rows = nu.reshape(len(nu), *kept).expand(len(nu), *shape)
        return (rows * scale(math.prod(shape[d] for d in dims)),)

    return transpose


def product_planes(call: Call, x: Interval, y: Interval, slopes: Slopes | None) -> Planes:
    """Enclose x·y; by the planes through the centers, x c_y + y c_x − c_x c_y ± r_x r_y.

    With any slopes s_x, s_y, x y − s_x x − s_y y is bilinear: it is extreme at corners.
    """
    if slopes is None:
        slopes = _moving(x, y, (y.center, x.center))
        middle, rest = call(x.center, y.center), call(x.radius, y.radius)
        middle = middle - slopes[0] * x.center - slopes[1] * y.center
        ends = (_without_one(x, y, end) for end in (middle - rest, middle + rest))
        return Planes.with_slopes(slopes, *ends)
    gaps = corners(lambda p, q: call(p, q) - slopes[0] * p - slopes[1] * q, x, y)
    return Planes.with_slopes(slopes, gaps.lower, gaps.upper)


def _moving(x: Interval, y: Interval, slopes: Slopes) -> Slopes:
    """Return slopes with 0 for what is a point.

    The product is then exact, so that nobody asks how large the other's box is, and rounding with
    it: 10¹² for a length's reciprocal.
    """
    points = (z.lower == z.upper for z in (x, y))
    return tuple(s.masked_fill(point, 0) for s, point in zip(slopes, points, strict=True))


def _without_one(x: Interval, y: Interval, intercept: Tensor) -> Tensor:
    """Return the intercept, which is 0 where one of both is a point, with its slope 0."""
    return intercept.masked_fill((x.lower == x.upper) ^ (y.lower == y.upper), 0)


def product_leaves(
    call: Call, x: Interval, y: Interval, *, planes: Planes, errors: float, floor: float
) -> Tensor:
    """Return how far x·y may leave two planes on a box: it does so most at a corner."""
    missed = []
    for z in itertools.product((x.lower, x.upper), (y.lower, y.upper)):
        value = call(*z)
        missed.append(planes.missed(value, z, value.abs() * (1 + errors)))
    return worst(missed)


AWAY = 0.5
"""How far from the middle of a box, towards their worst corner, planes are compared."""


def mccormick(call: Call, x: Interval, y: Interval, at: Sequence[Tensor]) -> Planes:
    """Enclose x·y by planes that are exact on two sides of the box, the better one on each side.

    Below, x y − (l_y x + l_x y − l_x l_y) = (x − l_x)(y − l_y), and likewise (u_x − x)(u_y − y).
    In the middle of the box all of them, and the planes through the center, differ by r_x r_y from
    x y, so that they are compared on the way from there to the corner where each is worst. Where
    rounding decides, the planes through the center are taken.
    """
    lows, highs, middle = (
        _moving(x, y, slopes)
        for slopes in ((y.lower, x.lower), (y.upper, x.upper), (y.center, x.center))
    )

    def best(tried: Sequence[Slopes], sign: int) -> Slopes:
        heights = []
        for s_x, s_y in tried:
            along = s_x * (at[0] - x.center) + s_y * (at[1] - y.center)
            heights.append(sign * along - AWAY * (s_x.abs() * x.radius + s_y.abs() * y.radius))
        index = torch.stack(heights)
        size = 64 * torch.finfo(index.dtype).eps * index.abs().amax(0)
        index = torch.cat([index[:1] + size, index[1:]]).argmax(0, keepdim=True)
        return tuple(
            torch.stack(list(s)).gather(0, index).squeeze(0) for s in zip(*tried, strict=True)
        )

    below = best((middle, lows, highs), 1)
    crossed = (y.upper, x.lower), (y.lower, x.upper)
    above = best((middle, *(_moving(x, y, slopes) for slopes in crossed)), -1)
    lower, upper = (product_planes(call, x, y, s) for s in (below, above))
    intercepts = lower.lower_intercept, upper.upper_intercept
    low, high = (_without_one(x, y, intercept) for intercept in intercepts)
    return Planes(below, low, above, high)


def mccormick_beside(call: Call, x: Interval, y: Interval, chosen: Planes) -> list[Planes]:
    """Return all four planes that are exact on two sides of the box."""
    below = (y.lower, x.lower), (y.upper, x.upper)
    above = (y.upper, x.lower), (y.lower, x.upper)
    found = []
    for low, high in zip(below, above, strict=True):
        lower, upper = (product_planes(call, x, y, slopes) for slopes in (low, high))
        found.append(Planes(low, lower.lower_intercept, high, upper.upper_intercept))
    return found


def _terms(call: Call, read: int, given: int) -> tuple[int, int]:
    """Return what a sum, or a product with a constant, rounds: the constant, α, the result."""
    return 3, 3 + -(-given // max(1, read))


def _sum(sign_of: Callable[[Call], dict[str, float]]) -> Affine:
    """Return the dual layer of a sum in which each argument has a sign, times α."""
    return Affine(
        together=("self", "other"),
        interval=_difference(sign_of),
        transpose=_signed(sign_of),
        window=pixel_by_pixel,
        reads_one=True,
        terms=_terms,
    )


SUM = _sum(lambda call: {"self": 1, "other": call["alpha"]})
DIFFERENCE = _sum(lambda call: {"self": 1, "other": -call["alpha"]})
REVERSED_DIFFERENCE = _sum(lambda call: {"self": -call["alpha"], "other": 1})
NEGATION = Affine(
    together=("self",),
    interval=_difference(lambda call: {"self": -1}),
    transpose=_signed(lambda call: {"self": -1}),
    window=pixel_by_pixel,
    linear=True,
    reads_one=True,
    terms=no_sums,
)
SCALED = Affine(
    alone=("self", "other"),
    interval=scaled,
    transpose=transpose_scaled,
    window=pixel_by_pixel,
    linear=True,
    reads_one=True,
    terms=_terms,
)
PLANES = Elementwise(
    product_planes,
    interval=corners,
    arguments=("self", "other"),
    free=mccormick,
    beside=mccormick_beside,
    errors=1,
    leaves=product_leaves,
)
PRODUCT = Either((SCALED, PLANES))
QUOTIENT = Affine(
    alone=("self",),
    interval=scaled,
    transpose=transpose_divided,
    window=pixel_by_pixel,
    linear=True,
    reads_one=True,
    terms=_terms,
)
TOTAL = Affine(
    together=("self",), transpose=_transpose_total(lambda count: 1), linear=True, terms=sums
)
MEAN = Affine(
    together=("self",), transpose=_transpose_total(lambda count: 1 / count), linear=True, terms=sums
)
RUNNING_TOTAL = Affine(together=("self",), linear=True, terms=sums)

TABLE: dict[str, DualLayer | Either] = {
    "aten.add.Tensor": SUM,
    "aten.add.Scalar": SUM,
    "aten.sub.Tensor": DIFFERENCE,
    "aten.sub.Scalar": DIFFERENCE,
    "aten.rsub.Tensor": REVERSED_DIFFERENCE,
    "aten.rsub.Scalar": REVERSED_DIFFERENCE,
    "aten.neg.default": NEGATION,
    "aten.mul.Tensor": PRODUCT,
    "aten.mul.Scalar": SCALED,
    "aten.div.Tensor": QUOTIENT,
    "aten.div.Scalar": QUOTIENT,
    "aten.sum.dim_IntList": TOTAL,
    "aten.mean.dim": MEAN,
    "aten.cumsum.default": RUNNING_TOTAL,
}
