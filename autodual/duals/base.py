"""What a dual layer is.

For an op z ↦ f(z) and a relaxation of it, a dual layer is a pair (g, h) with ν_in = g(ν_out) and

    sup over the relaxation of  −zᵀν_in + f(z)ᵀν_out  ≤  h(ν_in, ν_out).           (Fenchel)

Theorem 3 of the thesis then bounds any network made of such ops. Two kinds cover what is here:

* ``Affine``: f(z) = Az + b. ν_in = Aᵀν_out, h = bᵀν_out. Exact.
* ``Elementwise``: a_l z + b_l ≤ f(z) ≤ a_u z + b_u on [ℓ, u].
  ν_in = a_u[ν_out]₊ + a_l[ν_out]₋, h = b_u[ν_out]₊ + b_l[ν_out]₋.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from autodual.interval import Interval
from autodual.ir import invoke, map_leaves


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


@dataclass(frozen=True, eq=False)
class Lines:
    """Two lines that enclose f on [ℓ, u], elementwise: a_l z + b_l ≤ f(z) ≤ a_u z + b_u.

    When both slopes are the *same tensor* the lines are parallel and the dual layer is linear:
    one set of rows gives lower and upper bounds together.
    """

    lower_slope: Tensor
    lower_intercept: Tensor
    upper_slope: Tensor
    upper_intercept: Tensor

    @classmethod
    def parallel(cls, slope: Tensor, lower: Tensor, upper: Tensor) -> Lines:
        """Two lines with one slope and these intercepts."""
        return cls(slope, lower, slope, upper)

    @property
    def are_parallel(self) -> bool:
        """Whether one slope serves both."""
        return self.lower_slope is self.upper_slope

    def at(self, z: Tensor) -> Interval:
        """Return the values of the two lines at z."""
        return Interval(
            self.lower_slope * z + self.lower_intercept,
            self.upper_slope * z + self.upper_intercept,
        )

    def map(self, f: Callable[[Tensor], Tensor]) -> Lines:
        """Apply ``f`` to all four tensors; parallel lines stay parallel."""
        lower = f(self.lower_slope)
        upper = lower if self.are_parallel else f(self.upper_slope)
        return Lines(lower, f(self.lower_intercept), upper, f(self.upper_intercept))

    def pull(self, nu: Tensor, own: Callable[[Tensor], Tensor] = lambda slope: slope) -> Tensor:
        """Return ν_in = a_u[ν]₊ + a_l[ν]₋; ``own`` brings a slope to the shape of ν."""
        if self.are_parallel:
            return own(self.lower_slope) * nu
        return own(self.upper_slope) * nu.clamp(min=0) + own(self.lower_slope) * nu.clamp(max=0)

    def intercept(self, nu: Tensor) -> Tensor:
        """Return h = b_u[ν]₊ + b_l[ν]₋, elementwise."""
        return self.upper_intercept * nu.clamp(min=0) + self.lower_intercept * nu.clamp(max=0)


@dataclass(frozen=True)
class Elementwise:
    """The dual layer of z ↦ f(z) applied to each entry of one perturbed argument.

    Args:
        lines: (call, interval, slope) → two lines that enclose f on the interval; ``slope``,
            if not None, is a slope given from outside, which both lines must take.
        interval: interval arithmetic for f; endpoints map to endpoints if f is nondecreasing.
        argument: the schema name of the argument it applies to.
        accepts: further conditions on the call.
        slopes: (call, interval) → slopes worth trying besides that of the parallel lines, where
            each of the two lines may have its own. Any are sound.
        partial: whether f has poles or points where it is not defined. On boxes that hold one,
            ``interval`` gives (−∞, ∞), and the bounds of the whole example are lost with it.
    """

    lines: Callable[[Call, Interval, Tensor | None], Lines]
    interval: Callable[[Call, Interval], Interval] = by_endpoints
    argument: str = "self"
    accepts: Callable[[Mapping[str, Any]], bool] = lambda args: True
    slopes: Callable[[Call, Interval], Sequence[Tensor]] = lambda call, box: ()
    partial: bool = False

    def covers(self, names: Sequence[str], args: Mapping[str, Any]) -> bool:
        """Return whether exactly the right argument is perturbed."""
        return tuple(names) == (self.argument,) and self.accepts(args)

    def free_lines(self, call: Call, box: Interval) -> Lines:
        """Return two lines with a slope each: of those tried, the closest to f in the middle."""
        tried = [self.lines(call, box, None)]
        tried += [self.lines(call, box, slope) for slope in self.slopes(call, box)]
        if len(tried) == 1:
            return tried[0]
        ends = [lines.at(box.center) for lines in tried]
        highest = torch.stack([e.lower for e in ends]).nan_to_num(-torch.inf).argmax(0)
        lowest = torch.stack([e.upper for e in ends]).nan_to_num(torch.inf).argmin(0)

        def pick(index: Tensor, choices: list[Tensor]) -> Tensor:
            return torch.stack(choices).gather(0, index.unsqueeze(0)).squeeze(0)

        return Lines(
            pick(highest, [lines.lower_slope for lines in tried]),
            pick(highest, [lines.lower_intercept for lines in tried]),
            pick(lowest, [lines.upper_slope for lines in tried]),
            pick(lowest, [lines.upper_intercept for lines in tried]),
        )

    def dual(self, call: Call, nu: Tensor, box: Interval) -> tuple[Tensor, Tensor]:
        """Return ν_in and h, for rows nu [R, *] over the box [*] of one example."""
        lines = self.lines(call, box, None)
        return lines.pull(nu), lines.intercept(nu).flatten(1).sum(1)


DualLayer = Affine | Elementwise
