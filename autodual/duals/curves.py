"""Smooth functions of one entry: sound lines of any slope from f, f′ and the inflection points.

For a slope a, the tightest intercepts are the extremes of g(z) = f(z) − a z on [ℓ, u]. Between
neighbouring inflection points f′ is monotone, so g is convex or concave there. Its extremes lie at
the ends of such a piece, or where f′(z) = a. That point is only ever bracketed, s < z < t: if g
is convex, its tangents at s and at t lie below it, so that on the bracket

    g(z) ≥ max(g(s) + g′(s)(t − s),  g(t) − g′(t)(t − s)),

and the same with ≤ and min if g is concave. The bound holds however far apart s and t are.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autodual.duals.base import Call
from autodual.duals.elementwise import Elementwise, worst
from autodual.duals.relaxed import Lines, Planes, may_overwrite
from autodual.interval import Interval
from autodual.rounding import gamma, least, roundoff

STEPS = 24
"""Bisections of a bracket. The intercept's slack falls by four with each."""

Points = tuple[float, ...] | Callable[[Interval], Sequence[Tensor]]
Function = Callable[[Tensor], Tensor]


def everywhere(box: Interval) -> Tensor:
    """Return True at every entry."""
    return torch.ones_like(box.lower, dtype=torch.bool)


@dataclass(frozen=True, eq=False)
class Curve:
    """The shape of a function f of one entry.

    Args:
        derivative: f′.
        inflections: in ascending order, the points between which f′ is monotone: inflection
            points and kinks; or a function that gives them for a box.
        stationary: the points where f′ changes sign.
        holds: where this describes f on the whole box; elsewhere (poles, the edge of the domain)
            only ``range`` is known.
        range: bounds on f everywhere.
        inside: a point where f and f′ are finite.
    """

    derivative: Function
    inflections: Points = ()
    stationary: Points = ()
    holds: Callable[[Interval], Tensor] = everywhere
    range: tuple[float, float] = (-math.inf, math.inf)
    inside: float = 1.0


def smooth(
    derivative: Function,
    inflections: Points = (),
    stationary: Points = (),
    holds: Callable[[Interval], Tensor] = everywhere,
    range: tuple[float, float] = (-math.inf, math.inf),
    argument: str = "self",
    inside: float = 1.0,
    errors: float | None = None,
    floor: float = 0.0,
) -> Elementwise:
    """Return the dual layer of an elementwise op; f is the op itself.

    Sound if f′ is right, monotone between the inflections, and of one sign between the
    stationary points; ``autodual.testing.check_dual_layer`` checks that.

    Args:
        derivative, inflections, stationary, range: as for ``Curve``.
        holds: for a function with poles or a domain, on which boxes it is defined: a bool tensor
            like ``box.lower``, for example ``lambda box: box.lower > 0``. An example whose set
            reaches others has no bound.
        inside: a point of that domain, if 1 is none.
        argument: the name of the op's input in its schema or forward.
        errors, floor: how far f lies from what is computed, in units of roundoff of the result, or
            of ``floor`` where that is larger; f′ must not lie ``SLOPES`` times as far from f′. For
            ``rounding=``, which refuses the op where nothing is said.
    """
    curve = Curve(derivative, inflections, stationary, holds, range, inside)
    partial = holds is not everywhere
    return by_curve(functools.partial(_alike, curve), argument, partial, errors, floor)


def by_curve(
    curve: Callable[[Call], Curve],
    argument: str = "self",
    partial: bool = False,
    errors: float | None = None,
    floor: float = 0.0,
) -> Elementwise:
    """Return the dual layer of an op whose curve depends on its other arguments.

    ``curve`` reads them from the call by name: ``call["alpha"]``. For a module these are what its
    forward is given, its parameters and buffers, and its attributes that are numbers, texts,
    flags or tuples. The other arguments are those of ``smooth``.
    """
    read = functools.partial(_read, curve)
    return Elementwise(
        functools.partial(read, curve_lines),
        interval=functools.partial(read, curve_interval),
        arguments=(argument,),
        slopes=functools.partial(read, curve_slopes),
        beside=functools.partial(_beside, functools.partial(read, curve_beside)),
        partial=partial,
        errors=errors,
        floor=floor,
        leaves=functools.partial(read, curve_leaves),
    )


def _alike(curve: Curve, call: Call) -> Curve:
    """Return the one curve of all calls."""
    return curve


def _read(
    curve: Callable[[Call], Curve],
    f: Callable[..., Any],
    call: Call,
    box: Interval,
    *slope: Any,
    **named: Any,
) -> Any:
    """Apply ``f`` to a call, its curve and a box."""
    shape = curve(call)
    return f(call, shape, hold_steep(shape, box), *slope, **named)


