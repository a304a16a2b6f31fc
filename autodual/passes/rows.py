"""Keep the batch dimension apart where a model merges others before it for a row-wise op."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import torch

from autodual.ir import Batch, Graph, Node, Value
from autodual.passes.rewrite import substitute

RESHAPE = "aten.reshape.default"


def split_rows(graph: Graph) -> Graph:
    """Let [k, N, *] → [kN, *] → row-wise ops → a reshape keep its two dimensions throughout.

    ``nn.MultiheadAttention`` merges them so. The entries stay in the same order in memory, so
    the last reshape reads the same. In [kN, *] the examples would not be outermost.
    """
    readers: dict[Value, list[Node]] = {}
    for node in graph.nodes:
        for value in node.inputs:
            readers.setdefault(value, []).append(node)

    def ends_in_reshapes(value: Value) -> bool:
        return value != graph.output and all(
            node.op == RESHAPE or (_is_row_wise(node, value) and ends_in_reshapes(node.out))
            for node in readers.get(value, ())
        )

    apart: dict[Value, Value] = {}
    before: dict[Value, int] = {}
    nodes = []
    for node in graph.nodes:
        out = node.out
        if (count := _merged(node)) and ends_in_reshapes(out):
            before[out], apart[out] = count, _split(out, count)
            node = replace(node, out=apart[out], args={**node.args, "shape": [*apart[out].shape]})
        elif node.op != RESHAPE and apart.keys() & set(node.inputs):
            before[out] = before[node.inputs[0]]
            apart[out] = _split(out, before[out])
            node = substitute(node, apart, apart[out])
        else:
            node = substitute(node, apart)
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes)) if apart else graph


def _merged(node: Node) -> int:
    """Return how many entries stand before the batch in a leading dimension, if they do."""
    z = node.inputs[0] if node.op == RESHAPE else None
    if z is None or not z.batch_dim or not isinstance(node.out.shape[0], Batch):
        return 0
    before = prod(d for d in z.shape[: z.batch_dim] if isinstance(d, int))
    return before if before > 1 and node.out.shape[0].multiple % before == 0 else 0


def _split(value: Value, before: int) -> Value:
    """Return [kN, *] as [k, N, *]."""
    rows = value.shape[0]
    assert isinstance(rows, Batch)
    return replace(value, shape=(before, Batch(rows.multiple // before), *value.shape[1:]))


def _is_row_wise(node: Node, value: Value) -> bool:
    """Return whether an op does the same to each row of one value, whatever stands before it."""
    if node.inputs.count(value) != 1 or node.inputs[0] != value:
        return False
    pointwise = torch.Tag.pointwise in getattr(node.target, "tags", ()) and len(node.inputs) == 1
    return pointwise or node.op == "aten.linear.default"
