"""BatchNorm in training mode: the nominal batch's statistics, held constant.

Statistics of the perturbed batch would couple its examples. The thesis (3.4.2) takes those of
the unperturbed batch instead: a heuristic for training, hence a caveat on the graph.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from autodual.front.ir import Batch, Graph, Node, Value
from autodual.front.passes.dead_code import remove_dead_code
from autodual.front.passes.rewrite import substitute

aten = torch.ops.aten

TRAINING = frozenset(
    {
        "aten._native_batch_norm_legit_functional.default",
        "aten._native_batch_norm_legit.no_stats",
    }
)


def batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    eps: float,
) -> Tensor:
    """Return γ(z − μ)/√(σ² + ε) + β. Unlike ATen's, differentiable in the statistics too."""
    shape = [-1] + [1] * (input.dim() - 2)
    scale = torch.rsqrt(running_var + eps)
    scale = scale if weight is None else scale * weight
    shift = -running_mean * scale
    shift = shift if bias is None else shift + bias
    return input * scale.reshape(shape) + shift.reshape(shape)


def nominal_batch_norm(graph: Graph) -> Graph:
    """Rewrite each BatchNorm on batch statistics to one with given statistics.

    A copy of the network up to there runs on the nominal input (``graph.nominal``). The
    perturbation does not reach the copy, so it is evaluated once, like any other constant, and
    gradients flow through it.
    """
    norms = [n for n in graph.nodes if n.out in graph.moving and _on_batch_statistics(n)]
    if not norms:
        return graph
    nominal = replace(graph.perturbed, name=f"{graph.perturbed.name}.nominal")
    copy = {graph.perturbed: nominal}
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.out in graph.moving:
            copy[node.out] = replace(node.out, name=f"{node.out.name}.nominal")
        if node in norms:
            mean, var = _statistics(copy[node.args["input"]], node)
            nodes += [mean, var]
            node = _with_statistics(node, mean.out, var.out)
        nodes.append(node)
        if node.out in graph.moving:
            nodes.append(substitute(node, copy, out=copy[node.out]))
    places = ", ".join(n.source.place if n.source else n.out.name for n in norms)
    caveat = f"BatchNorm in training mode uses the nominal batch's statistics ({places})"
    return remove_dead_code(
        replace(graph, nodes=tuple(nodes), nominal=nominal, caveats=(*graph.caveats, caveat))
    )


def _on_batch_statistics(node: Node) -> bool:
    training = node.op in TRAINING and node.args["training"] and node.index == 0
    return training and node.inputs[0].shape[0] == Batch(1)


def _statistics(x: Value, node: Node) -> tuple[Node, Node]:
    """Return the nodes for the biased variance's mean and itself, over all but the channels."""
    args = {
        "self": x,
        "dim": [d for d in range(len(x.shape)) if d != 1],
        "correction": 0,
        "keepdim": False,
    }
    nodes = []
    for index, statistic in ((1, "mean"), (0, "var")):
        out = Value(f"{node.out.name}.{statistic}", (x.shape[1],), x.dtype)
        op = aten.var_mean.correction
        nodes.append(Node(out, str(op), op, args, index, node.source))
    return nodes[0], nodes[1]


def _with_statistics(node: Node, mean: Value, var: Value) -> Node:
    args = {name: node.args[name] for name in ("input", "weight", "bias")}
    args |= {"running_mean": mean, "running_var": var, "eps": node.args["eps"]}
    return Node(node.out, "autodual.batch_norm", batch_norm, args, None, node.source)
