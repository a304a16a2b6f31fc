"""What passes share: replacing values inside nodes, and writing several nodes in place of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from autodual.errors import GraphError
from autodual.front.ir import Batch, Dim, Graph, Inexact, Literal, Node, Value, evaluate, map_leaves


def substitute(node: Node, mapping: Mapping[Value, Value], out: Value | None = None) -> Node:
    """Return ``node`` reading ``mapping[v]`` for every v in the mapping, and writing ``out``."""

    def leaf(arg: Any) -> Any:
        return mapping.get(arg, arg) if isinstance(arg, Value) else arg

    args = {name: map_leaves(arg, leaf) for name, arg in node.args.items()}
    return replace(node, args=args, out=out or node.out)


class Emit:
    """Writes the nodes that stand for one: named after it, at its source line.

    ``emit(op, *args)`` adds a node and returns its value, with the shape inferred.
    """

    def __init__(self, node: Node, graph: Graph) -> None:
        self.node, self.graph = node, graph
        self.nodes: list[Node] = []
        self.literals: dict[Value, Literal] = {}
        self.range: tuple[float, float] | None = None
        self.inexact: dict[Value, Inexact] = {}
        self.told = False

    def __call__(self, op: torch._ops.OpOverload, *args: Any, index: int | None = None) -> Value:
        """Add a node that runs ``op``, and pick one of its results if it has several."""
        schema = op._schema.arguments
        given = {
            a.name: args[i] if i < len(args) else a.default_value for i, a in enumerate(schema)
        }
        name = f"{self.node.out.name}.{op._opname}{len(self.nodes)}"
        out = Value(name, (), self.node.out.dtype)
        node = Node(out, str(op), op, given, index, self.node.source)
        self.nodes.append(replace(node, out=_infer(node)))
        return self.nodes[-1].out

    def own(self, name: str, function: Callable[..., Tensor], args: Mapping[str, Any]) -> Value:
        """Add a node that runs a function of our own, called ``autodual.…`` in the registry."""
        out = Value(f"{self.node.out.name}.{function.__name__}{len(self.nodes)}", (), torch.float)
        node = Node(out, name, function, args, None, self.node.source)
        self.nodes.append(replace(node, out=_infer(node)))
        return self.nodes[-1].out

    def literal(self, tensor: Tensor) -> Value:
        """Add a constant tensor, on the graph's device."""
        name = f"{self.node.out.name}.literal{len(self.literals)}"
        value = Value(name, tuple(tensor.shape), tensor.dtype)
        self.literals[value] = Literal(tensor.to(self.graph.device))
        return value

    def within(self, low: float, high: float) -> None:
        """Note that the node's value lies in [low, high] for every input."""
        self.range = low, high

    def exactly(self) -> None:
        """Note that the nodes give what libraries compute for the op, if nothing is rounded."""
        self.told = True

    def nearly(
        self,
        value: Value,
        relative: float = 0.0,
        absolute: float = 0.0,
        terms: Sequence[tuple[float, tuple[Value, ...]]] = (),
        range: tuple[float, float] = (-math.inf, math.inf),
    ) -> Value:
        """Note how far what libraries compute lies from a value that was emitted; return it.

        From what the nodes give if nothing is rounded, for the numbers that the op reads, as these
        were computed. See ``Inexact``.
        """
        if all(value != node.out for node in self.nodes):
            raise GraphError(f"{value.name} stands for no op that is written here")
        self.inexact[value] = Inexact(relative, absolute, tuple(terms), range)
        self.told = True
        return value

    def producer(self, value: Value) -> Node | None:
        """Return the node that computes a value of the graph, if one does."""
        return self.graph.producers.get(value)

    def moves(self, arg: Any) -> bool:
        """Return whether the perturbation reaches an argument of the node."""
        return isinstance(arg, Value) and arg in self.graph.moving


def fixed(dim: Dim) -> int:
    """Return a size that does not grow with the batch."""
    assert not isinstance(dim, Batch)
    return dim


Decomposition = Callable[[Emit, Node], Value | None]
"""Writes what a node computes and returns its value, or None to leave the node as it is."""


def rewrite(graph: Graph, table: Mapping[str, Decomposition]) -> Graph:
    """Replace each node that the perturbation reaches by what the table says for its op."""
    nodes: list[Node] = []
    literals: dict[Value, Literal] = {}
    ranges, inexact, rewritten = dict(graph.ranges), dict(graph.inexact), list(graph.rewritten)
    same: dict[Value, Value] = {}
    for original in graph.nodes:
        node = substitute(original, same)
        emit = Emit(node, graph)
        found = None
        if node.out in graph.moving and node.op in table:
            found = table[node.op](emit, node)
        if found is None:
            nodes.append(node)
            continue
        literals |= emit.literals
        if emit.range is not None:
            ranges[node.out] = emit.range
        if not emit.told:
            rewritten.append(node.where)
        if any(n.out == found for n in emit.nodes) and found.dtype == node.out.dtype:
            named = {found: node.out}  # the last value takes the name of the one it stands for
            nodes += [substitute(n, named, named.get(n.out, n.out)) for n in emit.nodes]
        else:
            named = {}
            nodes += emit.nodes
            same[node.out] = found
        for v, how in emit.inexact.items():
            v = named.get(v, v)
            inexact[v] = _both(inexact.get(v), how)
    if len(nodes) == len(graph.nodes) and all(map(_is, nodes, graph.nodes)):
        return graph
    output = same.get(graph.output, graph.output)
    constants = {**graph.constants, **literals}
    moved = dict[Value, Inexact]()
    for v, how in inexact.items():
        v = same.get(v, v)
        moved[v] = _both(moved.get(v), how.renamed(same))
    graph = replace(graph, nodes=tuple(nodes), constants=constants, output=output)
    return replace(graph, ranges=ranges, inexact=moved, rewritten=tuple(rewritten))


def _both(one: Inexact | None, other: Inexact) -> Inexact:
    return other if one is None else one.plus(other)


def _is(a: Node, b: Node) -> bool:
    return a.out is b.out and a.op == b.op


def _infer(node: Node) -> Value:
    """Return the node's output with its shape: what changes from 2 to 3 examples is the batch."""
    two, three = (_run(node, batch) for batch in (2, 3))

    def dim(a: int, b: int) -> Dim:
        if a != b and a != 2 * (b - a):
            raise GraphError(f"{node.op} gives a size of {a} for two examples and {b} for three")
        return a if a == b else Batch(b - a)

    shape = tuple(map(dim, two.shape, three.shape))
    return Value(node.out.name, shape, two.dtype)


def _run(node: Node, batch: int) -> Tensor:
    env = {v: torch.empty(v.size(batch), dtype=v.dtype, device="meta") for v in node.inputs}
    with torch.no_grad():
        return evaluate(node, env, batch)
