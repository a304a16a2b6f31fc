"""Run a graph as it is: the model's own values, with its live parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from autodual.errors import ModelError
from autodual.front.ir import Graph, Literal, Node, Value, evaluate


def run(graph: Graph, given: Mapping[Value, Tensor]) -> Tensor:
    """Evaluate the graph at all that it is given, its perturbed input as it is."""
    env = dict(given)
    run_nodes(graph.nodes, env, len(env[graph.perturbed]))
    return env[graph.output]


def run_nodes(nodes: Iterable[Node], env: dict[Value, Tensor], batch: int) -> None:
    """Evaluate nodes in order, adding what they compute to ``env``."""
    for node in nodes:
        env[node.out] = evaluate(node, env, batch)


def entries(graph: Graph, model: nn.Module, inputs: Mapping[Value, Tensor]) -> dict[Value, Tensor]:
    """Return all that must be given to run the nodes: inputs, live constants, nominal input."""
    env = dict(inputs) | parameters(graph, model)
    if graph.nominal is not None:
        env[graph.nominal] = inputs[graph.perturbed]
    return env


def parameters(graph: Graph, model: nn.Module) -> dict[Value, Tensor]:
    """Look the graph's constants up in the live model."""
    found: dict[Value, Tensor] = {}
    for value, constant in graph.constants.items():
        tensor = constant.tensor if isinstance(constant, Literal) else _lookup(model, constant.name)
        if tensor.shape != value.size(1) or tensor.dtype != value.dtype:
            raise ModelError(
                f"{value.name} was {value.type} when the model was captured and is now "
                f"{tensor.dtype} {list(tensor.shape)}. Call certify again."
            )
        found[value] = tensor
    return found


def _lookup(model: nn.Module, name: str) -> Tensor:
    path, _, leaf = name.rpartition(".")
    tensor = getattr(model.get_submodule(path), leaf)
    if not isinstance(tensor, Tensor):
        raise ModelError(f"{name} was a tensor when the model was captured; call certify again")
    return tensor
