"""Undo what torch does around a linear layer: flatten to a matrix, multiply, unflatten."""

from __future__ import annotations

import torch

from autodual.front.ir import Graph, Node, Value
from autodual.front.passes.dead_code import remove_dead_code
from autodual.front.passes.rewrite import Emit, rewrite

aten = torch.ops.aten


def _unflattened(emit: Emit, node: Node) -> Value | None:
    """reshape(linear(reshape(z))) = linear(reshape(z)), if the last dimension stays whole.

    A matrix whose rows are steps of a sequence, each for all examples, mixes the examples in
    one dimension; a tensor [step, example, feature] does not.
    """
    linear = emit.producer(node.args["self"])
    if linear is None or linear.op != "aten.linear.default":
        return None
    flat = emit.producer(linear.args["input"])
    if flat is None or flat.op != node.op or node.out.shape[-1] != linear.out.shape[-1]:
        return None
    shape = [*node.out.shape[:-1], linear.args["input"].shape[-1]]
    entries = emit(aten.reshape.default, flat.args["self"], shape)
    return emit(aten.linear.default, entries, linear.args["weight"], linear.args["bias"])


def unflatten_linear(graph: Graph) -> Graph:
    """Let linear layers read tensors of any shape, without flattening them first."""
    rewritten = rewrite(graph, {"aten.reshape.default": _unflattened})
    return graph if rewritten is graph else remove_dead_code(rewritten)
