"""Maxima and minima as ReLUs of differences, pair by pair: these can be cut at a bend."""

from __future__ import annotations

from collections.abc import Callable

import torch

from autodual.front.ir import Graph, Node, Value
from autodual.front.passes.reductions import Combine, combined
from autodual.front.passes.rewrite import Decomposition, Emit, rewrite

aten = torch.ops.aten


def _larger(emit: Emit, a: Value, b: Value) -> Value:
    """max(a, b) = b + max(a − b, 0)."""
    rest = emit(aten.relu.default, emit(aten.sub.Tensor, a, b))
    return emit(aten.add.Tensor, b, rest)


def _smaller(emit: Emit, a: Value, b: Value) -> Value:
    """min(a, b) = a − max(a − b, 0)."""
    rest = emit(aten.relu.default, emit(aten.sub.Tensor, a, b))
    return emit(aten.sub.Tensor, a, rest)


def _of(pair: Callable[[Emit, Value, Value], Value], *names: str) -> Decomposition:
    """Return what writes a maximum or minimum of the arguments of these names."""

    def decompose(emit: Emit, node: Node) -> Value | None:
        values = [node.args[name] for name in names]
        values = list(values[0]) if isinstance(values[0], list | tuple) else values
        if not all(isinstance(value, Value) for value in values):
            return None
        return combined(emit, Combine(lambda e, two: pair(e, *two), 2), values)

    return decompose


TABLE: dict[str, Decomposition] = {
    "aten.maximum.default": _of(_larger, "self", "other"),
    "aten.minimum.default": _of(_smaller, "self", "other"),
    "autodual.largest": _of(_larger, "values"),
    "autodual.smallest": _of(_smaller, "values"),
}


def pairwise(graph: Graph) -> Graph:
    """Rewrite maxima and minima of several values; no pass of the pipeline.

    Bounds are looser so, since planes under a maximum know of all its arguments at once.
    """
    return rewrite(graph, TABLE)
