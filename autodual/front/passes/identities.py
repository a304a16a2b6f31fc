"""Drop ops on the perturbed path that return their input."""

from __future__ import annotations

from dataclasses import replace

from autodual.front.ir import Graph, Node, Value
from autodual.front.passes.rewrite import substitute

ALWAYS = frozenset(
    {
        "aten.alias.default",
        "aten.clone.default",
        "aten.contiguous.default",
        "aten.detach.default",
        "aten.lift_fresh_copy.default",
    }
)
"""Return their input, whatever their other arguments."""

IF_TYPE_IS_KEPT = frozenset(
    {"aten._to_copy.default", "aten.expand.default", "aten.reshape.default"}
)
"""Return their input when shape and dtype stay the same."""


def remove_identities(graph: Graph) -> Graph:
    """Let the readers of ``alias(z)``, ``clone(z)``, … read z.

    ``detach`` counts as one here because ``stop_gradients`` has already done its work.
    """
    same: dict[Value, Value] = {}
    nodes = []
    for original in graph.nodes:
        node = substitute(original, same)
        if node.out in graph.moving and _is_identity(node):
            same[node.out] = node.inputs[0]
        else:
            nodes.append(node)
    return replace(graph, nodes=tuple(nodes), output=same.get(graph.output, graph.output))


def _is_identity(node: Node) -> bool:
    if node.op in ALWAYS:
        return True
    source = node.inputs[0]
    kept = source.shape == node.out.shape and source.dtype == node.out.dtype
    return kept and node.op in IF_TYPE_IS_KEPT
