"""Where the intervals of a bound widen until they tell nothing: looked for after the fact."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from autodual.bound.module import BoundModule, Env
from autodual.front.evaluate import run_nodes
from autodual.interval import Interval
from autodual.threat import ThreatModel


@torch.no_grad()
def widened(
    bound: BoundModule, env: Env, threat: ThreatModel, index: Tensor, times: float, infinite: bool
) -> str:
    """Say from where on intervals are wide, for the example at ``index`` [1].

    Interval arithmetic alone goes through the plan, from the set to the output, whatever the method
    is: its intervals may be wide before the method's own are, and infinite where those are not.

    Args:
        times: wide is more than so many times the largest entry that the value, or the output, has
            at x.
        infinite: what is merely wide counts only if nothing is infinite.

    Returns:
        A clause with the first node; an empty one if no interval is so wide.
    """
    graph = bound.plan.graph
    around = threat.select(env[graph.perturbed], index)
    values = dict(bound.select(bound.complete(env), index))
    own = dict(values)
    run_nodes(graph.body, values, 1)
    least, wide = _most(values[graph.output]), ""
    for member in around.members:
        boxes = {graph.perturbed: member.interval(own[graph.perturbed])}
        if _width(boxes[graph.perturbed]) > times * max(least, _most(values[graph.perturbed])):
            return "the set itself is as wide"
        for step in bound.plan.steps:
            read = [boxes[v] for v in step.variables]
            image = step.rule.interval(step.call(own, 1), *read)
            boxes[step.out] = box = bound.plan.within(step.out, image)
            width = _width(image if step.rule.partial else box)
            if not width > times * max(least, _most(values[step.out])):
                continue
            unbounded = math.isinf(width)
            how = "infinite" if unbounded else "as wide"
            said = f"intervals are {how} from {step.node.where} on, by interval arithmetic alone"
            if unbounded or not infinite:
                return said
            wide = wide or said
    return wide


def _most(tensor: Tensor) -> float:
    """Return the largest entry's size; what is no number does not count."""
    return float(tensor.abs().nan_to_num(0, math.inf).amax()) or torch.finfo(tensor.dtype).tiny


def _width(box: Interval) -> float:
    """Return the largest width; what is no number is nothing known."""
    return float((box.upper - box.lower).nan_to_num(math.inf, math.inf).amax())
