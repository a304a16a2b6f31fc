"""Dual layers broken on purpose, each in one way: what a good set of checks must notice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from autodual.duals import Affine, Call, DualLayer, Elementwise, MatrixProduct, Planes
from autodual.duals.relaxed import Slopes
from autodual.interval import Interval

Change = Callable[[Planes, Interval], Planes]

LINES: dict[str, Change] = {
    "slope's sign flipped": lambda n, b: scaled(n, -1),
    "slope 1 % too large": lambda n, b: scaled(n, 1.01),
    "upper intercept dropped": lambda n, b: replace_intercepts(
        n, n.lower_intercept, 0 * n.upper_slopes[0]
    ),
    "lower intercept dropped": lambda n, b: replace_intercepts(
        n, 0 * n.lower_slopes[0], n.upper_intercept
    ),
    "both lines where the lower is": lambda n, b: replace_intercepts(
        n, n.lower_intercept, n.lower_intercept
    ),
    "both lines where the upper is": lambda n, b: replace_intercepts(
        n, n.upper_intercept, n.upper_intercept
    ),
    "lines swapped": lambda n, b: Planes(
        n.upper_slopes, n.upper_intercept, n.lower_slopes, n.lower_intercept
    ),
    "lines 0.1 % too close": lambda n, b: closer(n, 1e-3),
    "upper line 1 % too low": lambda n, b: replace_intercepts(
        n, n.lower_intercept, n.upper_intercept - 0.01 * (n.upper_intercept - n.lower_intercept)
    ),
    "intercepts swapped": lambda n, b: replace_intercepts(n, n.upper_intercept, n.lower_intercept),
}
"""What can go wrong with two lines."""

BOXES: dict[str, Callable[[Interval], Interval]] = {
    "ends swapped": lambda b: Interval(b.upper, b.lower),
    "upper end taken for both": lambda b: Interval(b.upper, b.upper),
    "lower end taken for both": lambda b: Interval(b.lower, b.lower),
    "box 1 % too narrow": lambda b: Interval(b.lower, b.upper - 0.01 * (b.upper - b.lower)),
    "box negated": lambda b: Interval(-b.upper, -b.lower),
}
"""What can go wrong with an interval, before a rule reads it or after it gives it."""

ROWS: dict[str, Callable[[Tensor], Tensor]] = {
    "Aᵀν's sign flipped": lambda p: -p,
    "Aᵀν 1 % too large": lambda p: 1.01 * p,
    "Aᵀν's magnitude": lambda p: p.abs(),
    "Aᵀν's entries reversed": lambda p: p.flatten(1).flip(1).reshape(p.shape),
    "Aᵀν's entries moved by one": lambda p: p.flatten(1).roll(1, 1).reshape(p.shape),
    "Aᵀν of the next row": lambda p: p.roll(1, 0),
}
"""What can go wrong with a transpose."""


def scaled(lines: Planes, factor: float) -> Planes:
    """Return lines with slopes this many times as steep; parallel ones stay parallel."""
    lower = tuple(factor * slope for slope in lines.lower_slopes)
    upper = lower if lines.are_parallel else tuple(factor * slope for slope in lines.upper_slopes)
    return Planes(lower, lines.lower_intercept, upper, lines.upper_intercept)


def replace_intercepts(lines: Planes, lower: Tensor, upper: Tensor) -> Planes:
    """Return lines with other intercepts; parallel ones stay parallel."""
    return Planes(lines.lower_slopes, lower, lines.upper_slopes, upper)


def closer(lines: Planes, share: float) -> Planes:
    """Return lines that are closer together, from both sides."""
    gap = share * (lines.upper_intercept - lines.lower_intercept)
    return replace_intercepts(lines, lines.lower_intercept + gap, lines.upper_intercept - gap)


def mutants(rule: DualLayer) -> dict[str, DualLayer]:
    """Return broken versions of a rule, by what is wrong with them."""
    if isinstance(rule, Affine):
        return _affine(rule)
    if isinstance(rule, MatrixProduct):
        broken = _rows(rule.factor, lambda broken: replace(rule, factor=broken))
        return broken | _intervals(rule)
    return _elementwise(rule) if isinstance(rule, Elementwise) else _intervals(rule)


def _elementwise(rule: Elementwise) -> dict[str, DualLayer]:
    return {**_lines(rule), **_intervals(rule)}


def _lines(rule: Elementwise) -> dict[str, Elementwise]:
    broken: dict[str, Elementwise] = {}
    for name, change in LINES.items():

        def lines(
            call: Call, *given: Interval | Slopes | Tensor | None, change: Change = change
        ) -> Planes:
            return change(rule.lines(call, *given), given[0])  # type: ignore[arg-type]

        broken[name] = replace(rule, lines=lines)
    for name, move in BOXES.items():

        def moved(
            call: Call,
            *given: Interval | Slopes | Tensor | None,
            move: Callable[[Interval], Interval] = move,
        ) -> Planes:
            boxes = [move(part) if isinstance(part, Interval) else part for part in given]
            return rule.lines(call, *boxes)

        broken[f"lines: {name}"] = replace(rule, lines=moved)
    return broken


def _affine(rule: Affine) -> dict[str, DualLayer]:
    broken = _rows(rule, lambda mutant: mutant)
    if not rule.linear:
        broken["taken for linear"] = replace(rule, linear=True, bias=None)
    return broken | _intervals(rule)


def _rows(rule: Affine, wrap: Callable[[Affine], DualLayer]) -> dict[str, DualLayer]:
    broken: dict[str, DualLayer] = {}
    for name, change in ROWS.items():

        def transpose(
            call: Call,
            nu: Tensor,
            shapes: Sequence[torch.Size],
            change: Callable[[Tensor], Tensor] = change,
        ) -> Sequence[Tensor]:
            return [change(p) for p in rule.transpose(call, nu, shapes)]

        broken[name] = wrap(replace(rule, transpose=transpose))
    return broken


def _intervals(rule: DualLayer) -> dict[str, DualLayer]:
    broken: dict[str, DualLayer] = {}
    for name, move in BOXES.items():

        def before(
            call: Call, *boxes: Interval, move: Callable[[Interval], Interval] = move
        ) -> Interval:
            return rule.interval(call, *map(move, boxes))

        def after(
            call: Call, *boxes: Interval, move: Callable[[Interval], Interval] = move
        ) -> Interval:
            return move(rule.interval(call, *boxes))

        kinds = {"reads": before, "gives": after}
        if name == "ends swapped":
            del kinds["reads"]  # a rule may sort the ends itself
        for which, interval in kinds.items():
            changed: DualLayer = replace(rule, interval=interval)  # type: ignore[type-var]
            broken[f"interval {which}: {name}"] = changed
    return broken
