"""Elementwise ops of a name of their own, as others that have dual layers; and softsign."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F

from autodual.front.ir import Graph, Node, Value
from autodual.front.passes.rewrite import Decomposition, Emit, rewrite

aten = torch.ops.aten


def _rrelu(emit: Emit, node: Node) -> Value | None:
    """Out of training, RReLU has the mean of its slopes."""
    if node.args["training"] or node.index != 0:
        return None
    mean = (node.args["lower"] + node.args["upper"]) / 2
    return emit.nearly(emit(aten.leaky_relu.default, node.args["self"], mean), 4)


def _clamp(emit: Emit, node: Node) -> Value | None:
    """Clamp with tensors as ends: min(max(z, a), b)."""
    z, least, most = (node.args[name] for name in ("self", "min", "max"))
    emit.exactly()
    z = z if least is None else emit(aten.maximum.default, z, least)
    return z if most is None else emit(aten.minimum.default, z, most)


def _hypot(emit: Emit, node: Node) -> Value | None:
    """√(a² + b²)."""
    a, b = (emit(aten.pow.Tensor_Scalar, node.args[name], 2) for name in ("self", "other"))
    return emit.nearly(emit(aten.sqrt.default, emit(aten.add.Tensor, a, b)), 16)


def _logit(emit: Emit, node: Node) -> Value | None:
    """Of z clamped to [ε, 1 − ε]."""
    z, eps = node.args["self"], node.args["eps"]
    if eps is None:
        return None
    return emit.nearly(emit(aten.logit.default, emit(aten.clamp.default, z, eps, 1 - eps)), 16, 16)


def _softsign(emit: Emit, node: Node) -> Value | None:
    """z/(1 + |z|) as one op: as a quotient it would forget that both z are the same."""
    z, below = node.args["self"], node.args["other"]
    total = emit.producer(below) if emit.moves(below) else None
    if total is None or total.op not in ("aten.add.Tensor", "aten.add.Scalar"):
        return None
    size, one = total.args["self"], total.args["other"]
    made = emit.producer(size)
    alike = made is not None and made.op == "aten.abs.default" and made.args["self"] == z
    if not alike or one != 1 or total.args["alpha"] != 1:
        return None
    out = replace(node.out, name=f"{node.out.name}.softsign")
    emit.nodes.append(Node(out, "autodual.softsign", F.softsign, {"input": z}, None, node.source))
    return emit.nearly(out, 8)


def _finite(emit: Emit, node: Node) -> Value | None:
    """Of what has a bound nothing is NaN, and ∞ is the largest number that there is."""
    if node.args["posinf"] is not None or node.args["neginf"] is not None:
        return None
    emit.exactly()
    numbers = torch.finfo(node.out.dtype)
    return emit(aten.clamp.default, node.args["self"], numbers.min, numbers.max)


def _with_sign(emit: Emit, node: Node) -> Value | None:
    """sign(z)·|z| = z, as in power-average pools."""
    sign, size = (emit.producer(node.args[name]) for name in ("self", "other"))
    if size is not None and size.op == "aten.relu.default":
        size = emit.producer(size.args["self"])
    signed = sign is not None and sign.op == "aten.sign.default"
    if not signed or size is None or size.op != "aten.abs.default":
        return None
    emit.exactly()
    z: Value = size.args["self"]
    return z if sign is not None and sign.args["self"] == z else None


TABLE: dict[str, Decomposition] = {
    "aten.rrelu_with_noise_functional.default": _rrelu,
    "aten.clamp.Tensor": _clamp,
    "aten.hypot.default": _hypot,
    "aten.logit.default": _logit,
    "aten.nan_to_num.default": _finite,
    "aten.div.Tensor": _softsign,
    "aten.mul.Tensor": _with_sign,
}


def spell_out(graph: Graph) -> Graph:
    """Rewrite these ops where the perturbation reaches them."""
    return rewrite(graph, TABLE)
