"""What is left for rounding where ``rounding=`` does not charge it: a rule of thumb, no proof."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from autodual.bound.outward import adds
from autodual.bound.plan import Plan
from autodual.duals import Affine
from autodual.front.evaluate import run_nodes
from autodual.front.ir import Value
from autodual.rounding import roundoff

INSIDE = 256
"""How many roundoffs of its terms a sum inside a network may be off."""

POINTS, ENTRIES = 32, 2**22
"""How many points terms are looked at, at most, and how many entries a value has at all of them."""


def room(dtype: torch.dtype) -> float:
    """Return which part of all terms of a last sum is left for rounding, theirs included.

    It is 4e-11 in float64 and 2e-5 in float32, far more than an ulp an op.
    """
    return float(torch.finfo(dtype).eps ** (2 / 3))


def points_for(plan: Plan) -> int:
    """Return at how many points terms are looked at."""
    widest = max(step.out.numel for step in plan.steps) if plan.steps else 1
    return max(1, min(POINTS, ENTRIES // widest))


@torch.no_grad()
def room_inside(plan: Plan, given: Mapping[Value, Tensor], x: Tensor) -> dict[Value, Tensor]:
    """Return how far each affine op inside a network may be off, [1, *size(1)] by its value.

    Where numbers inside are far larger than what is left of them, the last sums do not show how
    much was rounded. What is left here is a part of |A||z| + |b|, the largest at some points.

    Args:
        plan: the network's.
        given: what its graph is given.
        x: some points [P, *].
    """
    env, count = {**given, plan.graph.perturbed: x}, len(x)
    run_nodes(plan.graph.nodes, env, count)
    found = dict[Value, Tensor]()
    for step in plan.steps:
        if isinstance(step.rule, Affine):
            call = step.call(env, count)
            if adds(step, step.rule, call):
                terms = step.rule.extent(call, *(env[v].abs() for v in step.variables))
                each = step.out.per_example(terms, count).nan_to_num(0, 0, 0)
                found[step.out] = INSIDE * roundoff(x.dtype) * each.amax(0, keepdim=True)
    return found
