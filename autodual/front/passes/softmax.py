"""Softmax and its logarithm, by differences of scores.

    softmax_i = 1/(1 + Σ_{j≠i} exp(z_j − z_i)) = sigmoid(−L_i),    L_i = log Σ_{j≠i} exp(z_j − z_i).

The differences are affine and each entry of them reads two scores, so that interval arithmetic
is exact; L is a tournament of pairs (``reductions``) that cannot overflow.

Libraries take differences to the largest score, all at once or stretch by stretch. With an error of
u each, and 8u for an exponential, a weight e^−t of t is off by u(t + 8)e^−t ≤ u + 8u e^−t, their
sum over n by u(n + 8) of itself and what it is multiplied by on the way, and the quotient by both.
Logarithms of softmax may be differences to a log-sum-exp, which is as large as scores are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autodual.front.ir import Graph, Node, Value
from autodual.front.passes.reductions import by_pairs, fold
from autodual.front.passes.rewrite import Decomposition, Emit, fixed, rewrite

aten = torch.ops.aten

NEVER = -1e4
"""A difference of scores that gives no weight: exp(−10⁴) is 0 in any dtype."""


LINEAR = 40.0
"""From where softplus is linear to ATen: far enough that no dtype can tell."""


def far(mask: Tensor) -> Tensor:
    """Return 0 where a score counts, and else a difference that gives no weight."""
    return torch.where(mask > 0, 0.0, NEVER).to(mask.dtype)


def softmax(emit: Emit, z: Value, dim: int, mask: Value | None = None) -> Value:
    """Write softmax of z along ``dim``; ``mask``, of z's shape, is 1 where a score counts, else 0.

    Where no score counts the result is 0.
    """
    if z.shape[dim] == 1:
        whole = _exactly_one(emit, z)
    else:
        whole = emit(aten.sigmoid.default, emit(aten.neg.default, _rivals(emit, z, dim, mask)))
    emit.nearly(whole, 8 * fixed(z.shape[dim]) + 32, 2, range=(0, 2))
    return whole if mask is None else emit(aten.mul.Tensor, whole, mask)


def log_softmax(emit: Emit, z: Value, dim: int) -> Value:
    """Write log softmax of z along ``dim``: −log(1 + exp L) = −logaddexp(L, 0)."""
    if z.shape[dim] == 1:
        found = emit(aten.mul.Scalar, z, 0.0)
    else:
        rivals = _rivals(emit, z, dim, None)
        found = emit(aten.neg.default, emit(aten.softplus.default, rivals, 1.0, LINEAR))
    return emit.nearly(found, 8, 8 * fixed(z.shape[dim]) + 32, [(4, (z,))])


def _rivals(emit: Emit, z: Value, dim: int, mask: Value | None) -> Value:
    """Write L, with the shape of z."""
    dim = dim % len(z.shape)
    n = fixed(z.shape[dim])
    others = torch.tensor([[j for j in range(n) if j != i] for i in range(n)])
    index = emit.literal(others.flatten())

    def pick(value: Value) -> Value:
        """Return the others for each i: [..., n, n − 1, ...]."""
        flat = emit(aten.index_select.default, value, dim, index)
        shape = [*value.shape[:dim], n, n - 1, *value.shape[dim + 1 :]]
        return emit(aten.reshape.default, flat, shape)

    differences = emit(aten.sub.Tensor, pick(z), emit(aten.unsqueeze.default, z, dim + 1))
    if mask is not None:
        counts = pick(mask)
        kept = emit(aten.mul.Tensor, differences, counts)
        differences = emit(aten.add.Tensor, kept, emit.own("autodual.far", far, {"mask": counts}))
    best = fold(emit, by_pairs(aten.logaddexp.default), differences, dim + 1)
    return emit(aten.squeeze.dim, best, dim + 1)


def _exactly_one(emit: Emit, z: Value) -> Value:
    return emit(aten.add.Scalar, emit(aten.mul.Scalar, z, 0.0), 1.0)


def _softmax(emit: Emit, node: Node) -> Value | None:
    z, dim = node.args["self"], node.args["dim"]
    if not isinstance(z.shape[dim], int) or node.args["half_to_float"]:
        return None
    finite, mask = unmasked(emit, z)
    return softmax(emit, finite, dim, mask)


def _log_softmax(emit: Emit, node: Node) -> Value | None:
    z, dim = node.args["self"], node.args["dim"]
    if not isinstance(z.shape[dim], int) or node.args["half_to_float"]:
        return None
    return log_softmax(emit, z, dim)


def unmasked(emit: Emit, z: Value) -> tuple[Value, Value | None]:
    """Split scores into finite ones and a mask, where a constant −∞ was added or put in.

    Returns:
        Scores without −∞, and a tensor of their shape that is 1 where a score counts, else 0;
        or z itself and None.
    """
    made = emit.producer(z)
    if made is None:
        return z, None
    if made.op == "aten.reshape.default":
        finite, mask = unmasked(emit, made.args["self"])
        if mask is None:
            return z, None
        shape = made.args["shape"]
        return emit(aten.reshape.default, finite, shape), emit(aten.reshape.default, mask, shape)
    if made.op == "aten.add.Tensor" and made.args["alpha"] == 1:
        a, b = made.args["self"], made.args["other"]
        c, scores = (b, a) if emit.moves(a) else (a, b)
        if emit.moves(c) or not isinstance(c, Value):
            return z, None
        silent, shift = silenced(emit, c)
        return emit(aten.add.Tensor, scores, shift), counting(emit, silent, z)
    if made.op == "aten.where.self":
        a, b, condition = made.args["self"], made.args["other"], made.args["condition"]
        if emit.moves(a) == emit.moves(b):
            return z, None
        c, scores = (b, a) if emit.moves(a) else (a, b)
        chosen = condition if c == a else emit(aten.logical_not.default, condition)
        silent, shift = silenced(emit, c)
        pair = (shift, scores) if c == a else (scores, shift)
        finite = emit(aten.where.self, condition, *pair)
        return finite, counting(emit, emit(aten.logical_and.default, chosen, silent), z)
    return z, None


def silenced(emit: Emit, c: Value) -> tuple[Value, Value]:
    """Return where a constant is −∞, and the constant with 0 in these places."""
    silent = emit(aten.eq.Scalar, c, -torch.inf)
    return silent, emit(aten.masked_fill.Scalar, c, silent, 0.0)


def counting(emit: Emit, silent: Value, like: Value) -> Value:
    """Return 1 where ``silent`` does not hold and 0 where it does, in the shape of ``like``."""
    counts = emit(aten._to_copy.default, emit(aten.logical_not.default, silent), like.dtype)
    return emit(aten.expand.default, counts, list(like.shape))


TABLE: dict[str, Decomposition] = {
    "aten._softmax.default": _softmax,
    "aten._log_softmax.default": _log_softmax,
}


def share_out(graph: Graph) -> Graph:
    """Rewrite softmax and log softmax."""
    return rewrite(graph, TABLE)
