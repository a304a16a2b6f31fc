"""From a graph to the few ops that proofs know: affine nodes with their windows listed, and ReLU.

A value of the graph is entries of some nodes: ops that only move entries make no node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import unfold

from autodual.errors import UnsupportedOpError
from autodual.front.ir import Graph, Node, Value, bind, invoke

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
    "aten.abs.default",
    "aten.add.Tensor",
    "aten.addmm.default",
    "aten.clamp.default",
    "aten.convolution.default",
    "aten.hardtanh.default",
    "aten.leaky_relu.default",
    "aten.linear.default",
    "aten.matmul.default",
    "aten.mm.default",
    "aten.mul.Tensor",
    "aten.neg.default",
    "aten.relu.default",
    "aten.sub.Tensor",
}
"""Ops that make nodes, where their other arguments allow it."""


@dataclass(frozen=True)
class Entries:
    """A value: which entries of some nodes in a row it has, [*size(1)], −1 for a zero."""

    nodes: tuple[int, ...]
    index: np.ndarray


@dataclass
class Translated:
    """A network as proofs know it: what each node reads, with arrays of those that are affine."""

    input: int
    nodes: list[list[int]] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)

    def affine(self, z: Entries, W: np.ndarray, index: np.ndarray, b: np.ndarray) -> int:
        """Add W [g, m, k] z[index] + b, for entries [g, k, p] of z; return its number."""
        flat = np.append(z.index.ravel(), -1)
        name, p = str(len(self.nodes) + 1), index.shape[2]
        self.arrays |= {f"W{name}": W, f"I{name}": flat[index].astype(np.int32), f"b{name}": b}
        self.nodes.append(list(z.nodes))
        self.sizes.append(W.shape[0] * W.shape[1] * p)
        return len(self.nodes)

    def whole(self, z: Entries) -> int:
        """Return the node that has just these entries, made if there is none."""
        if len(z.nodes) == 1 and np.array_equal(z.index.ravel(), np.arange(self.sizes[z.nodes[0]])):
            return z.nodes[0]
        one, n = np.ones((1, 1, 1), np.float32), z.index.size
        return self.affine(z, one, np.arange(n).reshape(1, 1, n), 0 * one)

    def relu(self, z: Entries) -> Entries:
        """Add a ReLU."""
        source = self.whole(z)
        self.nodes.append([source])
        self.sizes.append(self.sizes[source])
        return self.entries(len(self.nodes), z.index.shape)

    def entries(self, node: int, shape: tuple[int, ...]) -> Entries:
        """Return all entries of a node."""
        return Entries((node,), np.arange(self.sizes[node]).reshape(shape))

    def mixed(self, z: list[Entries], factors: list[float], b: np.ndarray) -> Entries:
        """Add Σ factor·z + b, all of one shape."""
        nodes, rows = list[int](), list[np.ndarray]()
        for part in z:
            start = sum(self.sizes[j] for j in nodes)
            rows.append(np.where(part.index < 0, -1, part.index + start))
            nodes += part.nodes
        joined, n = Entries(tuple(nodes), np.stack(rows)), z[0].index.size
        W = np.array(factors, np.float64).reshape(1, 1, -1)
        index = np.arange(len(z) * n).reshape(1, len(z), n)
        return self.entries(self.affine(joined, W, index, b), z[0].index.shape)


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
            f"relu, leaky_relu, abs, hardtanh and clamp; there is no proof through\n{told}"
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
            return net.mixed([z[0], r := net.relu(z[0]), r], [s, 1, -s], _zero())
        case "aten.abs.default":
            return net.mixed([z[0], net.relu(z[0])], [-1, 2], _zero())
        case "aten.hardtanh.default":
            return _clamped(net, z[0], a["min_val"], a["max_val"])
        case "aten.clamp.default":
            return _clamped(net, z[0], a["min"], a["max"])
        case "aten.linear.default" if rest["weight"] is not None and len(z) == 1:
            return _linear(net, z[0], rest["weight"], rest["bias"])
        case "aten.addmm.default" if rest["mat2"] is not None and rest["self"] is not None:
            return (
                _linear(net, z[0], rest["mat2"].T, rest["self"])
                if a["alpha"] == a["beta"] == 1 and rest["self"].ndim == 1
                else None
            )
        case "aten.mm.default" | "aten.matmul.default":
            other = rest["mat2" if "mat2" in a else "other"]
            return None if other is None or other.ndim != 2 else _linear(net, z[0], other.T, None)
        case "aten.convolution.default" if rest["weight"] is not None and len(z) == 1:
            return None if a["transposed"] else _convolution(net, z[0], node, rest)
        case "aten.neg.default":
            return net.mixed(z, [-1], _zero())
        case "aten.add.Tensor" | "aten.sub.Tensor" if a["alpha"] == 1:
            return _sum(net, node, rest, known, -1 if op == "aten.sub.Tensor" else 1)
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


def _zero() -> np.ndarray:
    return np.zeros((1, 1, 1), np.float32)


def _constant(
    arg: Any, env: Mapping[Value, Tensor], known: Mapping[Value, Entries]
) -> np.ndarray | None:
    """Return what an argument is, if it does not move and is of numbers; of one example."""
    if isinstance(arg, Value):
        return None if arg in known or arg not in env else numbers(env[arg])
    if isinstance(arg, int | float) and not isinstance(arg, bool):
        return np.asarray(arg, np.float64)
    return None


def numbers(tensor: Tensor) -> np.ndarray:
    """Return a tensor's numbers, none of them changed."""
    tensor = tensor.detach().cpu()
    return (tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.double()).numpy()


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


