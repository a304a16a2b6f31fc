"""What a dual layer is.

For an op z ↦ f(z) and a relaxation of it, a dual layer is a pair (g, h) with ν_in = g(ν_out) and

    sup over the relaxation of  −zᵀν_in + f(z)ᵀν_out  ≤  h(ν_in, ν_out).           (Fenchel)

Theorem 3 of the thesis then bounds any network made of such ops. Four kinds cover what is here:

* ``Affine``: f(z) = Az + b. ν_in = Aᵀν_out, h = bᵀν_out. Exact.
* ``Elementwise``: a_l z + b_l ≤ f(z) ≤ a_u z + b_u on [ℓ, u].
  ν_in = a_u[ν_out]₊ + a_l[ν_out]₋, h = b_u[ν_out]₊ + b_l[ν_out]₋. Of several arguments
  likewise, with a slope for each.
* ``Bilinear``: products of two perturbed arguments, entry by entry or of matrices.
* ``IntervalRule``: ℓ ≤ f(z) ≤ u, where nothing better is known and the user allows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from autodual.duals.planes import Planes, Slopes
from autodual.errors import InputError
from autodual.front.ir import invoke, map_leaves
from autodual.interval import Interval


@dataclass(frozen=True)
class Hole:
    """The place of the ``index``-th perturbed argument in a ``Call``."""

    index: int


@dataclass(frozen=True, eq=False)
class Call:
    """An op with everything bound but its perturbed arguments: the function z ↦ f(z).

    ``call["weight"]`` is the argument with that name in the op's schema.
    """

    target: Callable[..., Any]
    args: Mapping[str, Any]
    index: int | None = None

    def __call__(self, *z: Tensor) -> Tensor:
        """Evaluate the op at its perturbed arguments."""

        def fill(leaf: Any) -> Any:
            return z[leaf.index] if isinstance(leaf, Hole) else leaf

        args = {name: map_leaves(arg, fill) for name, arg in self.args.items()}
        result: Tensor = invoke(self.target, args, self.index)
        return result

    def __getitem__(self, name: str) -> Any:
        if name not in self.args:
            raise InputError(f"the call has no argument {name!r}; it has {', '.join(self.args)}")
        return self.args[name]

    def replace(self, changes: Mapping[str, Any]) -> Call:
        """Return the same call with other constant arguments."""
        return Call(self.target, {**self.args, **changes}, self.index)


Transpose = Callable[[Call, Tensor, Sequence[torch.Size]], Sequence[Tensor]]


def transpose_by_vjp(call: Call, nu: Tensor, shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
    """Return Aᵀν for each perturbed argument, for any affine op.

    Args:
        call: the op, for one example.
        nu: rows [R, *out].
        shapes: the shape of each perturbed argument, for one example.
    """
    primals = [torch.zeros(shape, dtype=nu.dtype, device=nu.device) for shape in shapes]
    pull = torch.func.vjp(call, *primals)[1]
    pulled: Sequence[Tensor] = torch.func.vmap(pull)(nu)
    return pulled


def by_endpoints(call: Call, *z: Interval) -> Interval:
    """Bound an op whose matrix A has no negative entry: the ends map to the ends."""
    return Interval(call(*(i.lower for i in z)), call(*(i.upper for i in z)))


@dataclass(frozen=True)
class Window:
    """Which part of an image an output pixel reads: output i the inputs from i·stride − padding.

    ``local`` are the changes to the call's arguments that make it run on a window alone, without
    padding. An op is pointwise if it reads one pixel for each, the same way everywhere.
    """

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    local: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pointwise(self) -> bool:
        """Whether windows neither grow nor move."""
        return (self.kernel, self.stride, self.padding) == ((1, 1), (1, 1), (0, 0))


def pair(sizes: Sequence[int]) -> tuple[int, int]:
    """Return sizes given for both dimensions of an image, or once for both."""
    return sizes[0], sizes[-1]


def pixel_by_pixel(call: Call) -> Window | None:
    """Return the window of an op that does the same at every pixel, or None if it may not."""
    constants = [arg for arg in call.args.values() if isinstance(arg, Tensor)]
    same = all(c.dim() == 0 or (c.dim() > 2 and c.shape[-2:] == (1, 1)) for c in constants)
    return Window() if same else None


@dataclass(frozen=True)
class Affine:
    """The dual layer of an op that is affine in its perturbed arguments. Exact.

    Args:
        together: names of the arguments in which the op is *jointly* affine.
        alone: names of arguments in which it is affine while all others are constant.
        interval: interval arithmetic for the op, given its ``Call`` and one interval for each
            perturbed argument.
        transpose: (call, ν [R, *out], shapes) → Aᵀν [R, *in] per perturbed argument.
        accepts: further conditions on the call, for ops that are affine only sometimes.
        window: for ops on images [N, C, H, W] that read a window per output pixel, which one;
            rows then travel as patches. None where the op does not, or not everywhere alike.
        bias: the name of an argument that is the op's whole constant part, so that the op
            without it is linear; None if there is no such argument.
        linear: whether the op has no constant part at all: f(0) = 0.
    """

    together: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    interval: Callable[..., Interval] = by_endpoints
    transpose: Transpose = transpose_by_vjp
    accepts: Callable[[Mapping[str, Any]], bool] = lambda args: True
    window: Callable[[Call], Window | None] = lambda call: None
    bias: str | None = None
    linear: bool = False

    def covers(self, names: Sequence[str], args: Mapping[str, Any]) -> bool:
        """Return whether the op is affine when the arguments called ``names`` are perturbed."""
        jointly = set(names) <= set(self.together)
        singly = len(names) == 1 and names[0] in self.alone
        return (jointly or singly) and self.accepts(args)

    def linear_part(self, call: Call) -> tuple[Call, bool]:
        """Return the op with its bias removed, and whether a constant part may be left."""
        if self.bias is not None:
            return call.replace({self.bias: None}), False
        return call, not self.linear

    def dual(
        self, call: Call, nu: Tensor, shapes: Sequence[torch.Size]
    ) -> tuple[Sequence[Tensor], Tensor]:
        """Return ν_in = Aᵀν_out per argument and h = bᵀν_out, for rows nu [R, *out]."""
        zeros = [torch.zeros(shape, dtype=nu.dtype, device=nu.device) for shape in shapes]
        bias = call(*zeros)
        return self.transpose(call, nu, shapes), (nu * bias).flatten(1).sum(1)


@dataclass(frozen=True)
class Elementwise:
    """The dual layer of (z₁, …) ↦ f(z₁, …) applied to each entry of its perturbed arguments.

    Args:
        lines: (call, *intervals, slope) → two lines, or planes, that enclose f on the intervals;
            ``slope``, if not None, is a slope given from outside (one for each argument, if
            there are several), which both must take.
        interval: interval arithmetic for f; endpoints map to endpoints if f is nondecreasing.
        arguments: the schema names of the arguments it applies to, all of the output's shape.
        accepts: further conditions on the call.
        slopes: (call, *intervals) → slopes worth trying besides that of the parallel lines, where
            each of the two lines may have its own. Any are sound.
        free: (call, *intervals, at=points) → two planes with slopes of their own, where there is a
            better way to find them than to try ``slopes``.
        partial: whether f has poles or points where it is not defined. On boxes that hold one,
            ``interval`` gives (−∞, ∞), and the bounds of the whole example are lost with it.
    """

    lines: Callable[..., Planes]
    interval: Callable[..., Interval] = by_endpoints
    arguments: tuple[str, ...] = ("self",)
    accepts: Callable[[Mapping[str, Any]], bool] = lambda args: True
    slopes: Callable[..., Sequence[Tensor | Slopes]] = lambda call, *boxes: ()
    free: Callable[..., Planes] | None = None
    partial: bool = False

    def covers(self, names: Sequence[str], args: Mapping[str, Any]) -> bool:
        """Return whether exactly the right arguments are perturbed."""
        return tuple(names) == self.arguments and self.accepts(args)

    def free_lines(
        self, call: Call, *boxes: Interval, at: Sequence[Tensor] | None = None
    ) -> Planes:
        """Return two planes with slopes of their own: of those tried, closest to f at a point.

        The point is the middle of the box if not given. Where the parallel lines meet, all others
        could only add rounding errors: large ones around the padding of a max pool. Those that
        are better by no more than rounding are not taken either: the choice would be a toss.
        """
        point = [box.center for box in boxes] if at is None else at
        if self.free is not None:
            return self.free(call, *boxes, at=point)
        tried = [self.lines(call, *boxes, None)]
        tried += [self.lines(call, *boxes, slope) for slope in self.slopes(call, *boxes)]
        if len(tried) == 1:
            return tried[0]
        ends, exact = [lines.at(*point) for lines in tried], tried[0].meet
        toss = tried[0].map(torch.abs).at(*map(torch.abs, point)).map(_rounding)
        ends[0] = Interval(ends[0].lower + toss.lower, ends[0].upper - toss.upper)
        highest = torch.stack([e.lower for e in ends]).nan_to_num(-torch.inf).argmax(0)
        lowest = torch.stack([e.upper for e in ends]).nan_to_num(torch.inf).argmin(0)
        highest, lowest = (index.masked_fill(exact, 0) for index in (highest, lowest))

        def pick(index: Tensor, choices: Sequence[Tensor]) -> Tensor:
            return torch.stack(list(choices)).gather(0, index.unsqueeze(0)).squeeze(0)

        lower_slopes = zip(*(planes.lower_slopes for planes in tried), strict=True)
        upper_slopes = zip(*(planes.upper_slopes for planes in tried), strict=True)
        return Planes(
            tuple(pick(highest, slopes) for slopes in lower_slopes),
            pick(highest, [planes.lower_intercept for planes in tried]),
            tuple(pick(lowest, slopes) for slopes in upper_slopes),
            pick(lowest, [planes.upper_intercept for planes in tried]),
        )

    def dual(self, call: Call, nu: Tensor, *boxes: Interval) -> tuple[Sequence[Tensor], Tensor]:
        """Return ν_in per argument and h, for rows nu [R, *] over boxes [*] of one example."""
        planes = self.lines(call, *boxes, None)
        return planes.pull(nu), planes.intercept(nu).flatten(1).sum(1)


def _rounding(size: Tensor) -> Tensor:
    """Return what rounding may do to sums of terms whose magnitudes add up to ``size``."""
    return (64 * torch.finfo(size.dtype).eps * size).nan_to_num(0, 0, 0)


@dataclass(frozen=True)
class Bilinear:
    """The dual layer of an op f(x, y) = Σ xᵢyⱼ, the sum over some pairs for each entry.

    With one argument constant it is affine. With both perturbed, c the centers and r the radii
    of their boxes, f is a linear function and a rest:

        f(x, y) = f(x, c_y) + f(c_x, y) − f(c_x, c_y) + f(x − c_x, y − c_y).

    The rest lies within ±f(r_x, r_y), so that, with the transposes of f in each argument alone,

        ν_x = f(·, c_y)ᵀν,    ν_y = f(c_x, ·)ᵀν,    h = −f(c_x, c_y)ᵀν + f(r_x, r_y)ᵀ|ν|.

    Args:
        alone: the op with one argument perturbed.
        interval: interval arithmetic for the op with both perturbed.
        planes: for products entry by entry, planes of any slopes around them.
    """

    alone: Affine
    interval: Callable[[Call, Interval, Interval], Interval]
    planes: Elementwise | None = None

    def covers(self, names: Sequence[str], args: Mapping[str, Any]) -> bool:
        """Return whether one of the two arguments is perturbed, or both are."""
        return all(self.alone.covers([name], args) for name in names) and 0 < len(names) <= 2

    def dual(
        self, call: Call, nu: Tensor, x: Interval, y: Interval
    ) -> tuple[Sequence[Tensor], Tensor]:
        """Return ν_x, ν_y and h, for rows nu [R, *] over the boxes of one example."""
        (to_x, to_y), shapes = self.sides(call, x, y), (x.lower.shape, y.lower.shape)
        pulled = [
            self.alone.transpose(side, nu, [shape])[0]
            for side, shape in zip((to_x, to_y), shapes, strict=True)
        ]
        h = nu.abs() * self.rest(call, x, y) - nu * call(x.center, y.center)
        return pulled, h.flatten(1).sum(1)

    @staticmethod
    def rest(call: Call, x: Interval, y: Interval) -> Tensor:
        """Return f(r_x, r_y): how far f can lie from its linear part."""
        return call(x.radius, y.radius)

    @staticmethod
    def sides(call: Call, x: Interval, y: Interval) -> tuple[Call, Call]:
        """Return x ↦ f(x, c_y) and y ↦ f(c_x, y)."""
        one, other = (name for name, arg in call.args.items() if isinstance(arg, Hole))
        return (
            call.replace({other: y.center}),
            call.replace({one: x.center, other: Hole(0)}),
        )


@dataclass(frozen=True)
class IntervalRule:
    """The dual layer of any op ℓ ≤ f(z) ≤ u of which only these ends are known.

    They are two lines of slope 0: ν_in = 0, h = u[ν_out]₊ + ℓ[ν_out]₋. No row passes, and what
    the entries of f(z) have in common is lost: used only where the user allows it.

    Args:
        interval: interval arithmetic for f; endpoints map to endpoints if f is nondecreasing.
        arguments: the schema names of the arguments that may be perturbed.
    """

    interval: Callable[..., Interval] = by_endpoints
    arguments: tuple[str, ...] = ("self",)

    def covers(self, names: Sequence[str], args: Mapping[str, Any]) -> bool:
        """Return whether only these arguments are perturbed."""
        return set(names) <= set(self.arguments)

    def dual(self, call: Call, nu: Tensor, *boxes: Interval) -> tuple[Sequence[Tensor], Tensor]:
        """Return ν_in per argument and h, for rows nu [R, *] over boxes of one example."""
        image = self.interval(call, *boxes)
        h = image.upper * nu.clamp(min=0) + image.lower * nu.clamp(max=0)
        return [nu.new_zeros(len(nu), *box.lower.shape) for box in boxes], h.flatten(1).sum(1)


DualLayer = Affine | Elementwise | Bilinear | IntervalRule
