"""Check once per capture that each example of a batch gets what it would get alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from autodual.errors import BatchError
from autodual.front.evaluate import run_nodes
from autodual.front.ir import Graph, Node, Value, evaluate

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Allowed difference, relative to the largest value. Reordered sums differ far less."""

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


def _check_apart(node: Node, graph: Graph, env: Mapping[Value, Tensor]) -> None:
    """Raise unless the node gives each of several random examples what it gives it alone.

    Each node is tried with random values of its own, so that no dead unit before it can hide
    what it does.
    """
    generator = torch.Generator().manual_seed(0)
    together = {
        v: torch.randn(v.size(EXAMPLES), generator=generator, dtype=v.dtype).to(graph.device)
        if v in graph.moving
        else env[v]
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


def close(a: Tensor, b: Tensor) -> bool:
    """Return whether two results are the same but for the order of their sums."""
    if a.shape != b.shape:
        return False
    finite = torch.stack([a, b]).nan_to_num(0, 0, 0)
    slack = TOLERANCE.get(a.dtype, 1e-3) * float(finite.abs().max())
    return torch.allclose(a, b, rtol=0, atol=slack + 1e-12, equal_nan=True)
