"""Maxima, minima, products and log-sum-exps over dimensions: tournaments of pairs."""

from __future__ import annotations

import torch

from autodual.front.ir import Graph, Node, Value
from autodual.front.passes.rewrite import Decomposition, Emit, fixed, rewrite

aten = torch.ops.aten


def fold(emit: Emit, op: torch._ops.OpOverload, x: Value, dim: int) -> Value:
    """Combine all entries along a dimension of size ≥ 1, half with half; keep its size 1."""
    size = fixed(x.shape[dim])
    while size > 1:
        half = size // 2
        first = emit(aten.slice.Tensor, x, dim, 0, half)
        second = emit(aten.slice.Tensor, x, dim, half, 2 * half)
        pairs = emit(op, first, second)
        rest = [emit(aten.slice.Tensor, x, dim, 2 * half, size)] if size % 2 else []
        x = emit(aten.cat.default, [pairs, *rest], dim) if rest else pairs
        size -= half
    return x


def reduce(emit: Emit, op: torch._ops.OpOverload, x: Value, dims: list[int], keep: bool) -> Value:
    """Combine all entries along some dimensions."""
    dims = sorted({d % len(x.shape) for d in dims})
    for dim in dims:
        x = fold(emit, op, x, dim)
    return x if keep else emit(aten.squeeze.dims, x, dims)


def _over_dims(op: torch._ops.OpOverload) -> Decomposition:
    def decompose(emit: Emit, node: Node) -> Value | None:
        dims = node.args["dim"]
        dims = [dims] if isinstance(dims, int) else dims
        x = node.args["self"]
        fixed = dims and all(isinstance(x.shape[d], int) for d in dims)
        if not fixed or node.index not in (None, 0):
            return None
        return reduce(emit, op, x, dims, node.args["keepdim"])

    return decompose


def _running(op: torch._ops.OpOverload) -> Decomposition:
    """Combine each entry along a dimension with all before it: those 1, 2, 4, … back in turn."""

    def decompose(emit: Emit, node: Node) -> Value | None:
        x, dim = node.args["self"], node.args["dim"]
        if not isinstance(x.shape[dim], int) or node.index not in (None, 0):
            return None
        size, back = fixed(x.shape[dim]), 1
        while back < size:
            first = emit(aten.slice.Tensor, x, dim, 0, back)
            rest = emit(aten.slice.Tensor, x, dim, back, size)
            before = emit(aten.slice.Tensor, x, dim, 0, size - back)
            x = emit(aten.cat.default, [first, emit(op, rest, before)], dim)
            back *= 2
        return x

    return decompose


TABLE = {
    "aten.cummax.default": _running(aten.maximum.default),
    "aten.cummin.default": _running(aten.minimum.default),
    "aten.cumprod.default": _running(aten.mul.Tensor),
    "aten.logcumsumexp.default": _running(aten.logaddexp.default),
    "aten.amax.default": _over_dims(aten.maximum.default),
    "aten.amin.default": _over_dims(aten.minimum.default),
    "aten.max.dim": _over_dims(aten.maximum.default),
    "aten.min.dim": _over_dims(aten.minimum.default),
    "aten.prod.dim_int": _over_dims(aten.mul.Tensor),
    "aten.logsumexp.default": _over_dims(aten.logaddexp.default),
}


def fold_reductions(graph: Graph) -> Graph:
    """Rewrite reductions to ops on pairs. The index that ``max`` gives has no bound and stays."""
    return rewrite(graph, TABLE)
