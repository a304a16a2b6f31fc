"""Read ``zeros_like(z)`` and its kind as constants: they ask z for its shape only."""

from __future__ import annotations

import torch

from autodual.front.ir import Graph, Node, Value
from autodual.front.passes.rewrite import Emit, rewrite

aten = torch.ops.aten


def _full(emit: Emit, node: Node) -> Value | None:
    out, number = node.out, node.args["fill_value"]
    return emit(aten.full.default, list(out.shape), number, out.dtype, None, emit.graph.device)


def fill_by_shape(graph: Graph) -> Graph:
    """Rewrite ``full_like(z, c)`` to ``full(shape of z, c)``, which the perturbation cannot reach.

    Decomposition has turned ``zeros_like`` and ``ones_like`` into ``full_like`` before.
    """
    return rewrite(graph, {"aten.full_like.default": _full})
