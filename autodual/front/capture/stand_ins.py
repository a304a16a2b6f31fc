"""Ops that decomposition takes apart whatever its table says: others stand in meanwhile."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import fx

from autodual.front.ir import Graph

aten = torch.ops.aten


def _stand_in(op: torch._ops.OpOverload) -> torch._ops.OpOverload:
    name = f"autodual::{op._opname}"
    torch.library.define(name, str(op._schema).split(op._opname, 1)[1])
    torch.library.register_fake(name, lambda z, *rest: torch.empty_like(z))
    found: torch._ops.OpOverload = getattr(torch.ops.autodual, op._opname).default
    return found


STAND_INS = {op: _stand_in(op) for op in (aten.softshrink.default, aten.hardshrink.default)}
ORIGINALS = {str(other): op for op, other in STAND_INS.items()}


def put_stand_ins(module: fx.GraphModule) -> None:
    """Replace such ops before a program is decomposed."""
    for node in module.graph.nodes:
        node.target = STAND_INS.get(node.target, node.target)
    module.recompile()


def put_originals(graph: Graph) -> Graph:
    """Undo ``put_stand_ins`` in the graph that came of it."""
    nodes = [
        replace(n, op=str(ORIGINALS[n.op]), target=ORIGINALS[n.op]) if n.op in ORIGINALS else n
        for n in graph.nodes
    ]
    return replace(graph, nodes=tuple(nodes))
