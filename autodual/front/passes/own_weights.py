"""Convolutions with weights of each example's own, as ``torch.vmap`` writes them.

It makes the batch a part of the channels, in groups for each example. Windows times weights say the
same with the examples apart: (x ∗ w)[o, l] = Σ_{c, k} w[o, c, k] x[c, l·stride + k·dilation].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from autodual.front.ir import Batch, Graph, Node, Value
from autodual.front.passes.rewrite import Emit, fixed, rewrite

aten = torch.ops.aten


def windows(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[torch.Tensor, list[int]]:
    """Return which pixel meets each tap at each place, [taps, places], and how many places.

    Pixels and places are numbered row by row.
    """
    places = [
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(size, kernel, stride, dilation, strict=True)
    ]
    index = torch.zeros(1, 1, dtype=torch.int64)
    for n, k, s, d, count in zip(size, kernel, stride, dilation, places, strict=True):
        along = d * torch.arange(k).unsqueeze(1) + s * torch.arange(count)
        both = n * index[:, None, :, None] + along[None, :, None, :]
        index = both.flatten(2).flatten(0, 1)
    return index, places


def _convolution(emit: Emit, node: Node) -> Value | None:
    x, weight, bias, groups = (node.args[k] for k in ("input", "weight", "bias", "groups"))
    stacked = x.shape[0] == 1 and isinstance(groups, Batch)
    if not stacked or node.args["transposed"] or not isinstance(weight.shape[0], Batch):
        return None
    stride, padding, dilation = (node.args[k] for k in ("stride", "padding", "dilation"))
    count, outs = groups.multiple, weight.shape[0].multiple // groups.multiple
    channels, *kernel = map(fixed, weight.shape[1:])
    pad = [p for size in reversed(padding) for p in (size, size)]
    padded = emit(aten.constant_pad_nd.default, x, pad, 0.0)
    size = [fixed(n) for n in padded.shape[2:]]
    index, places = windows(size, kernel, stride, dilation)
    flat = emit(aten.reshape.default, padded, [Batch(), count, channels, -1])
    picked = emit(aten.index_select.default, flat, 3, emit.literal(index.flatten()))
    columns = emit(
        aten.reshape.default, picked, [Batch(), count, channels * len(index), index.shape[1]]
    )
    rows = emit(aten.reshape.default, weight, [Batch(), count, outs, -1])
    product = emit(aten.matmul.default, rows, columns)
    out = emit(aten.reshape.default, product, [1, Batch(count * outs), *places])
    if bias is None:
        return out
    wide = emit(aten.reshape.default, bias, [1, Batch(count * outs), *[1] * len(places)])
    return emit(aten.add.Tensor, out, wide)


def set_apart(graph: Graph) -> Graph:
    """Rewrite convolutions whose groups are the examples."""
    return rewrite(graph, {"aten.convolution.default": _convolution})
