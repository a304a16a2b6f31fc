"""Read every view as a reshape: bounds are laid out in memory as they come."""

from __future__ import annotations

from dataclasses import replace

import torch

from autodual.front.ir import Graph, Node

VIEWS = frozenset({"aten.view.default", "aten._unsafe_view.default"})


def views_to_reshapes(graph: Graph) -> Graph:
    """Rewrite ``view``, which fails on some memory layouts, to ``reshape``, which does not."""
    return replace(graph, nodes=tuple(_reshape(n) if n.op in VIEWS else n for n in graph.nodes))


def _reshape(node: Node) -> Node:
    op = torch.ops.aten.reshape.default
    args = {"self": node.args["self"], "shape": node.args["size"]}
    return replace(node, op=str(op), target=op, args=args)
