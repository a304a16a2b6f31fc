"""Drop what the output does not need: running statistics, unused branches, unused constants."""

from __future__ import annotations

from dataclasses import replace

from autodual.front.ir import Graph


def remove_dead_code(graph: Graph) -> Graph:
    """Keep the nodes and constants from which the output can be reached."""
    needed = {graph.output}
    nodes = []
    for node in reversed(graph.nodes):
        if node.out in needed:
            needed.update(node.inputs)
            nodes.append(node)
    constants = {v: c for v, c in graph.constants.items() if v in needed}
    if len(nodes) == len(graph.nodes) and len(constants) == len(graph.constants):
        return graph
    made = {node.out for node in nodes}
    inexact = {v: how for v, how in graph.inexact.items() if v in made}
    return replace(graph, nodes=tuple(reversed(nodes)), constants=constants, inexact=inexact)
