"""Check once per capture that each example of a batch gets what it would get alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from autodual.errors import BatchError, GraphError
from autodual.front.capture import TRACED, Captured, call_untouched, close, some
from autodual.front.evaluate import entries, run, run_nodes
from autodual.front.ir import Graph, Node, Value, evaluate
from autodual.inputs import Inputs

EXAMPLES = 3
"""How many examples each node is tried with."""


@torch.no_grad()
def check_apart(graph: Graph, given: Mapping[Value, Tensor]) -> None:
    """Raise if examples influence each other.

    Args:
        graph: the graph.
        given: all that it is given for some batch.

    Raises:
        BatchError: something computed for the first example changes with the second.
    """
    env = {v: _some(v, t) for v, t in given.items()}
    run_nodes(graph.prelude, env, EXAMPLES)
    for node in graph.body:
        _check_apart(node, graph, env)


@torch.no_grad()
def check_ranges(graph: Graph, given: Mapping[Value, Tensor]) -> None:
    """Raise if a value leaves the range that a pass noted for it.

    Raises:
        GraphError: it does, at the inputs given.
    """
    if not graph.ranges:
        return
    env = dict(given)
    run_nodes(graph.nodes, env, len(env[graph.perturbed]))
    for value, (low, high) in graph.ranges.items():
        z = env[value]
        slack = 1e-3 * (1 + z.abs())
        if bool(((z < low - slack) | (z > high + slack)).any()):
            raise GraphError(f"{value.name} leaves [{low}, {high}], the range noted for it")


def _check_apart(node: Node, graph: Graph, env: Mapping[Value, Tensor]) -> None:
    """Raise unless the node gives each of several random examples what it gives it alone.

    Each node is tried with random values of its own, so that no dead unit before it can hide
    what it does.
    """
    generator = torch.Generator().manual_seed(0)
    together = {
        v: _random(v, generator).to(graph.device) if v in graph.moving else env[v]
        for v in node.inputs
    }
    in_company = node.out.per_example(evaluate(node, together, EXAMPLES), EXAMPLES)
    for i in range(EXAMPLES):
        own = {
            v: t if v.batch_dim is None else v.per_example(t, EXAMPLES)[i]
            for v, t in together.items()
        }
        try:
            same = close(*_without_overflow(in_company[i], evaluate(node, own, 1)))
        except (RuntimeError, IndexError):
            same = False
        if not same:
            raise BatchError(
                f"the examples of a batch are mixed at {node.source or node.out.name}: what "
                f"{node.label} gives for one example changes with the others, or examples are not "
                "the outermost part of a dimension. A bound holds for one example at a time: "
                "reduce, flip, repeat and normalise over other dimensions than the batch's."
            )


def _random(value: Value, generator: torch.Generator) -> Tensor:
    """Draw a few examples of a value; numbers and truth values too."""
    size = value.size(EXAMPLES)
    if value.dtype.is_floating_point or value.dtype.is_complex:
        return torch.randn(size, generator=generator, dtype=value.dtype)
    return torch.randint(2, size, generator=generator).to(value.dtype)


def _some(value: Value, tensor: Tensor) -> Tensor:
    """Return a few examples of an input, repeated in turn where there are too few."""
    if value.batch_dim is None:
        return tensor
    index = torch.arange(EXAMPLES, device=tensor.device) % tensor.shape[value.batch_dim]
    return tensor.index_select(value.batch_dim, index)


def _without_overflow(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Leave out entries where either is ±∞: whether a sum overflows depends on its order."""
    if a.shape != b.shape:
        return a, b
    infinite = a.isinf() | b.isinf()
    return a.masked_fill(infinite, 0), b.masked_fill(infinite, 0)


@torch.no_grad()
def check_batch(captured: Captured, model: nn.Module, inputs: Inputs) -> None:
    """Raise if the graph, which does not hold for these inputs, holds for fewer of their examples.

    Raises:
        BatchError: the model branches on the batch size.
    """
    batch = len(captured.bind(inputs)[captured.graph.perturbed])
    if batch in TRACED:
        return
    for count in TRACED:
        few = some(inputs, batch, count, captured.shared)
        env = entries(captured.graph, model, captured.bind(few))
        returned = captured.pick(call_untouched(model, few))
        if not close(returned, run(captured.graph, env)):
            return
    raise BatchError(
        f"the model fixes the batch size: what it computes for {batch} examples is not what it "
        f"computes for {TRACED[0]} or {TRACED[1]}. Do not branch on the batch size."
    )
