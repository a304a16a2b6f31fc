"""Read ``zeros_like(z)`` and its kind as constants: they ask z for its shape only."""

from __future__ import annotations

from dataclasses import replace

import torch

from autodual.ir import Graph, Node

aten = torch.ops.aten


def fill_by_shape(graph: Graph) -> Graph:
    """Rewrite ``full_like(z, c)`` to ``full(shape of z, c)``, which the perturbation cannot reach.

    Decomposition has turned ``zeros_like`` and ``ones_like`` into ``full_like`` before.
    """
    return replace(graph, nodes=tuple(_full(node, graph) for node in graph.nodes))


def _full(node: Node, graph: Graph) -> Node:
    if node.op != "aten.full_like.default":
        return node
    args = {
        "size": list(node.out.shape),
        "fill_value": node.args["fill_value"],
        "dtype": node.out.dtype,
        "layout": None,
        "device": graph.device,
        "pin_memory": None,
    }
    return replace(node, op=str(aten.full.default), target=aten.full.default, args=args)
