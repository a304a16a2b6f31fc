"""Check once per capture that the graph computes what the model does, one example at a time."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from autodual.capture import Captured, Inputs
from autodual.errors import BatchError, CaptureError
from autodual.evaluate import entries, run, run_nodes
from autodual.ir import Graph, Node, Value

TOLERANCE = 1e-3
"""Allowed difference, relative to the largest output. Reordered sums differ far less."""


@torch.no_grad()
def check_fidelity(captured: Captured, model: nn.Module, inputs: Inputs) -> None:
    """Raise if the graph and the model disagree, or if examples influence each other.

    Raises:
        CaptureError: the captured graph computes something else than the model.
        BatchError: something computed for the first example changes with the second.
    """
    graph = captured.graph
    env = captured.bind(inputs)
    full = run(graph, model, env)
    _compare_with_model(graph, model, inputs, full)
    pair = {v: _pair(v, t, other=v == graph.perturbed) for v, t in env.items()}
    for node, together, alone in _with_and_without_company(graph, model, pair):
        if not _close(together, alone):
            raise BatchError(
                f"the examples of a batch are mixed at {node.source or node.out.name}: what "
                f"{node.label} gives for the first example changes with the second one (by "
                f"{float((together - alone).abs().max()):.3g}). A bound holds for one example at a "
                "time: reduce, flip, repeat and normalise over other dimensions than the batch's."
            )


def _compare_with_model(graph: Graph, model: nn.Module, inputs: Inputs, graphs: Tensor) -> None:
    """Run the model itself on copies of its buffers, with the random state put back."""
    buffers = {name: copy.deepcopy(b) for name, b in model.named_buffers()}
    with torch.random.fork_rng(devices=[]):
        models = torch.func.functional_call(model, buffers, inputs.args, inputs.kwargs)
    if not _close(models, graphs):
        raise CaptureError(
            "the captured graph and the model disagree on this input (by "
            f"{float((models - graphs).abs().max()):.3g}). Does forward depend on global state, or "
            "on random numbers? Call .eval(), or make the state an argument."
        )


def _with_and_without_company(
    graph: Graph, model: nn.Module, pair: dict[Value, Tensor]
) -> Iterator[tuple[Node, Tensor, Tensor]]:
    """Yield each perturbed node's value for the first example in a batch of two, and alone.

    What the perturbation does not reach (batch statistics, other inputs) stays as it is.
    """
    env = entries(graph, model, pair)
    run_nodes(graph.prelude, env, 2)
    alone = {value: _first(value, tensor) for value, tensor in env.items()}
    run_nodes(graph.body, env, 2)
    run_nodes(graph.body, alone, 1)
    for node in graph.body:
        yield node, _first(node.out, env[node.out]), alone[node.out]


def _first(value: Value, tensor: Tensor) -> Tensor:
    """Return the part of a batch of two that belongs to its first example."""
    dim = value.batch_dim
    return tensor if dim is None else tensor.narrow(dim, 0, value.size(1)[dim])


def _pair(value: Value, tensor: Tensor, other: bool) -> Tensor:
    """Return two examples: the first one given, and for the perturbed input a different one."""
    if value.batch_dim is None:
        return tensor
    first = tensor[:1]
    second = 0.75 * first.flatten().roll(1).reshape(first.shape) + 0.1 if other else first
    return torch.cat([first, second])


def _close(a: Tensor, b: Tensor) -> bool:
    scale = torch.maximum(a.abs().max(), b.abs().max()).clamp(min=1e-6)
    return bool(((a - b).abs() <= TOLERANCE * scale).all()) or bool((~torch.isfinite(scale)).all())
