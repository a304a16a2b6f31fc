"""Quotients, squares, powers, and pairwise maxima, as the ops that have dual layers."""

from __future__ import annotations

import torch

from autodual.front.ir import Graph, Node, Value
from autodual.front.passes.rewrite import Decomposition, Emit, rewrite
from autodual.front.passes.softmax import LINEAR

aten = torch.ops.aten


def _quotient(emit: Emit, node: Node) -> Value | None:
    """a/b = a · (1/b) for a perturbed b."""
    a, b = node.args["self"], node.args["other"]
    if not emit.moves(b):
        return None
    return emit.nearly(emit(aten.mul.Tensor, a, emit(aten.reciprocal.default, b)), 4)


def _square(emit: Emit, node: Node) -> Value | None:
    """x · x = x²: as a product of two numbers it would forget that they are the same."""
    a, b = node.args["self"], node.args["other"]
    return emit.nearly(emit(aten.pow.Tensor_Scalar, a, 2), 4) if a == b else None


def _product(emit: Emit, node: Node) -> Value | None:
    """Bring two perturbed factors to one shape."""
    a, b = node.args["self"], node.args["other"]
    if not (emit.moves(a) and emit.moves(b)) or a.shape == b.shape:
        return None
    emit.exactly()
    return emit(aten.mul.Tensor, *(_widened(emit, v, node.out) for v in (a, b)))


def _power(emit: Emit, node: Node) -> Value | None:
    """aᵇ = exp(b log a) for two perturbed ones; else bring the one that is to the power's shape."""
    a, b = node.args["self"], node.args["exponent"]
    if emit.moves(a) and emit.moves(b):
        exponent = emit(aten.mul.Tensor, b, emit(aten.log.default, a))
        return emit.nearly(emit(aten.exp.default, exponent), 32)
    moving = a if emit.moves(a) else b
    if moving.shape == node.out.shape:
        return None
    emit.exactly()
    wide = _widened(emit, moving, node.out)
    return emit(aten.pow.Tensor_Tensor, *((wide, b) if moving == a else (a, wide)))


def _widened(emit: Emit, value: Value, like: Value) -> Value:
    if value.shape == like.shape:
        return value
    return emit(aten.expand.default, value, list(like.shape))


def _extreme(sign: int) -> Decomposition:
    """Bring the arguments of a pairwise maximum (1) or minimum (−1) to one shape.

    With a constant c, max(z, c) = c + max(z − c, 0) and min(z, c) = c − max(c − z, 0).
    """

    def decompose(emit: Emit, node: Node) -> Value | None:
        a, b = node.args["self"], node.args["other"]
        emit.exactly()
        if emit.moves(a) and emit.moves(b):
            if a.shape == b.shape:
                return None
            wide = [_widened(emit, v, node.out) for v in (a, b)]
            return emit(node.target, *wide)  # type: ignore[arg-type]
        z, c = (a, b) if emit.moves(a) else (b, a)
        over = emit(aten.sub.Tensor, z, c) if sign > 0 else emit(aten.sub.Tensor, c, z)
        rest = emit(aten.relu.default, over)
        return emit(aten.add.Tensor if sign > 0 else aten.sub.Tensor, c, rest)

    return decompose


def _log_sum(emit: Emit, node: Node) -> Value | None:
    """Bring both to one shape; log(exp z + exp c) = c + softplus(z − c) for a constant c."""
    a, b = node.args["self"], node.args["other"]
    if emit.moves(a) and emit.moves(b):
        wide = [_widened(emit, v, node.out) for v in (a, b)]
        emit.exactly()
        return None if a.shape == b.shape else emit(aten.logaddexp.default, *wide)
    z, c = (a, b) if emit.moves(a) else (b, a)
    over = emit(aten.softplus.default, emit(aten.sub.Tensor, z, c), 1.0, LINEAR)
    return emit.nearly(emit(aten.add.Tensor, over, c), 8, 32, [(4, (a,)), (4, (b,))])


def _sum_of_product(emit: Emit, node: Node) -> Value | None:
    """β a + α (x @ y), where more than x is perturbed."""
    a, x, y = (node.args[name] for name in ("self", "mat1", "mat2"))
    if not (emit.moves(a) or emit.moves(y)):
        return None
    product = emit(aten.mul.Scalar, emit(aten.mm.default, x, y), node.args["alpha"])
    return emit(aten.add.Tensor, product, a, node.args["beta"])


def _solution(emit: Emit, node: Node) -> Value | None:
    """A⁻¹B for a constant A."""
    a, b = node.args["A"], node.args["B"]
    matrix = len(b.shape) > 1 and b.shape[-2] == a.shape[-1] and len(b.shape) == len(node.out.shape)
    if emit.moves(a) or not matrix or not node.args["left"] or node.index != 0:
        return None
    return emit(aten.matmul.default, emit(aten.linalg_inv_ex.default, a, False, index=0), b)


TABLE: dict[str, Decomposition] = {
    "aten.div.Tensor": _quotient,
    "aten.mul.Tensor": _square,
    "aten.pow.Tensor_Tensor": _power,
    "aten.maximum.default": _extreme(1),
    "aten.minimum.default": _extreme(-1),
    "aten.logaddexp.default": _log_sum,
    "aten.addmm.default": _sum_of_product,
    "aten._linalg_solve_ex.default": _solution,
}


def pair_up(graph: Graph) -> Graph:
    """Rewrite ops of two arguments so that each has a dual layer for those that are perturbed."""
    return rewrite(rewrite(graph, TABLE), {"aten.mul.Tensor": _product})