def _linear(net: Translated, z: Entries, W: np.ndarray, b: np.ndarray | None) -> Entries | None:
    """Add W z + b for the last dimension of z: a place for each of what lies before it."""
    if W.ndim != 2 or (b is not None and b.shape != (len(W),)):
        return None
    (m, k), places = W.shape, z.index.shape[:-1]
    index = np.arange(z.index.size).reshape(-1, k).T[None]
    b = np.zeros(m, np.float32) if b is None else b
    out = net.entries(net.affine(z, W[None], index, b.reshape(1, m, 1)), (m, *places))
    return Entries(out.nodes, np.moveaxis(out.index, 0, -1))


def _convolution(
    net: Translated, z: Entries, node: Node, rest: Mapping[str, np.ndarray | None]
) -> Entries | None:
    """Add a convolution of a signal or an image."""
    W, b, a = rest["weight"], rest["bias"], node.args
    assert W is not None
    if W.ndim > 4:
        return None
    row = (1,) * (4 - W.ndim)
    stride, padding, dilation = (
        (*fill[: 4 - W.ndim], *a[name])
        for name, fill in (("stride", (1,)), ("padding", (0,)), ("dilation", (1,)))
    )
    kernel = (*row, *W.shape[2:])
    size = (1, z.index.shape[1], *row, *z.index.shape[2:])
    count = torch.arange(1, z.index.size + 1, dtype=torch.float64).reshape(size)
    windows = unfold(count, kernel, dilation, padding, stride)[0].long().numpy() - 1
    g, out = a["groups"], W.shape[0]
    index = windows.reshape(g, -1, windows.shape[-1])
    b = np.zeros(out, np.float32) if b is None else b
    number = net.affine(z, W.reshape(g, out // g, -1), index, b.reshape(g, out // g, 1))
    return net.entries(number, node.out.size(1))


def _sum(
    net: Translated,
    node: Node,
    rest: Mapping[str, np.ndarray | None],
    known: Mapping[Value, Entries],
    sign: int,
) -> Entries | None:
    """Add a sum or difference of values, or of a value and a constant."""
    parts, factors, b = list[Entries](), list[float](), np.zeros((1, 1, 1))
    for name, factor in (("self", 1), ("other", sign)):
        arg, constant = node.args[name], rest[name]
        if isinstance(arg, Value) and arg in known:
            index = np.broadcast_to(known[arg].index, node.out.size(1))
            parts.append(Entries(known[arg].nodes, index))
            factors.append(factor)
        elif constant is None:
            return None
        else:
            b = factor * np.broadcast_to(constant, node.out.size(1)).reshape(1, 1, -1)
    return net.mixed(parts, factors, b)


def _clamped(net: Translated, z: Entries, low: float | None, high: float | None) -> Entries | None:
    """Add min(max(z, low), high) = low + relu(z − low) − relu(z − high), if low ≤ high."""
    if low is None or high is None or low > high:
        return None
    ends = (net.relu(net.mixed([z], [1], np.full((1, 1, 1), -float(e)))) for e in (low, high))
    return net.mixed(list(ends), [1, -1], np.full((1, 1, 1), float(low)))


def evaluated(net: Translated, z: Entries, x: np.ndarray) -> np.ndarray:
    """Return what the network gives at inputs [N, n], in float64: [N, entries of z]."""
    values = [np.asarray(x, np.float64)]
    for i, inputs in enumerate(net.nodes, 1):
        joined = np.concatenate([values[j] for j in inputs], 1)
        if f"W{i}" not in net.arrays:
            values.append(np.maximum(joined, 0))
            continue
        W, index, b = (net.arrays[f"{name}{i}"] for name in "WIb")
        padded = np.concatenate([joined, np.zeros((len(x), 1))], 1)
        values.append((W.astype(np.float64) @ padded[:, index] + b).reshape(len(x), -1))
    joined = np.concatenate([*(values[j] for j in z.nodes), np.zeros((len(x), 1))], 1)
    return joined[:, z.index.ravel()]
