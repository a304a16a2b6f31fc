"""Functions made of linear pieces, as data: where they bend, and whether they jump there.

f(z) − a·z is piecewise linear too, so its extremes on a box lie at the ends and at the breakpoints
inside, on both sides of each where f jumps. Two exact lines of any slope a follow, and the exact
image of the box.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from autodual.duals.base import Call, by_endpoints
from autodual.duals.elementwise import Elementwise, worst
from autodual.duals.relaxed import Lines, Planes
from autodual.interval import Interval
from autodual.rounding import up

Function = Callable[[Tensor], Tensor]
Breakpoint = float | Tensor
NamedBreakpoint = float | str | Callable[[Call], Breakpoint]


@dataclass(frozen=True, eq=False)
class Piece:
    """A linear piece of f: f(z) = slope·z + intercept for start < z < stop, elementwise."""

    start: Tensor
    stop: Tensor
    slope: Tensor
    intercept: Tensor


@dataclass(frozen=True, eq=False)
class Pieces:
    """The shape of a function f of one entry that is linear between breakpoints.

    Args:
        breakpoints: in ascending order, numbers or tensors that broadcast to z. Those where f
            goes straight on do no harm.
        jumps: whether f may jump there.
    """

    breakpoints: tuple[Breakpoint, ...]
    jumps: bool = False

    def points(self, like: Tensor) -> list[Tensor]:
        """Return the breakpoints in the shape of ``like``."""
        return [
            b.to(like).expand_as(like) if isinstance(b, Tensor) else torch.full_like(like, b)
            for b in self.breakpoints
        ]

    def beside(self, like: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return where the piece before each breakpoint ends, and where the next one begins.

        Where f jumps these are the numbers next to the breakpoint.
        """
        points = self.points(like)
        if not self.jumps:
            return [(p, p) for p in points]
        return [(_beside(p, -math.inf), _beside(p, math.inf)) for p in points]

    def vertices(self, box: Interval) -> list[Tensor]:
        """Return the ends of the pieces, ascending; of those outside a box its nearer end."""
        inner = itertools.chain(*self.beside(box.lower)) if self.jumps else self.points(box.lower)
        return [box.lower, *map(box.nearest, inner), box.upper]

    def candidates(self, box: Interval) -> list[Tensor]:
        """Return all points where f minus a line can be extreme on the box."""
        at_jumps = self.points(box.lower) if self.jumps else []
        return [*self.vertices(box), *map(box.nearest, at_jumps)]

    def of(self, f: Function, like: Tensor) -> list[Piece]:
        """Return the pieces of f from left to right, in the shape of ``like``.

        The first and the last are read off a stretch of their own as long as their end is far from
        0, at least 1. A piece between two equal breakpoints is empty, and given as constant.
        """
        far, beside, points = torch.full_like(like, math.inf), self.beside(like), self.points(like)
        if not points:
            beside = [(torch.zeros_like(like), torch.zeros_like(like))]
        reach = [1 + end.abs() for end in (beside[0][0], beside[-1][1])]
        starts = [beside[0][0] - reach[0], *(after for _, after in beside)]
        stops = [*(before for before, _ in beside), beside[-1][1] + reach[1]]
        if not points:
            starts, stops = starts[:1], stops[-1:]
        pieces = []
        for z, w, start, stop in zip(starts, stops, [-far, *points], [*points, far], strict=True):
            slope = _through(f, z, w)
            pieces.append(Piece(start, stop, slope, f(w) - slope * w))
        return pieces

    def interval(self, f: Function, box: Interval) -> Interval:
        """Return the image of the box; where f jumps in it, with what is missed beside the jump."""
        values = torch.stack([f(z) for z in self.candidates(box)])
        low, high = values.amin(0), values.amax(0)
        if self.jumps:
            near = [gap * box.holds(p) for p, gap in zip(*self._gaps(box.lower), strict=True)]
            missed = self._steepest(f, box.lower) * torch.stack(near).amax(0)
            low, high = low - missed, high + missed
        return Interval(low, high)

    def lines(self, f: Function, box: Interval, slope: Tensor | None) -> Lines:
        """Return the tightest two lines of one slope around f on the box.

        If none is given, the slope of the piece that the box lies in, or that with the least gap
        between the lines.
        """
        points = self.candidates(box)
        values = [f(z) for z in points]
        if slope is None:
            inner = len(points) - len(self.breakpoints) * self.jumps
            narrowest = self.narrowest(points[:inner], values[:inner])
            slope = self.within(f, box, narrowest)
        gaps = torch.stack([value - slope * z for z, value in zip(points, values, strict=True)])
        return Lines.parallel(slope, gaps.amin(0), gaps.amax(0))

    def within(self, f: Function, box: Interval, otherwise: Tensor) -> Tensor:
        """Return the slope of the piece that a box lies in, or another where it does in none."""
        slope = otherwise
        for piece in self.of(f, box.lower):
            inside = (box.lower >= piece.start) & (box.upper <= piece.stop)
            if self.jumps:
                inside = (box.lower > piece.start) & (box.upper < piece.stop)
            slope = torch.where(inside, piece.slope, slope)
        return slope

    def narrowest(self, vertices: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
        """Return the slope of the two parallel lines that are closest together.

        The gap is convex in the slope. At its least, one line touches two vertices and the other
        one between them, so that a line through two vertices that are not neighbours has this
        slope. With one bend, or if f is convex or concave, it is the chord from end to end; it
        also wins where others are no better but for rounding, as on both sides of a jump. Where a
        jump is steep against rounding, in a box a few ulps wide, both lines are level.
        """
        last = len(vertices) - 1
        pairs = [(0, last)]
        pairs += [(i, j) for i in range(last) for j in range(i + 2, last + 1) if j - i < last]
        slopes = [_slope(vertices[i], vertices[j], values[i], values[j]) for i, j in pairs]
        if self.jumps:
            low, high = vertices[0], vertices[-1]
            size = torch.maximum(low.abs(), high.abs())
            steep = high - low <= size * math.sqrt(torch.finfo(size.dtype).eps)
            slopes = [slope.masked_fill(steep, 0) for slope in slopes]
        if len(slopes) == 1:
            return slopes[0]
        return _least(slopes, [_gap(slope, vertices, values) for slope in slopes])

    def slopes(self, f: Function, box: Interval) -> list[Tensor]:
        """Return the slopes of the lines through any two vertices of f on the box.

        The convex hull of f is made of such lines.
        """
        vertices = self.vertices(box)
        values = [f(z) for z in vertices]
        both_sides = {(i, i + 1) for i in range(1, len(vertices) - 1, 2)} if self.jumps else set()
        return [
            _slope(vertices[i], vertices[j], values[i], values[j])
            for i, j in itertools.combinations(range(len(vertices)), 2)
            if (i, j) not in both_sides
        ]

    def leaves(
        self, f: Function, box: Interval, *, planes: Planes, errors: float, floor: float | Tensor
    ) -> Tensor:
        """Return how far f may leave two lines on the box: it does so most at a vertex.

        A breakpoint that is no float is read as the next one, and there f is as large as its size
        times some slope, which ``errors`` counts. Where f jumps a piece is read at the next number
        that is a float: nearer to the jump it leaves a line by no more than by their slopes.
        """
        missed = []
        for z in self.candidates(box):
            value = f(z)
            size = torch.maximum(value.abs(), torch.as_tensor(floor).to(value)) * (1 + errors)
            missed.append(planes.missed(value, (z,), size))
        if not self.jumps:
            return worst(missed)
        steepest = self._steepest(f, box.lower)
        steepest = steepest + worst([planes.lower_slopes[0].abs(), planes.upper_slopes[0].abs()])
        return up(worst(missed) + 2 * steepest * worst(self._gaps(box.lower)[1]))

    def _steepest(self, f: Function, like: Tensor) -> Tensor:
        """Return how steep f is at most beside its jumps."""
        return worst([piece.slope.abs() for piece in self.of(f, like)])

    def _gaps(self, like: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the breakpoints, and how far the numbers beside them are from each."""
        points = self.points(like)
        gaps = [
            torch.maximum(p - a, b - p) for p, (a, b) in zip(points, self.beside(like), strict=True)
        ]
        return points, gaps


@dataclass(frozen=True, kw_only=True)
class Piecewise(Elementwise):
    """The dual layer of a function made of linear pieces, of which other solvers can read these.

    Args:
        shape: where f bends for a call, and whether it jumps there. ``shape(call).of(call, like)``
            are its pieces, with slopes and intercepts.
        jumps: whether it may jump for some call.
    """

    shape: Callable[[Call], Pieces]
    jumps: bool = False


def pieces(
    *breakpoints: NamedBreakpoint,
    jumps: bool = False,
    nondecreasing: bool = False,
    argument: str = "self",
    lines: Callable[..., Lines] | None = None,
    free: Callable[..., Lines] | None = None,
    beside: Callable[..., Sequence[Planes]] | None = None,
    errors: float | None = None,
    floor: float = 0.0,
) -> Piecewise:
    """Return the dual layer of an elementwise op that is linear between breakpoints.

    f is the op itself. ``pieces(0.0)`` serves ReLU and abs alike.

    Args:
        breakpoints: in ascending order, each a number, the name of the op's argument that holds it
            (a number, a tensor that broadcasts to z, or None for no breakpoint), or a function of
            the call.
        jumps: whether f may jump there.
        nondecreasing: whether f is, so that the ends of a box map to the ends.
        argument: the name of the op's input in its schema or forward.
        lines, free, beside: quicker ways to the same lines.
        errors, floor: how many roundings f as it is computed lies from f at most, relative to the
            result, or to ``floor``, breakpoints rounded to floats included: 0 for ReLU, 2 for a
            product with a number. ``rounding=`` needs it.
    """
    shape = partial(_shape, breakpoints, jumps)
    return Piecewise(
        lines or partial(_ask, shape, Pieces.lines),
        interval=by_endpoints if nondecreasing else partial(_ask, shape, Pieces.interval),
        arguments=(argument,),
        slopes=partial(_ask, shape, Pieces.slopes),
        free=free,
        beside=beside,
        errors=errors,
        floor=floor,
        leaves=partial(_ask, shape, Pieces.leaves),
        shape=shape,
        jumps=jumps,
    )


def _shape(breakpoints: Sequence[NamedBreakpoint], jumps: bool, call: Call) -> Pieces:
    """Return where f bends for a call."""
    return Pieces(_ascending(_read(call, b) for b in breakpoints), jumps)


def _ask(
    shape: Callable[[Call], Pieces], what: Callable[..., Any], call: Call, *args: Any, **named: Any
) -> Any:
    """Ask the pieces of a call, of which ``what`` is a method."""
    return what(shape(call), call, *args, **named)


def enclose(call: Call, box: Interval, slope: Tensor, breakpoints: Sequence[Breakpoint]) -> Lines:
    """Return the tightest two lines with this slope around a continuous f on the box."""
    return Pieces(tuple(breakpoints)).lines(call, box, slope)


def _beside(point: Tensor, side: float) -> Tensor:
    """Return the number next to a point on one side, no smaller than what processors keep.

    It moves with the point when that is differentiated.
    """
    at, tiny = point.detach(), torch.finfo(point.dtype).tiny
    near = torch.nextafter(at, torch.full_like(at, side))
    inwards = (at != 0) & ((at > 0) == (side < 0))
    small = torch.full_like(at, math.copysign(tiny, side)).masked_fill(inwards, 0)
    near = torch.where(near.abs() < tiny, small, near)
    return point + (near - at) if point.requires_grad else near


def _read(call: Call, breakpoint: NamedBreakpoint) -> Breakpoint | None:
    if isinstance(breakpoint, str):
        found: Breakpoint | None = call[breakpoint]
        return found
    return breakpoint(call) if callable(breakpoint) else breakpoint


def _ascending(breakpoints: Iterable[Breakpoint | None]) -> tuple[Breakpoint, ...]:
    """Leave out what is no breakpoint, and put numbers in order."""
    found = [b for b in breakpoints if b is not None]
    if any(isinstance(b, Tensor) for b in found):
        return tuple(found)
    return tuple(sorted(b for b in found if math.isfinite(b)))


def _through(f: Function, z: Tensor, w: Tensor) -> Tensor:
    return _slope(z, w, f(z), f(w))


def _slope(z: Tensor, w: Tensor, f_z: Tensor, f_w: Tensor) -> Tensor:
    """Return the slope of the line through two points, about 0 where they are as good as one."""
    apart = w - z
    one = apart.abs() <= math.sqrt(torch.finfo(apart.dtype).tiny)
    return (f_w - f_z) / apart.masked_fill(one, 1)


def _gap(slope: Tensor, vertices: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """Return how far apart the two lines of this slope are."""
    with torch.no_grad():
        rest = torch.stack([value - slope * z for z, value in zip(vertices, values, strict=True)])
        return (rest.amax(0) - rest.amin(0)).nan_to_num(math.inf)


def _least(slopes: Sequence[Tensor], gaps: Sequence[Tensor]) -> Tensor:
    """Return the slope of the least gap, the first where others gain nothing but rounding."""
    best, least = slopes[0], gaps[0]
    bar = least * (1 - 64 * torch.finfo(least.dtype).eps)
    for slope, gap in zip(slopes[1:], gaps[1:], strict=True):
        better = (gap < least) & (gap < bar)
        best, least = torch.where(better, slope, best), torch.where(better, gap, least)
    return best
