"""From a graph to the few ops that proofs know: affine nodes with their windows listed, and ReLU.

A value of the graph is entries of some nodes: ops that only move entries make no node.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autodual.errors import UnsupportedOpError
from autodual.front.ir import Graph, Node, Value, bind, invoke
from autodual.proof.affine import added, averaged, clamped, convolution, linear, no_bias, scaled
from autodual.proof.network import Entries, Translated, numbers

MOVES = {
    "aten.reshape.default",
    "aten.view.default",
    "aten._unsafe_view.default",
    "aten.flatten.using_ints",
    "aten.unflatten.int",
    "aten.permute.default",
    "aten.transpose.int",
    "aten.t.default",
    "aten.movedim.int",
    "aten.squeeze.dim",
    "aten.squeeze.dims",
    "aten.squeeze.default",
    "aten.unsqueeze.default",
    "aten.expand.default",
    "aten.slice.Tensor",
    "aten.select.int",
    "aten.narrow.default",
    "aten.flip.default",
    "aten.roll.default",
    "aten.cat.default",
    "aten.stack.default",
    "aten.clone.default",
    "aten.alias.default",
    "aten.contiguous.default",
    "aten.constant_pad_nd.default",
    "aten.index_select.default",
    "aten.detach.default",
    "aten.split.Tensor",
    "aten.split_with_sizes.default",
    "aten.chunk.default",
    "aten.unbind.int",
    "aten.repeat.default",
}
"""Ops that move entries and change none; padding with other numbers than 0 is seen."""

KNOWN = {
    "aten._native_batch_norm_legit_no_training.default",
    "aten.abs.default",
    "aten.add.Tensor",
    "aten.addmm.default",
    "aten.avg_pool2d.default",
    "aten.clamp.default",
    "aten.convolution.default",
    "aten.hardtanh.default",
    "aten.leaky_relu.default",
    "aten.linear.default",
    "aten.matmul.default",
    "aten.mean.dim",
    "aten.mm.default",
    "aten.mul.Tensor",
    "aten.neg.default",
    "aten.relu.default",
    "aten.sub.Tensor",
}
"""Ops that make nodes, where their other arguments allow it."""


def translate(graph: Graph, env: Mapping[Value, Tensor]) -> tuple[Translated, Entries]:
    """Return the network, and which entries of it are the graph's output.

    Args:
        graph: of one perturbed input.
        env: its constants, and what its prelude makes of them, as they are now.

    Raises:
        UnsupportedOpError: ops that proofs do not know, all of them.
    """
    net = Translated(graph.perturbed.numel)
    net.sizes.append(net.input)
    known = {graph.perturbed: net.entries(0, graph.perturbed.size(1))}
    lost: dict[Value, str] = {}
    for node in graph.body:
        if any(v in lost for v in node.inputs):
            lost[node.out] = "" if node.op in MOVES or node.op in KNOWN else node.where
            continue
        found = _node(net, node, env, known)
        if found is None:
            lost[node.out] = node.where
        else:
            known[node.out] = Entries(found.nodes, found.index.reshape(node.out.size(1)))
    if lost:
        told = "\n".join(f"  {where}" for where in lost.values() if where)
        raise UnsupportedOpError(
            "proofs are written for networks of affine ops with the model's own numbers and of "
            f"relu, leaky_relu, abs, hardtanh, clamp and maxima; there is no proof through\n{told}"
        )
    return net, known[graph.output]


def _node(
    net: Translated, node: Node, env: Mapping[Value, Tensor], known: Mapping[Value, Entries]
) -> Entries | None:
    """Return what a node computes, or None if proofs do not know how."""
    op, a = node.op, node.args
    z = [known[v] for v in node.inputs if v in known]
    rest = {name: _constant(arg, env, known) for name, arg in a.items()}
    if op in MOVES:
        return _moved(net, node, known)
    match op:
        case "aten.relu.default":
            return net.relu(z[0])
        case "aten.leaky_relu.default":
            s = float(a["negative_slope"])
            return net.mixed([z[0], r := net.relu(z[0]), r], [s, 1, -s], no_bias())
        case "aten.abs.default":
            return net.mixed([z[0], net.relu(z[0])], [-1, 2], no_bias())
        case "aten.hardtanh.default":
            return clamped(net, z[0], a["min_val"], a["max_val"])
        case "aten.clamp.default":
            return clamped(net, z[0], a["min"], a["max"])
        case "aten.linear.default" if rest["weight"] is not None and len(z) == 1:
            return linear(net, z[0], rest["weight"], rest["bias"])
        case "aten.addmm.default" if rest["mat2"] is not None and rest["self"] is not None:
            return (
                linear(net, z[0], rest["mat2"].T, rest["self"])
                if a["alpha"] == a["beta"] == 1 and rest["self"].ndim == 1
                else None
            )
        case "aten.mm.default" | "aten.matmul.default":
            other = rest["mat2" if "mat2" in a else "other"]
            return None if other is None or other.ndim != 2 else linear(net, z[0], other.T, None)
        case "aten.convolution.default" if rest["weight"] is not None and len(z) == 1:
            return None if a["transposed"] else convolution(net, z[0], node, rest)
        case "aten._native_batch_norm_legit_no_training.default" if node.index == 0 and z:
            return scaled(net, z[0], rest, float(a["eps"]))
        case "aten.avg_pool2d.default":
            return averaged(net, z[0], node)
        case "aten.mean.dim" if a["dim"]:
            dims = [d % z[0].index.ndim for d in a["dim"]]
            places = np.moveaxis(z[0].index, dims, range(len(dims)))
            places = places.reshape(1, -1, math.prod(node.out.size(1)))
            W = np.full((1, 1, places.shape[1]), 1 / places.shape[1])
            where = np.arange(places.size).reshape(places.shape)
            mean = net.affine(Entries(z[0].nodes, places), W, where, no_bias())
            return net.entries(mean, node.out.size(1))
        case "aten.neg.default":
            return net.mixed(z, [-1], no_bias())
        case "aten.add.Tensor" | "aten.sub.Tensor" if a["alpha"] == 1:
            return added(net, node, rest, known, -1 if op == "aten.sub.Tensor" else 1)
        case "aten.mul.Tensor" if len(z) == 1:
            factor = rest["other"] if rest["self"] is None else rest["self"]
            if factor is None:
                return None
            W = np.broadcast_to(factor, node.out.size(1)).reshape(-1, 1, 1)
            index = np.broadcast_to(z[0].index, node.out.size(1))
            n = index.size
            z0 = Entries(z[0].nodes, index)
            zero = np.zeros((n, 1, 1), np.float32)
            return net.entries(
                net.affine(z0, W, np.arange(n).reshape(n, 1, 1), zero), node.out.size(1)
            )
    return None


def _constant(
    arg: Any, env: Mapping[Value, Tensor], known: Mapping[Value, Entries]
) -> np.ndarray | None:
    """Return what an argument is, if it does not move and is of numbers; of one example."""
    if isinstance(arg, Value):
        return None if arg in known or arg not in env else numbers(env[arg])
    if isinstance(arg, int | float) and not isinstance(arg, bool):
        return np.asarray(arg, np.float64)
    return None


def _moved(net: Translated, node: Node, known: Mapping[Value, Entries]) -> Entries | None:
    """Run an op that moves entries on their numbers, counted from 1: a 0 is a zero."""
    if node.args.get("value") or any(v not in known for v in node.inputs):
        return None
    nodes: list[int] = []
    counted: dict[Value, Tensor] = {}
    for v in dict.fromkeys(node.inputs):
        start = sum(net.sizes[n] for n in nodes)
        index = np.where(known[v].index < 0, 0, known[v].index + 1 + start)
        counted[v] = torch.from_numpy(index)
        nodes += known[v].nodes
    moved = invoke(node.target, bind(node, counted, 1), node.index)
    return Entries(tuple(nodes), moved.numpy() - 1)
