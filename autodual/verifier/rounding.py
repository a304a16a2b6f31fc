"""What is left for rounding where ``rounding=`` does not charge it: a rule of thumb, no proof."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from autodual.bound.outward import adds
from autodual.bound.plan import Plan, Step
from autodual.duals import Affine, Call, MatrixProduct
from autodual.front.evaluate import run_nodes
from autodual.front.ir import Value
from autodual.interval import Interval
from autodual.rounding import roundoff
from autodual.working import check_time

INSIDE, FEW = 256, 4
"""How many roundoffs of its terms a value inside a network may be off: of terms as they are at some
points, and as large as interval arithmetic lets them be."""

MOST = 1e-3
"""Which part of terms at some points that may be at most: interval arithmetic is loose."""

POINTS, ENTRIES = 32, 2**22
"""How many points are looked at together, and how many entries a value has at all of them."""

Sizes = dict[Value, Tensor]
"""How large the terms of values are, [1 or B, *size(1)]."""

Image = Callable[[Step, Call, Sequence[Interval]], Interval]
"""(step, its call, where what it reads lies) → where its value lies."""


def room(dtype: torch.dtype) -> float:
    """Return which part of all terms of a last sum is left for rounding, theirs included.

    It is 4e-11 in float64 and 2e-5 in float32, far more than an ulp an op.
    """
    return float(torch.finfo(dtype).eps ** (2 / 3))


@torch.no_grad()
def room_inside(
    plan: Plan, given: Mapping[Value, Tensor], lower: Tensor, upper: Tensor
) -> Mapping[Value, Tensor]:
    """Return how far values inside a network may be off, [1, *size(1)].

    Where numbers inside are far larger than what is left of them, the last sums do not show how
    much was rounded. What is left here is a part of what an op adds up, |A||z| + |b|, or else of
    its result.

    Args:
        plan: the network's.
        given: what its graph is given.
        lower, upper: the ends of boxes [B, *] of its input.
    """
    dtype, found = lower.dtype, dict[Value, Tensor]()
    points, boxes = Sizes(), Sizes()
    for x in _points(lower, upper, _together(plan)):
        sizes = _sizes(plan, given, Interval(x, x), _at_points)
        _larger(points, {v: size.nan_to_num(0, torch.inf) for v, size in sizes.items()})
    for i in torch.arange(len(lower), device=lower.device).split(_together(plan)):
        _larger(boxes, _sizes(plan, given, Interval(lower[i], upper[i]), _on_boxes))
    for value, size in points.items():
        most = (FEW * roundoff(dtype) * boxes[value]).nan_to_num(torch.inf, torch.inf)
        most = torch.minimum(most, MOST * size)
        found[value] = torch.maximum(INSIDE * roundoff(dtype) * size, most)
    return found | _moved(plan, given, lower[:1], found)


def _together(plan: Plan) -> int:
    """Return how many points are looked at together."""
    widest = max((step.out.numel for step in plan.steps), default=1)
    return max(1, min(POINTS, ENTRIES // widest))


def _points(lower: Tensor, upper: Tensor, count: int) -> Iterator[Tensor]:
    """Yield points of boxes: the middle of each, its ends, and corners and others at random."""
    total = max(3 * len(lower), count)
    place = torch.arange(total)
    draw, turn = torch.Generator().manual_seed(0), place // len(lower)
    share = torch.rand(total, *lower.shape[1:], generator=draw, dtype=lower.dtype)
    share[turn % 2 == 1] = share[turn % 2 == 1].round()
    for i, at in enumerate((0.5, 0.0, 1.0)):
        share[turn == i] = at
    for i in place.split(count):
        case = (i % len(lower)).to(lower.device)
        yield torch.lerp(lower[case], upper[case], share[i].to(lower))


def _larger(known: Sizes, more: Sizes) -> None:
    """Note what is larger than was known on any of some boxes."""
    for value, size in more.items():
        most = size.amax(0, keepdim=True)
        known[value] = torch.fmax(known[value], most) if value in known else most


def _at_points(step: Step, call: Call, boxes: Sequence[Interval]) -> Interval:
    """Return an op's value at points, which boxes without width stand for."""
    z = call(*(box.lower for box in boxes))
    return Interval(z, z)


def _on_boxes(step: Step, call: Call, boxes: Sequence[Interval]) -> Interval:
    """Return what interval arithmetic says of an op's value."""
    return step.rule.interval(call, *boxes)


def _sizes(plan: Plan, given: Mapping[Value, Tensor], box: Interval, image: Image) -> Sizes:
    """Return how large terms are on each of some boxes [B, *], [B, *size(1)]; NaN where it fails.

    Args:
        image: what says of each op's value where it lies, given where what it reads does.
    """
    check_time()
    env, count, found = {**given, plan.graph.perturbed: box.lower}, len(box.lower), Sizes()
    run_nodes(plan.graph.prelude, env, count)
    known = {plan.graph.perturbed: box}
    for step in plan.steps:
        call, boxes = step.call(env, count), [known[v] for v in step.variables]
        known[step.out] = image(step, call, boxes)
        terms = _terms(step, call, boxes, known[step.out])
        if terms is not None:
            found[step.out] = step.out.per_example(terms, count)
    return found


def _moved(plan: Plan, given: Mapping[Value, Tensor], x: Tensor, found: Sizes) -> Sizes:
    """Return how far those values may be off that ops only move, where intervals of them count."""
    env, off = {**given, plan.graph.perturbed: x}, dict(found)
    run_nodes(plan.graph.prelude, env, 1)
    for step in plan.steps:
        rule, inputs = step.rule, step.variables
        if isinstance(rule, Affine) and step.out not in off and any(v in off for v in inputs):
            sizes = [v.in_layout(off.get(v, x.new_zeros(1, *v.size(1)))) for v in inputs]
            moved = rule.extent(step.call(env, 1), *sizes, constant=False)
            off[step.out] = step.out.per_example(moved, 1)
    return {v: size for v, size in off.items() if v not in found and v in plan.bounded}


def _terms(step: Step, call: Call, boxes: Sequence[Interval], image: Interval) -> Tensor | None:
    """Return how large what an op adds up is at most, or its result; None if it rounds nothing."""
    rule, sizes = step.rule, [box.magnitude for box in boxes]
    if isinstance(rule, Affine):
        return rule.extent(call, *sizes) if adds(step, rule, call) else None
    if isinstance(rule, MatrixProduct):
        return call(*sizes)
    if rule.errors == 0:
        return None
    return torch.maximum(image.magnitude, rule.floor_on(call, *boxes))
