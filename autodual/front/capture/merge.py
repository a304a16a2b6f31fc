"""Several perturbed inputs → one: they lie side by side in it, and the graph takes them apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from autodual.errors import InputError
from autodual.front.capture.join import Captured
from autodual.front.ir import Batch, Node, Value

aten = torch.ops.aten


def merge(captured: Captured, positions: Sequence[int]) -> Captured:
    """Return the graph of one input [N, D], which holds those at ``positions`` of the leaves.

    Raises:
        InputError: one of them has no row for each example.
    """
    graph = captured.graph
    where = dict(zip(captured.slots, graph.inputs, strict=True))
    parts = [where[i] for i in positions]
    for part in parts:
        if part.batch_dim != 0 or part.shape[0] != Batch(1):
            raise InputError(f"{part.name} is {part.type}: it needs a row for each example")
    name = f"{'+'.join(part.name for part in parts)}.rows"
    whole = Value(name, (Batch(1), sum(part.numel for part in parts)), parts[0].dtype)
    nodes, start = list[Node](), 0
    for part in parts:
        end = start + part.numel
        row = Value(f"{part.name}.row", (Batch(1), part.numel), part.dtype)
        out = part if len(part.shape) == 2 else row
        cut = {"self": whole, "dim": 1, "start": start, "end": end, "step": 1}
        nodes.append(_node(out, aten.slice.Tensor, cut))
        if out is row:
            nodes.append(_node(part, aten.reshape.default, {"self": row, "shape": [*part.shape]}))
        start = end
    others = {i: v for i, v in where.items() if i not in positions}
    merged = replace(
        graph,
        inputs=(whole, *others.values()),
        perturbed=whole,
        nodes=(*nodes, *graph.nodes),
    )
    return replace(captured, graph=merged, slots=(tuple(positions), *others))


def _node(out: Value, op: torch._ops.OpOverload, args: dict[str, object]) -> Node:
    return Node(out, str(op), op, args, None, None)
