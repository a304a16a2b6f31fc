"""Note what is obvious of sums of squares: they are not negative, whatever their bound says.

Roots, reciprocals and logarithms have no bound on boxes that reach below their domain. A value that
is never below some number by the way it is made keeps its interval from there.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from autodual.front.ir import Graph, Node, Value

READERS = frozenset(
    f"aten.{name}"
    for name in (
        "sqrt.default",
        "rsqrt.default",
        "reciprocal.default",
        "log.default",
        "log2.default",
        "log10.default",
        "log1p.default",
        "pow.Tensor_Scalar",
    )
)
"""Functions that are not defined everywhere."""

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


def least_of(graph: Graph, value: Any) -> float | None:
    """Return a number that no entry of a value is below, by the way it is made; None if unknown."""
    if not isinstance(value, Value):
        return float(value) if isinstance(value, int | float) else None
    made = graph.producers.get(value)
    if made is None:
        return None
    if made.op in NEVER_NEGATIVE:
        return 0.0
    if made.op == "aten.pow.Tensor_Scalar":
        return 0.0 if float(made.args["exponent"]) % 2 == 0 else None
    if made.op in PICKS:
        return least_of(graph, made.args["self"])
    return _least_of_sum(graph, made)


def _least_of_sum(graph: Graph, made: Node) -> float | None:
    """Return the least that a sum, a multiple or a clamp can be."""
    if made.op in ("aten.clamp_min.default", "aten.clamp.default") and made.args.get("max") is None:
        return float(made.args["min"])
    parts = [least_of(graph, made.args[name]) for name in ("self", "other") if name in made.args]
    if not parts or any(part is None or part < 0 for part in parts):
        return None
    if made.op == "aten.sum.dim_IntList":
        return 0.0
    if made.op in ("aten.add.Tensor", "aten.add.Scalar") and made.args["alpha"] == 1:
        return sum(part for part in parts if part is not None)
    return 0.0 if made.op in ("aten.mul.Scalar", "aten.mul.Tensor") else None


def note_ranges(graph: Graph) -> Graph:
    """Note the least number that what such a function reads can be."""
    ranges = dict(graph.ranges)
    for node in graph.body:
        if node.op not in READERS:
            continue
        value: Value = node.args["self"]
        least = least_of(graph, value)
        if least is not None:
            low, high = ranges.get(value, (-math.inf, math.inf))
            ranges[value] = max(low, least), high
    return replace(graph, ranges=ranges) if ranges != graph.ranges else graph
