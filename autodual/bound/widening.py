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
def widened(bound: BoundModule, env: Env, threat: ThreatModel, index: Tensor, times: float) -> str:
    """Say from where on intervals are wide, for the example at ``index`` [1].

    Wide is more than ``times`` the largest entry that the value, or the output, has at x. The
    example is bounded once more: what nonlinear ops read has the bound's own intervals, and from
    these interval arithmetic goes on to the next such value.

    Returns:
        A clause with the first node; an empty one if no interval is so wide.
    """
    graph, around = bound.plan.graph, threat.select(env[bound.plan.graph.perturbed], index)
    values = dict(bound.select(bound.complete(env), index))
    own = dict(values)
    run_nodes(graph.body, values, 1)
    least = _most(values[graph.output])
    for member in around.members:
        boxes = {graph.perturbed: member.interval(own[graph.perturbed])}
        if _width(boxes[graph.perturbed]) > times * max(least, _most(values[graph.perturbed])):
            return "the set itself is as wide"
        tight = bound.relax(own, member, seed=0).boxes
        for step in bound.plan.steps:
            read = [tight.get(v, boxes[v]) for v in step.variables]
            box = step.rule.interval(step.call(own, 1), *read)
            box = bound.plan.within(step.out, tight.get(step.out, box))
            boxes[step.out], width = box, _width(box)
            if width > times * max(least, _most(values[step.out])):
                how = "infinite" if math.isinf(width) else "as wide"
                return f"intervals are {how} from {step.node.where} on"
    return ""


def _most(tensor: Tensor) -> float:
    """Return the largest entry's size; what is no number does not count."""
    return float(tensor.abs().nan_to_num(0, math.inf).amax()) or torch.finfo(tensor.dtype).tiny


def _width(box: Interval) -> float:
    """Return the largest width; what is no number is nothing known."""
    return float((box.upper - box.lower).nan_to_num(math.inf, math.inf).amax())
