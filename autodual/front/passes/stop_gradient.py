"""Give ``detach`` and ``no_grad`` their meaning in the dual network."""

from __future__ import annotations

from dataclasses import replace

import torch

from autodual.front.ir import Graph, Node, Value
from autodual.front.passes.rewrite import substitute


def stop_gradients(graph: Graph) -> Graph:
    """Detach every weight whose only way to the output leads through a ``detach``.

    Rows run backwards through the network and must pass a ``detach`` unchanged, so the op
    itself cannot stop gradients there. The weights on its far side can: they are read through
    a ``detach`` of their own, evaluated with the other input-independent nodes.
    """
    live = {graph.output}
    for node in reversed(graph.nodes):
        if node.out in live and node.op != "aten.detach.default":
            live.update(node.inputs)
    detached: dict[Value, Value] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.out in graph.moving and node.out not in live:
            for value in node.inputs:
                if value not in graph.moving and value not in detached:
                    nodes.append(_detach(value))
                    detached[value] = nodes[-1].out
            node = substitute(node, detached)
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def _detach(value: Value) -> Node:
    out = replace(value, name=f"{value.name}.detached")
    return Node(out, "aten.detach.default", torch.ops.aten.detach.default, {"self": value})
