"""Maxima, minima, products and log-sum-exps over dimensions: tournaments of several or of pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autodual.front.ir import Graph, Node, Value
from autodual.front.passes.rewrite import Decomposition, Emit, fixed, rewrite

aten = torch.ops.aten


MANY = 16
"""Of how many numbers the largest is found in one op: its work grows with their square."""


def largest(values: Sequence[Tensor]) -> Tensor:
    """Return the largest of several tensors, entry by entry."""
    return torch.stack(list(values)).amax(0)


def smallest(values: Sequence[Tensor]) -> Tensor:
    """Return the smallest of several tensors, entry by entry."""
    return torch.stack(list(values)).amin(0)


@dataclass(frozen=True)
class Combine:
    """What writes one value for several, for as many as ``count`` at a time."""

    write: Callable[[Emit, Sequence[Value]], Value]
    count: int


def by_pairs(op: torch._ops.OpOverload) -> Combine:
    """Return what combines two values by an op."""
    return Combine(lambda emit, values: emit(op, *values), 2)


def at_once(function: Callable[[Sequence[Tensor]], Tensor]) -> Combine:
    """Return what combines many values by a function of ours."""
    name = f"autodual.{function.__name__}"
    return Combine(lambda emit, values: emit.own(name, function, {"values": [*values]}), MANY)


LARGEST, SMALLEST = at_once(largest), at_once(smallest)


def combined(emit: Emit, combine: Combine, values: Sequence[Value]) -> Value:
    """Return one value for one or several."""
    while len(values) > 1:
        some = [values[i : i + combine.count] for i in range(0, len(values), combine.count)]
        values = [v[0] if len(v) == 1 else combine.write(emit, v) for v in some]
    return values[0]


def fold(emit: Emit, combine: Combine, x: Value, dim: int) -> Value:
    """Combine all entries along a dimension of size ≥ 1, stretch with stretch; keep its size 1."""
    size = fixed(x.shape[dim])
    while size > 1:
        count = min(size, combine.count)
        length = size // count
        parts = [
            emit(aten.slice.Tensor, x, dim, i * length, (i + 1) * length) for i in range(count)
        ]
        joined, done = combine.write(emit, parts), count * length
        rest = [emit(aten.slice.Tensor, x, dim, done, size)] if done < size else []
        x = emit(aten.cat.default, [joined, *rest], dim) if rest else joined
        size += length - done
    return x


def reduce(emit: Emit, combine: Combine, x: Value, dims: list[int], keep: bool) -> Value:
    """Combine all entries along some dimensions."""
    dims = sorted({d % len(x.shape) for d in dims})
    for dim in dims:
        x = fold(emit, combine, x, dim)
    return x if keep else emit(aten.squeeze.dims, x, dims)


def _over_dims(combine: Combine) -> Decomposition:
    def decompose(emit: Emit, node: Node) -> Value | None:
        dims = node.args["dim"]
        dims = [dims] if isinstance(dims, int) else dims
        x = node.args["self"]
        fixed = dims and all(isinstance(x.shape[d], int) for d in dims)
        if not fixed or node.index not in (None, 0):
            return None
        if combine in (LARGEST, SMALLEST):
            emit.exactly()
        return reduce(emit, combine, x, dims, node.args["keepdim"])

    return decompose


def _log_sum(emit: Emit, node: Node) -> Value | None:
    """Fold a log-sum-exp; libraries take exponentials of differences to the largest."""
    x = node.args["self"]
    found = _over_dims(by_pairs(aten.logaddexp.default))(emit, node)
    if found is None or found is x:
        emit.exactly()
        return found
    count = math.prod(fixed(x.shape[d]) for d in node.args["dim"])
    return emit.nearly(found, 4, 8 * count + 32, [(4, (x,))])


def _running(op: torch._ops.OpOverload) -> Decomposition:
    """Combine each entry along a dimension with all before it: those 1, 2, 4, … back in turn."""

    def decompose(emit: Emit, node: Node) -> Value | None:
        x, dim = node.args["self"], node.args["dim"]
        if not isinstance(x.shape[dim], int) or node.index not in (None, 0):
            return None
        size, back = fixed(x.shape[dim]), 1
        if op in (aten.maximum.default, aten.minimum.default):
            emit.exactly()
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
    "aten.amax.default": _over_dims(LARGEST),
    "aten.amin.default": _over_dims(SMALLEST),
    "aten.max.dim": _over_dims(LARGEST),
    "aten.min.dim": _over_dims(SMALLEST),
    "aten.prod.dim_int": _over_dims(by_pairs(aten.mul.Tensor)),
    "aten.logsumexp.default": _log_sum,
}


def fold_reductions(graph: Graph) -> Graph:
    """Rewrite reductions to ops on pairs. The index that ``max`` gives has no bound and stays."""
    return rewrite(graph, TABLE)
