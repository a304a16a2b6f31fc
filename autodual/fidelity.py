"""Check once per capture that the graph computes what the model does, one example at a time."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from autodual.capture import Captured, Inputs, parameters
from autodual.errors import BatchError, CaptureError
from autodual.ir import Graph, Node, Value, evaluate

TOLERANCE = 1e-3
"""Allowed difference, relative to the largest output. Reordered sums differ far less."""


@torch.no_grad()
def check_fidelity(captured: Captured, model: nn.Module, inputs: Inputs) -> None:
    """Raise if the graph and the model disagree, or if examples influence each other.

    Raises:
        CaptureError: the captured graph computes something else than the model.
        BatchError: the first example's output changes with the second.
    """
    graph = captured.graph
    env = captured.bind(inputs)
    full = run(graph, model, env)
    _compare_with_model(graph, model, inputs, full)
    pair = {v: _pair(v, t, other=v == graph.perturbed) for v, t in env.items()}
    together, alone = _with_and_without_company(graph, model, pair)
    if not _close(together, alone):
        raise BatchError(
            "the first example's output changes with the second one "
            f"(by {float((together - alone).abs().max()):.3g}): the model mixes the examples of a "
            "batch. A bound holds for one example at a time: reduce, flip and normalise over "
            "other dimensions than the batch's."
        )


def run(graph: Graph, model: nn.Module, inputs: Mapping[Value, Tensor]) -> Tensor:
    """Evaluate the graph at unperturbed inputs."""
    env = _entries(graph, model, inputs)
    _run(graph.nodes, env, inputs[graph.perturbed].shape[0])
    return env[graph.output]


def _entries(graph: Graph, model: nn.Module, inputs: Mapping[Value, Tensor]) -> dict[Value, Tensor]:
    env = dict(inputs) | parameters(graph, model)
    if graph.nominal is not None:
        env[graph.nominal] = inputs[graph.perturbed]
    return env


def _run(nodes: tuple[Node, ...], env: dict[Value, Tensor], batch: int) -> None:
    for node in nodes:
        env[node.out] = evaluate(node, env, batch)


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
) -> tuple[Tensor, Tensor]:
    """Return the first example's output in a batch of two, and alone.

    What the perturbation does not reach (batch statistics, other inputs) stays as it is.
    """
    env = _entries(graph, model, pair)
    _run(graph.prelude, env, 2)
    alone = {value: _first(value, tensor) for value, tensor in env.items()}
    _run(graph.body, env, 2)
    _run(graph.body, alone, 1)
    return _first(graph.output, env[graph.output]), alone[graph.output]


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
