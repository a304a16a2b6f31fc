"""Ops that are affine in their perturbed arguments: f(z) = Az + b."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from autodual.duals.base import Call, DualLayer, always, by_endpoints
from autodual.duals.relaxed import Choice, Exact
from autodual.interval import Interval

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


def summed(nu: Tensor, shape: torch.Size) -> Tensor:
    """Return rows [R, *out] over an argument [*shape] that was broadcast: sums over its copies."""
    if nu.shape[1:] == shape:
        return nu
    wide = (*[1] * (nu.dim() - 1 - len(shape)), *shape)
    return nu.sum_to_size(len(nu), *wide).reshape(len(nu), *shape)


def behind(dim: int) -> int:
    """Return where a dimension of an argument lies in rows of it, [R, *]."""
    return dim if dim < 0 else dim + 1


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


Terms = Callable[[Call, int, int], tuple[int, int]]
"""(call, entries of one example that it reads, that it gives) → how many numbers are rounded on the
way to an entry of f(z), and to one of Aᵀν, at most."""


def no_sums(call: Call, read: int, given: int) -> tuple[int, int]:
    """Return that an op moves entries, each to one place at most: nothing is rounded."""
    return 0, 0


def copies(call: Call, read: int, given: int) -> tuple[int, int]:
    """Return that an op copies every entry equally often."""
    return 0, -(-given // max(1, read))


def picks(call: Call, read: int, given: int) -> tuple[int, int]:
    """Return that an op copies entries, any of them anywhere."""
    return 0, given


def sums(call: Call, read: int, given: int) -> tuple[int, int]:
    """Return that any entry may be a sum of all, and a mean."""
    return read + 3, given + 3


def no_window(call: Call) -> Window | None:
    """Return that output pixels read no window each."""
    return None


def pair(sizes: Sequence[int]) -> tuple[int, int]:
    """Return sizes given for both dimensions of an image, or once for both."""
    return sizes[0], sizes[-1]


def pixel_by_pixel(call: Call) -> Window | None:
    """Return the window of an op that does the same at every pixel, or None if it may not."""
    constants = [arg for arg in call.args.values() if isinstance(arg, Tensor)]
    same = all(c.dim() == 0 or (c.dim() > 2 and c.shape[-2:] == (1, 1)) for c in constants)
    return Window() if same else None


@dataclass(frozen=True)
class Affine(DualLayer):
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
        reads_one: whether each entry of the result reads one entry at most of each perturbed
            argument, as those of views, moves, and sums and products with constants do. Intervals
            that are exact stay so.
        repeats: whether several entries of the result may read the same one, even where there are
            no more of them.
        terms: how many numbers are rounded on the way to an entry of the result, and to one of a
            row pulled back; None where nobody has counted, so that ``rounding=`` refuses the op.
        absolute: (call, whether with |b|) → z ↦ |A| z + |b|, where it is quicker than by
            ``interval``.
    """

    together: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    interval: Callable[..., Interval] = by_endpoints
    transpose: Transpose = transpose_by_vjp
    accepts: Callable[[Mapping[str, Any]], bool] = always
    window: Callable[[Call], Window | None] = no_window
    bias: str | None = None
    linear: bool = False
    reads_one: bool = False
    repeats: bool = False
    terms: Terms | None = None
    absolute: Callable[[Call, bool], Callable[..., Tensor]] | None = None
    exact: ClassVar[bool] = True
    kind: ClassVar[str] = "affine, exact"

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments that may be perturbed."""
        return self.together + self.alone

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

    def extent(self, call: Call, *sizes: Tensor, constant: bool = True) -> Tensor:
        """Return |A| z + |b| for sizes z ≥ 0, or |A| z."""
        if self.absolute is not None:
            return self.absolute(call, constant)(*sizes)
        box = self.interval(call, *(Interval(-size, size) for size in sizes))
        return torch.maximum(-box.lower, box.upper) if constant else box.radius

    def relax(
        self,
        call: Call,
        *boxes: Interval,
        slopes: Choice | None = None,
        at: Sequence[Tensor] | None = None,
    ) -> Exact:
        """Return the op itself."""
        return Exact(call, self.transpose)

    def formula(self, out: str, variables: Sequence[str]) -> str:
        """Return ν_in and h."""
        return f"{', '.join(variables)} += Aᵀ{out}, h = bᵀ{out}"
