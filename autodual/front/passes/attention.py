"""Scaled dot-product attention: softmax(Q Kᵀ/√d + mask) V."""

from __future__ import annotations

import math

import torch

from autodual.front.ir import Graph, Node, Value
from autodual.front.passes.rewrite import Emit, fixed, rewrite
from autodual.front.passes.softmax import counting, silenced, softmax

aten = torch.ops.aten


def _attention(emit: Emit, node: Node) -> Value | None:
    query, key, value = (node.args[name] for name in ("query", "key", "value"))
    if node.args["dropout_p"] > 0:
        return None
    if node.args["enable_gqa"]:
        key, value = (_repeated(emit, v, fixed(query.shape[-3])) for v in (key, value))
    scale = node.args["scale"]
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    turned = emit(aten.transpose.int, key, -2, -1)
    scores = emit(aten.mul.Scalar, emit(aten.matmul.default, query, turned), scale)
    emit.nearly(scores, 4, terms=[(8 * abs(scale) * fixed(query.shape[-1]), (query, key))])
    given = node.args["attn_mask"]
    mask = None
    if node.args["is_causal"]:
        size = (query.shape[-2], key.shape[-2])
        lower = emit.literal(torch.ones(size, dtype=query.dtype).tril())
        mask = emit(aten.expand.default, lower, list(scores.shape))
    elif given is not None and given.dtype == torch.bool:
        counts = emit(aten._to_copy.default, given, scores.dtype)
        mask = emit(aten.expand.default, counts, list(scores.shape))
    elif given is not None and not emit.moves(given):
        silent, shift = silenced(emit, given)
        scores = emit(aten.add.Tensor, scores, shift)
        mask = counting(emit, silent, scores)
    elif given is not None:
        scores = emit(aten.add.Tensor, scores, given)
    return emit(aten.matmul.default, softmax(emit, scores, -1, mask), value)


def _repeated(emit: Emit, value: Value, heads: int) -> Value:
    """Repeat each head of keys or values for the group of queries that share it."""
    own = fixed(value.shape[-3])
    index = emit.literal(torch.arange(own).repeat_interleave(heads // own))
    return emit(aten.index_select.default, value, len(value.shape) - 3, index)


def attend(graph: Graph) -> Graph:
    """Rewrite attention to products of matrices and a softmax."""
    return rewrite(graph, {"aten.scaled_dot_product_attention.default": _attention})