def hold_steep(curve: Curve, box: Interval) -> Interval:
    """Return the box with gradients of 0 in place of ∞: at an end where f is vertical, as √ at 0.

    ∞ there would make NaN of whatever has slope 0 before it, as a square at 0, and of what does not
    read that end, as the least value of an exponential that overflows at the other.
    """
    if may_overwrite():
        return box

    def hold(end: Tensor) -> Tensor:
        fixed = end.detach()
        return torch.where(curve.derivative(fixed).isfinite(), end, fixed)

    return box.map(hold)


def curve_interval(f: Function, curve: Curve, box: Interval) -> Interval:
    """Bound f by its values at the ends and the stationary points inside."""
    points = [box.lower, *_inside(curve.stationary, box), box.upper]
    values = torch.stack([f(z) for z in points])
    unknown = ~curve.holds(box) | values.isnan().any(0)
    least, most = curve.range
    return Interval(
        values.amin(0).masked_fill(unknown, least), values.amax(0).masked_fill(unknown, most)
    )


def curve_lines(f: Function, curve: Curve, box: Interval, slope: Tensor | None) -> Lines:
    """Return the tightest two lines of one slope around f; the chord's if none is given.

    Where f or the box is not finite, the lines are those around the interval of f.
    """
    known = _known(f, curve, box)
    finite = box.map(lambda end: torch.where(known, end, curve.inside))
    if slope is None:
        slope = chord(f, curve.derivative, finite) * known
    low, high = intercepts(f, curve, finite, slope)
    image = curve_interval(f, curve, box)
    rise = [torch.where(slope == 0, slope, slope * end) for end in (box.lower, box.upper)]
    low = torch.where(known, low, image.lower - torch.maximum(*rise))
    high = torch.where(known, high, image.upper - torch.minimum(*rise))
    return Lines.parallel(
        slope,
        low.masked_fill(low.isnan(), -math.inf),
        high.masked_fill(high.isnan(), math.inf),
    )


def chord(f: Function, derivative: Function, box: Interval) -> Tensor:
    """Return the slope from one end to the other, or f′ in the middle of a narrow box."""
    width = box.upper - box.lower
    size = box.magnitude.clamp(min=1e-3)
    narrow = width <= size * math.sqrt(torch.finfo(width.dtype).eps)
    wide = (f(box.upper) - f(box.lower)) / torch.where(narrow, torch.ones_like(width), width)
    return torch.where(narrow, _in_the_middle(derivative, box), wide)


def _in_the_middle(derivative: Function, box: Interval) -> Tensor:
    """Return f′ in the middle; at a point no bound moves with the slope, and f″ may be ∞."""
    moves = box.lower != box.upper
    return derivative(torch.where(moves, box.center, box.center.detach()))


def curve_beside(f: Function, curve: Curve, box: Interval) -> list[Lines]:
    """Return lines with the slopes of the chord, in the middle, at either end and of tangents."""
    known = _known(f, curve, box)
    finite = box.map(lambda end: torch.where(known, end, curve.inside))
    ends = (_at_an_end(curve.derivative, end) for end in (finite.lower, finite.upper))
    middle, *tangents = curve_slopes(f, curve, box)
    steep = [torch.where(end.isfinite(), end, middle) * known for end in ends]
    return [curve_lines(f, curve, box, s) for s in (None, middle, *steep, *tangents)]


def _at_an_end(derivative: Function, end: Tensor) -> Tensor:
    """Return f′ at an end. It does not move where f″ is ∞, as that of √z³ at 0."""
    if may_overwrite():
        return derivative(end)
    with torch.enable_grad():
        z = end.detach().requires_grad_()
        slope = derivative(z)
        if not slope.requires_grad:
            return slope
        (bend,) = torch.autograd.grad(slope.sum(), z, materialize_grads=True, allow_unused=True)
    return derivative(torch.where(bend.isfinite(), end, end.detach()))


def _beside(
    lines: Callable[..., list[Lines]], call: Call, box: Interval, chosen: Lines
) -> list[Lines]:
    """Return lines beside any that were chosen."""
    return lines(call, box)


def curve_slopes(f: Function, curve: Curve, box: Interval) -> list[Tensor]:
    """Return the slopes in the middle and of the tangents through either end, 0 where unknown.

    One of these or the chord's is the best for each side of a function with one inflection point.
    """
    known = _known(f, curve, box)
    finite = box.map(lambda end: torch.where(known, end, curve.inside))
    found = [_in_the_middle(curve.derivative, finite)]
    ends = finite.lower, finite.upper
    for near, far in (ends, ends[::-1]) if curve.inflections else ():
        z = touching(f, curve.derivative, near, far)
        apart = torch.where(z == near, torch.ones_like(z), z - near)
        found.append((f(z) - f(near)) / apart)
    return [slope * known for slope in found]


