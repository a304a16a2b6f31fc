"""LayerNorm, GroupNorm, InstanceNorm, variances and norms: affine ops, squares and products."""

from __future__ import annotations

import math

import torch

from autodual.front.ir import Graph, Node, Value
from autodual.front.passes.reductions import LARGEST, SMALLEST, reduce
from autodual.front.passes.rewrite import Decomposition, Emit, fixed, rewrite

aten = torch.ops.aten


def standardize(emit: Emit, x: Value, dims: list[int], eps: float) -> Value:
    """Write (x − μ)/√(σ² + ε), with μ and σ² over ``dims``.

    What comes out lies within ±√(n − 1) for n entries; a clamp to that range changes no value
    and keeps the bound from growing where σ² may be near 0.

    Libraries find σ² from deviations, by two passes or by Welford's way: u c n (σ² + |x|σ) off for
    n entries. So (x − μ)/√(σ² + ε) is by u c n (|x|/√(σ² + ε) + |y|(1 + |x|/√(σ² + ε))).
    """
    centered = emit(aten.sub.Tensor, x, emit(aten.mean.dim, x, dims, True))
    variance = emit(aten.mean.dim, emit(aten.pow.Tensor_Scalar, centered, 2), dims, True)
    inverse = emit(aten.rsqrt.default, emit(aten.add.Scalar, variance, eps))
    count = math.prod(fixed(x.shape[d]) for d in dims)
    most = math.sqrt(count - 1) * (1 + 2.0**-20)
    out = emit(aten.clamp.default, emit(aten.mul.Tensor, centered, inverse), -most, most)
    share = 4.0 * count + 32
    return emit.nearly(out, share, terms=[(share * (1 + most), (x, inverse))])


def _layer_norm(emit: Emit, node: Node) -> Value | None:
    x, weight, bias = (node.args[name] for name in ("input", "weight", "bias"))
    if node.index != 0:
        return None
    dims = list(range(len(x.shape) - len(node.args["normalized_shape"]), len(x.shape)))
    out = standardize(emit, x, dims, node.args["eps"])
    out = out if weight is None else emit(aten.mul.Tensor, out, weight)
    return out if bias is None else emit(aten.add.Tensor, out, bias)


def _grouped(emit: Emit, x: Value, groups: int, node: Node) -> Value:
    """Standardize channels in groups; then weight and bias of each channel."""
    shape = [x.shape[0], groups, fixed(x.shape[1]) // groups, *x.shape[2:]]
    parts = emit(aten.reshape.default, x, shape)
    out = standardize(emit, parts, list(range(2, len(shape))), node.args["eps"])
    out = emit(aten.reshape.default, out, list(x.shape))
    for name, op in (("weight", aten.mul.Tensor), ("bias", aten.add.Tensor)):
        if node.args[name] is not None:
            wide = [1, -1] + [1] * (len(x.shape) - 2)
            out = emit(op, out, emit(aten.reshape.default, node.args[name], wide))
    return out


def _group_norm(emit: Emit, node: Node) -> Value | None:
    x = node.args["input"]
    return _grouped(emit, x, node.args["group"], node) if node.index == 0 else None


def _instance_norm(emit: Emit, node: Node) -> Value | None:
    x = node.args["input"]
    if not node.args["use_input_stats"]:
        names = ("weight", "bias", "running_mean", "running_var", "momentum", "eps")
        given = [node.args[name] for name in names]
        return emit(aten._native_batch_norm_legit_no_training.default, x, *given, index=0)
    return _grouped(emit, x, fixed(x.shape[1]), node)


def _variance(emit: Emit, node: Node) -> Value | None:
    """Σ(x − μ)²/(n − correction)."""
    x, dims = node.args["self"], node.args["dim"]
    correction = node.args["correction"]
    if not dims or not all(isinstance(x.shape[d], int) for d in dims):
        return None
    count = math.prod(fixed(x.shape[d]) for d in dims) - (1 if correction is None else correction)
    centered = emit(aten.sub.Tensor, x, emit(aten.mean.dim, x, dims, True))
    squares = emit(aten.pow.Tensor_Scalar, centered, 2)
    total = emit(aten.sum.dim_IntList, squares, dims, node.args["keepdim"])
    if count <= 0:
        return None
    share = 4.0 * math.prod(fixed(x.shape[d]) for d in dims) + 32
    found = emit(aten.mul.Scalar, total, 1 / count)
    return emit.nearly(found, share, terms=[(share, (x, x))], range=(0, math.inf))


def vector_norm(emit: Emit, x: Value, order: float, dims: list[int], keep: bool) -> Value:
    """Write the norm of order p ≥ 1, ∞ or −∞ over some dimensions."""
    if order == 2:
        squares = emit(aten.pow.Tensor_Scalar, x, 2)
        return emit(aten.sqrt.default, emit(aten.sum.dim_IntList, squares, dims, keep))
    sizes = emit(aten.abs.default, x)
    if math.isinf(order):
        emit.exactly()
        return reduce(emit, LARGEST if order > 0 else SMALLEST, sizes, dims, keep)
    powers = sizes if order == 1 else emit(aten.pow.Tensor_Scalar, sizes, order)
    total = emit(aten.sum.dim_IntList, powers, dims, keep)
    return total if order == 1 else emit(aten.pow.Tensor_Scalar, total, 1 / order)


def _norm(emit: Emit, node: Node) -> Value | None:
    x, dims, order = node.args["self"], node.args["dim"], float(node.args["ord"])
    if not dims or not all(isinstance(x.shape[d], int) for d in dims) or -math.inf < order < 1:
        return None
    found = vector_norm(emit, x, order, dims, node.args["keepdim"])
    count = math.prod(fixed(x.shape[d]) for d in dims)
    return found if emit.told else emit.nearly(found, 4.0 * count + 256, range=(0, math.inf))


def _distances(emit: Emit, node: Node) -> Value | None:
    """The distances of every point of one set from every one of another."""
    order = float(node.args.get("p", 2))
    if order < 1:
        return None
    one = emit(aten.unsqueeze.default, node.args["x1"], -2)
    other = emit(aten.unsqueeze.default, node.args["x2"], -3)
    return vector_norm(emit, emit(aten.sub.Tensor, one, other), order, [-1], False)


TABLE: dict[str, Decomposition] = {
    "aten.native_layer_norm.default": _layer_norm,
    "aten.native_group_norm.default": _group_norm,
    "aten.instance_norm.default": _instance_norm,
    "aten.var.correction": _variance,
    "aten.linalg_vector_norm.default": _norm,
    "aten._cdist_forward.default": _distances,
    "aten._euclidean_dist.default": _distances,
}


def normalize(graph: Graph) -> Graph:
    """Rewrite normalisation on the example's own statistics."""
    return rewrite(graph, TABLE)
