"""Products of matrices: MatMul and Gemm."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from autodual.formats.onnx.value import Node, Op, Value, placed, room, together

LARGE, FEW = 2**14, 16
"""How large a weight is, and how many times as many rows it has as entries in a column that are not
0, for its zeros to be left out."""


def matmul(node: Node, a: Value, b: Value) -> Value:
    """A b, as numpy has it: a vector is a row on the left and a column on the right."""
    rows, columns = (a.shape[-2:-1] if a.rank > 1 else ()), (b.shape[-1:] if b.rank > 1 else ())
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    room((*batch, *rows, *columns), a.shape[-1] if a.rank else 1)
    if not b.varies and b.rank == 2 and a.rank > 0:
        return a.like(F.linear(a.tensor, b.tensor.mT))
    if not a.varies and a.rank == 2 and b.rank == 1:
        return b.like(F.linear(b.tensor, a.tensor))
    if not a.varies and a.rank == 2 and b.tensor.dim() > 2:
        return b.like(torch.matmul(a.tensor, b.tensor))
    return _general(a, b)


def _general(a: Value, b: Value) -> Value:
    """Multiply in the form that has N in front, but where N may stay inside."""
    row, column = a.rank == 1, b.rank == 1
    left = _seen(a, -2) if row else a
    right = _seen(b, -1) if column else b
    if max(left.rank, right.rank) == 2:
        tensors, lead = [v.stacked for v in (left, right)], 1
    else:
        tensors, lead = placed((left, right))
    made = torch.matmul(*tensors)
    made = made.squeeze(-2) if row else made
    return Value(made.squeeze(-1) if column else made, lead)


def _seen(vector: Value, dim: int) -> Value:
    """Return a vector as a matrix."""
    tensor = vector.stacked if vector.varies else vector.tensor
    return Value(tensor.unsqueeze(dim), 1 if vector.varies else None)


def gemm(node: Node, a: Value, b: Value, c: Value | None = None) -> Value:
    """α A b + β c, with either of the two transposed."""
    turned = node.flag("transA", False), node.flag("transB", False)
    alpha, beta = node.real("alpha", 1.0), node.real("beta", 1.0)
    if a.rank != 2 or b.rank != 2:
        raise node.refuse(f"multiplies {list(a.shape)} and {list(b.shape)}, not two matrices")
    if not b.varies and not turned[0]:
        room((a.shape[0], b.shape[0] if turned[1] else b.shape[1]), a.shape[1])
        weight = scaled(b.tensor if turned[1] else b.tensor.mT, alpha)
        bias = _bias(c, len(weight), beta)
        product = a.like(F.linear(a.tensor, weight, bias))
        if c is None or bias is not None:
            return product
    else:
        left, right = (_turned(v) if t else v for v, t in zip((a, b), turned, strict=True))
        product = matmul(node, left, right)
        product = product.like(scaled(product.tensor, alpha))
        if c is None:
            return product
    (z, shift), lead = together((product, c))
    return Value(z + scaled(shift, beta), lead)


def scaled(tensor: Tensor, factor: float) -> Tensor:
    """Return factor · tensor."""
    return tensor if factor == 1 else tensor * factor


def _bias(c: Value | None, size: int, beta: float) -> Tensor | None:
    """Return β c if it is constant and has a number for each output, [size]."""
    if c is None or c.varies or c.tensor.numel() != size or c.shape[-1:] != (size,):
        return None
    return scaled(c.tensor.reshape(size), beta)


def _turned(matrix: Value) -> Value:
    """Return the transpose of a matrix."""
    if not matrix.varies:
        return Value(matrix.tensor.mT, None)
    return Value(matrix.stacked.mT, 1).inner


def thin(node: Node, a: Value, places: Value, entries: Value, bias: Value | None = None) -> Value:
    """A b for a b of which few entries are not 0: those of each column [M, K] and their rows."""
    picked = a.tensor.index_select(-1, places.tensor.flatten()).unflatten(-1, places.shape)
    made = (picked * entries.tensor).sum(-1)
    return a.like(made if bias is None else made + bias.tensor)


def thinned(node: Node, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Return what ``thin`` reads in place of a product's weight, if few of its entries are not 0.

    Args:
        node: a MatMul or Gemm of something with a weight.
        weight, bias: in the order of the file.
    """
    turned, plain = node.flag("transB", False), node.op == "MatMul"
    factors = 1.0 if plain else (node.real("alpha", 1.0), node.real("beta", 1.0))
    if weight.dim() != 2 or weight.numel() < LARGE or node.flag("transA", False):
        return None
    columns = weight if turned else weight.mT
    if not plain and (
        factors != (1.0, 1.0) or (bias is not None and bias.shape != columns[:, 0].shape)
    ):
        return None
    count = max(1, int((columns != 0).sum(1).max()))
    if count * FEW > columns.shape[1] or not bool(columns.isfinite().all()):
        return None
    places = (columns != 0).to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]
    return places.contiguous(), columns.gather(1, places)


TABLE: Mapping[str, Op] = {"MatMul": matmul, "Gemm": gemm}
