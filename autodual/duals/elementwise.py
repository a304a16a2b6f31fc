"""Ops that apply a function to each entry: two lines, or planes, enclose it on a box.

    a_l z + b_l ≤ f(z) ≤ a_u z + b_u on [ℓ, u],
    ν_in = a_u[ν_out]₊ + a_l[ν_out]₋,    h = b_u[ν_out]₊ + b_l[ν_out]₋,

and likewise with a slope for each of several perturbed arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from autodual.duals.base import Call, DualLayer, always, by_endpoints
from autodual.duals.relaxed import Choice, Equal, Planes, Sides, Slopes
from autodual.errors import InputError
from autodual.interval import Interval


def no_others(call: Call, *boxes: Interval) -> Sequence[Tensor | Slopes]:
    """Return no slope but that of the parallel lines."""
    return ()


def worst(missed: Sequence[Tensor]) -> Tensor:
    """Return the largest of what was missed, at least 0; what is no number is everything."""
    return torch.stack(list(missed)).amax(0).clamp(min=0).nan_to_num(torch.inf, torch.inf)


@dataclass(frozen=True)
class Elementwise(DualLayer):
    """The dual layer of (z₁, …) ↦ f(z₁, …) applied to each entry of its perturbed arguments.

    Args:
        lines: (call, *intervals, slope) → two lines, or planes, that enclose f on the intervals;
            ``slope``, if not None, is a slope given from outside (one for each argument, if
            there are several), which both must take.
        interval: interval arithmetic for f; endpoints map to endpoints if f is nondecreasing.
        arguments: the schema names of the arguments it applies to, all of the output's shape.
        listed: whether its one argument is a list of any number of tensors.
        accepts: further conditions on the call.
        slopes: (call, *intervals) → slopes worth trying besides that of the parallel lines, where
            each of the two lines may have its own. Any are sound.
        free: (call, *intervals, at=points) → two planes with slopes of their own, where there is a
            better way to find them than to try ``slopes``.
        beside: (call, *intervals, chosen=planes) → further planes, of which with the chosen ones
            means are made, where these are others than those of ``slopes``.
        partial: whether f has poles or points where it is not defined. On boxes that hold one,
            ``interval`` gives (−∞, ∞), and the bounds of the whole example are lost with it.
        errors, floor: as for any dual layer; 0 where f chooses among numbers that are there.
        sizes: (call, *intervals) → how large what f adds up is at most, in place of ``floor``.
        leaves: (call, *intervals, planes=, errors=, floor=) → how far f may leave two planes, see
            ``DualLayer.slack``.
    """

    lines: Callable[..., Planes]
    interval: Callable[..., Interval] = by_endpoints
    arguments: tuple[str, ...] = ("self",)
    listed: bool = False
    accepts: Callable[[Mapping[str, Any]], bool] = always
    slopes: Callable[..., Sequence[Tensor | Slopes]] = no_others
    free: Callable[..., Planes] | None = None
    beside: Callable[..., Sequence[Planes]] | None = None
    partial: bool = False
    errors: float | None = None
    floor: float = 0.0
    sizes: Callable[..., Tensor] | None = None
    leaves: Callable[..., Tensor] | None = None
    takes_slopes: ClassVar[bool] = True

    @property
    def slopes_free(self) -> bool:  # type: ignore[override]
        """Whether other slopes are worth trying."""
        return self.free is not None or self.slopes is not Elementwise.slopes

    @property
    def kind(self) -> str:  # type: ignore[override]
        """Lines, or planes for several arguments."""
        return "two planes" if self.several else "two lines"

    @property
    def several(self) -> bool:
        """Whether it applies to several entries, with a slope for each."""
        return self.listed or len(self.arguments) > 1

    def covers(self, names: Sequence[str], args: Mapping[str, Any]) -> bool:
        """Return whether exactly the right arguments are perturbed."""
        return tuple(names) == self.arguments and self.accepts(args)

    def relax(
        self,
        call: Call,
        *boxes: Interval,
        slopes: Choice | None = None,
        at: Sequence[Tensor] | None = None,
    ) -> Planes:
        """Return two lines or planes that enclose f on the boxes."""
        if slopes is not None:
            return self._with(call, boxes, slopes)
        return self.lines(call, *boxes, None) if at is None else self._free(call, boxes, at)

    def open(self, call: Call, *boxes: Interval) -> Sequence[Tensor]:
        """Return where the planes do not meet."""
        return [~self.lines(call, *boxes, None).meet] * len(boxes)

    def facets(self, call: Call, *boxes: Interval, chosen: Planes) -> Sequence[Planes]:
        """Return planes beside those that were chosen."""
        if self.beside is not None:
            return self.beside(call, *boxes, chosen=chosen)
        return self._tried(call, boxes)

    def slack(self, call: Call, *boxes: Interval, planes: Planes) -> Tensor | None:
        """Return how far f may leave two computed planes on the boxes."""
        if self.errors is None or self.leaves is None:
            return None
        floor = self.floor if self.sizes is None else self.sizes(call, *boxes)
        return self.leaves(call, *boxes, planes=planes, errors=self.errors, floor=floor)

    def floor_on(self, call: Call, *boxes: Interval) -> Tensor:
        """Return the size as which a smaller result counts."""
        return super().floor_on(call, *boxes) if self.sizes is None else self.sizes(call, *boxes)

    def _tried(self, call: Call, boxes: Sequence[Interval]) -> list[Planes]:
        """Return the parallel planes, and those of further slopes."""
        slopes = (None, *self.slopes(call, *boxes))
        return [self.lines(call, *boxes, slope) for slope in slopes]

    def _free(self, call: Call, boxes: Sequence[Interval], point: Sequence[Tensor]) -> Planes:
        """Return two planes with slopes of their own: of those tried, closest to f at a point.

        Where the parallel lines meet, all others could only add rounding errors: large ones around
        the padding of a max pool. Those that are better by no more than rounding are not taken
        either: the choice would be a toss.
        """
        if self.free is not None:
            return self.free(call, *boxes, at=point)
        tried = self._tried(call, boxes)
        if len(tried) == 1:
            return tried[0]
        ends, exact = [lines.ends(*point) for lines in tried], tried[0].meet
        toss = tried[0].rounding(*point)
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

    def _with(self, call: Call, boxes: Sequence[Interval], slopes: Choice) -> Planes:
        """Return planes with slopes from outside, the same for both or some for each side."""
        if not isinstance(slopes, Sides):
            return self.lines(call, *boxes, _fitting(slopes, boxes))
        sides = (_fitting(side, boxes) for side in (slopes.lower, slopes.upper))
        low, high = (self.lines(call, *boxes, side) for side in sides)
        return Planes(
            low.lower_slopes, low.lower_intercept, high.upper_slopes, high.upper_intercept
        )

    def formula(self, out: str, variables: Sequence[str]) -> str:
        """Return ν_in and h."""
        lines = f"{', '.join(variables)} += a_u[{out}]₊ + a_l[{out}]₋"
        return f"{lines}, h = b_u[{out}]₊ + b_l[{out}]₋"


def _fitting(slopes: Equal, boxes: Sequence[Interval]) -> Equal:
    """Return slopes of the shape of the boxes, one for each of them.

    Raises:
        InputError: there are too many or too few, or their shapes do not fit.
    """
    shape, given = boxes[0].lower.shape, slopes if isinstance(slopes, tuple) else (slopes,)
    try:
        wide = tuple(slope.expand(shape) for slope in given)
    except RuntimeError:
        wide = ()
    if len(wide) != len(boxes):
        raise InputError(
            f"slopes have shapes {[list(s.shape) for s in given]}: the op takes {len(boxes)} that "
            f"broadcast to {list(shape)}"
        )
    return wide if isinstance(slopes, tuple) else wide[0]
