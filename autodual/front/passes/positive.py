"""Keep what is obvious of sums of squares: they are not negative, whatever their bound says.

f(z) for a root, reciprocal or logarithm f, and a z that is never below some least number by the way
it is made, is f(max(z, least)), which has a bound on every box.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autodual.front.ir import Graph, Literal, Node, Value
from autodual.front.passes.rewrite import Decomposition, Emit, rewrite

aten = torch.ops.aten

FUNCTIONS = {
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal,
    "log": torch.log,
}
POWERS = {0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal"}


def above(input: Tensor, name: str, least: float) -> Tensor:
    """Return f(max(z, least)) for the function of a name, with slope 0 below."""
    f, inside = FUNCTIONS[name], input > least
    safe = torch.where(inside, input, least + 1.0)
    return torch.where(inside, f(safe), f(torch.full_like(input, least)))


NEVER_NEGATIVE = frozenset(
    f"aten.{name}.default" for name in ("abs", "relu", "sigmoid", "exp", "sqrt", "hardsigmoid")
)
PICKS = frozenset(
    {
        "aten.expand.default",
        "aten.reshape.default",
        "aten.unsqueeze.default",
        "aten.squeeze.default",
        "aten.squeeze.dim",
        "aten.squeeze.dims",
        "aten.permute.default",
        "aten.transpose.int",
        "aten.slice.Tensor",
        "aten.select.int",
        "aten.mean.dim",
    }
)
"""What comes out is no less than the least of what goes in."""


def least_of(emit: Emit, value: Any) -> float | None:
    """Return a number that no entry of a value is below, by the way it is made; None if unknown."""
    if not isinstance(value, Value):
        return float(value) if isinstance(value, int | float) else None
    held = emit.graph.constants.get(value)
    if isinstance(held, Literal):
        return float(held.tensor.min()) if held.tensor.numel() == 1 else None
    made = emit.producer(value)
    if made is None:
        return None
    if made.op in NEVER_NEGATIVE:
        return 0.0
    if made.op == "aten.pow.Tensor_Scalar":
        return 0.0 if float(made.args["exponent"]) % 2 == 0 else None
    if made.op in PICKS:
        return least_of(emit, made.args["self"])
    return _least_of_sum(emit, made)


def _least_of_sum(emit: Emit, made: Node) -> float | None:
    """Return the least that a sum, a multiple or a clamp can be."""
    if made.op in ("aten.clamp_min.default", "aten.clamp.default") and made.args.get("max") is None:
        return float(made.args["min"])
    parts = [least_of(emit, made.args[name]) for name in ("self", "other") if name in made.args]
    if not parts or any(part is None or part < 0 for part in parts):
        return None
    if made.op == "aten.sum.dim_IntList":
        return 0.0
    if made.op in ("aten.add.Tensor", "aten.add.Scalar") and made.args["alpha"] == 1:
        return sum(part for part in parts if part is not None)
    return 0.0 if made.op in ("aten.mul.Scalar", "aten.mul.Tensor") else None


def _function(name: str) -> Decomposition:
    def decompose(emit: Emit, node: Node) -> Value | None:
        least = least_of(emit, node.args["self"])
        if least is None or least < 0 or (least == 0 and name != "sqrt"):
            return None
        args = {"input": node.args["self"], "name": name, "least": least}
        return emit.own("autodual.above", above, args)

    return decompose


def _power(emit: Emit, node: Node) -> Value | None:
    name = POWERS.get(float(node.args["exponent"]))
    return _function(name)(emit, node) if name else None


TABLE: dict[str, Decomposition] = {f"aten.{name}.default": _function(name) for name in FUNCTIONS}
TABLE["aten.pow.Tensor_Scalar"] = _power


def keep_positive(graph: Graph) -> Graph:
    """Rewrite functions of what is never below a least number."""
    return rewrite(graph, TABLE)