@torch.no_grad()
def touching(f: Function, derivative: Function, near: Tensor, far: Tensor) -> Tensor:
    """Return a point whose tangent nearly runs through ``near``, or ``far`` if there is none.

    There the line from ``near`` is steepest or flattest, so that its slope differentiates as if
    the point did not move.
    """

    def excess(z: Tensor) -> Tensor:
        return derivative(z) * (z - near) - (f(z) - f(near))

    s, t, sign = near, far, excess(far).sign()
    for _ in range(STEPS):
        middle = (s + t) / 2
        beyond = excess(middle).sign() == sign
        s, t = torch.where(beyond, s, middle), torch.where(beyond, middle, t)
    return torch.where(s == near, far, t)


def intercepts(
    f: Function, curve: Curve, box: Interval, slope: Tensor, inside: bool = False
) -> tuple[Tensor, Tensor]:
    """Return bounds on f(z) − a·z over a finite box.

    Tangents touch where their slopes are read, an ulp ``inside`` a bracket, if that is wanted.
    """
    points = [box.lower, *_inside(curve.inflections, box), box.upper]
    gaps = [f(z) - slope * z for z in points]
    for p, q in itertools.pairwise(points):
        s, t, rise_s, rise_t, crosses = bracket(curve.derivative, slope, p, q)
        if inside:
            s, t = torch.nextafter(s, t), torch.nextafter(t, s)
        tangents = f(s) - slope * s + rise_s * (t - s), f(t) - slope * t - rise_t * (t - s)
        extreme = torch.where(rise_s < 0, torch.maximum(*tangents), torch.minimum(*tangents))
        gaps.append(torch.where(crosses, extreme, gaps[0]))
    stacked = torch.stack(gaps)
    return stacked.amin(0), stacked.amax(0)


@torch.no_grad()
def bracket(
    derivative: Function, slope: Tensor, p: Tensor, q: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return s < t between which f′ − a changes sign, its values there, and whether it does.

    f′ is read an ulp inside [p, q], so that it may jump at the ends.
    """

    def rise(z: Tensor, toward: Tensor) -> Tensor:
        return derivative(torch.nextafter(z, toward)) - slope

    start, s, t = rise(p, q), p, q
    crosses, below = start.sign() * rise(q, p).sign() < 0, start < 0
    for _ in range(STEPS):
        middle = (s + t) / 2
        same = (derivative(middle) < slope) == below
        s, t = torch.where(same, middle, s), torch.where(same, t, middle)
    return s, t, rise(s, t), rise(t, s), crosses


SLOPES = 16
"""How many times as large as those of f the errors of f′ may be."""


@torch.no_grad()
def curve_leaves(
    f: Function, curve: Curve, box: Interval, *, planes: Planes, errors: float, floor: float
) -> Tensor:
    """Return how far f may leave two lines on the box, in real arithmetic.

    f − a z is extreme at a vertex or inside a bracket, see ``intercepts``. A slope whose sign was
    mistaken, by δ, moves an extreme by no more than δ times the width of the box; an inflection
    point, a tangent or an end of a bracket that lies a few ulps off, by so much times |f′| + |a|.
    """
    known = _known(f, curve, box)
    finite = box.map(lambda end: torch.where(known, end, curve.inside))
    points = [finite.lower, *_inside(curve.inflections, finite), finite.upper]
    width = (finite.upper - finite.lower).clamp(min=0)
    far = finite.magnitude
    steep = torch.stack([curve.derivative(z).abs() for z in points]).amax(0)
    most = torch.stack([f(z).abs() for z in points]).amax(0) + steep * width + floor
    u, missed = roundoff(width.dtype), []
    for slope, intercept, side in (
        (planes.lower_slopes[0], planes.lower_intercept, 0),
        (planes.upper_slopes[0], planes.upper_intercept, 1),
    ):
        gap = intercepts(f, curve, finite, slope, inside=True)[side]
        turn = steep + slope.abs()
        lost = gamma(8, width.dtype) * ((1 + errors) * most + slope.abs() * far + intercept.abs())
        lost = lost + u * (SLOPES * (1 + errors) * (turn + floor) * width + 16 * turn * far)
        missed.append((intercept - gap if side == 0 else gap - intercept) + lost)
    found = worst(missed) + least(width.dtype)
    return found.masked_fill(~known, math.inf)


@torch.no_grad()
def _known(f: Function, curve: Curve, box: Interval) -> Tensor:
    """Return where the curve holds and all that the lines need is finite."""
    ends = box.lower, box.upper
    numbers = [*ends, *map(f, ends), curve.derivative(box.center)]
    known = curve.holds(box) & torch.stack([n.isfinite() for n in numbers]).all(0)
    return known & ~torch.stack([curve.derivative(end).isnan() for end in ends]).any(0)


def _inside(points: Points, box: Interval) -> list[Tensor]:
    """Return the points inside the box, and its nearer end for those that are not."""
    found = (
        points(box) if callable(points) else [torch.full_like(box.lower, point) for point in points]
    )
    return [box.nearest(point) for point in found]
