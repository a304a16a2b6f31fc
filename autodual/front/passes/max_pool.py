"""Max pooling: strided slices of the image, one for each place in the window, and the largest."""

from __future__ import annotations

import torch

from autodual.front.ir import Graph, Node, Value
from autodual.front.passes.reductions import LARGEST, combined, fold
from autodual.front.passes.rewrite import Decomposition, Emit, fixed, rewrite

aten = torch.ops.aten


def _max_pool(emit: Emit, node: Node) -> Value | None:
    """Pool with a regular window.

    Padding holds a number far below all others rather than −∞, since 0·∞ is no number.
    """
    if node.index != 0:
        return None
    x, out = node.args["self"], node.out
    count = len(node.args["kernel_size"])
    names = ("kernel_size", "stride", "padding", "dilation")
    kernel, stride, padding, dilation = (node.args[name] for name in names)
    geometry = zip(kernel, stride or kernel, padding, dilation, strict=True)
    first = len(x.shape) - count
    places = [x]
    for dim, (k, s, p, d) in enumerate(geometry, start=first):
        length = fixed(out.shape[dim])
        reach = (length - 1) * s + (k - 1) * d + 1
        before, after = p, reach - p - fixed(x.shape[dim])
        if before > 0 or after > 0:
            pad = [0, 0] * (len(x.shape) - 1 - dim) + [before, max(after, 0)]
            far = torch.finfo(x.dtype).min / 4
            places = [emit(aten.constant_pad_nd.default, z, pad, far) for z in places]
        places = [
            emit(aten.slice.Tensor, z, dim, i * d, i * d + (length - 1) * s + 1, s)
            for z in places
            for i in range(k)
        ]
    return combined(emit, LARGEST, places)


def _adaptive_max_pool(emit: Emit, node: Node) -> Value | None:
    """Pool with windows from ⌊iL/n⌋ to ⌈(i + 1)L/n⌉ for output i of n."""
    if node.index != 0:
        return None
    x, out = node.args["self"], node.out
    for dim in range(len(x.shape) - len(node.args["output_size"]), len(x.shape)):
        size, count = fixed(x.shape[dim]), fixed(out.shape[dim])
        pieces = []
        for i in range(count):
            start, stop = i * size // count, -(-(i + 1) * size // count)
            piece = emit(aten.slice.Tensor, x, dim, start, stop)
            pieces.append(fold(emit, LARGEST, piece, dim))
        x = pieces[0] if count == 1 else emit(aten.cat.default, pieces, dim)
    return x


TABLE: dict[str, Decomposition] = {
    "aten.max_pool2d_with_indices.default": _max_pool,
    "aten.max_pool3d_with_indices.default": _max_pool,
    "aten.adaptive_max_pool2d.default": _adaptive_max_pool,
    "aten.adaptive_max_pool3d.default": _adaptive_max_pool,
}


def slice_max_pools(graph: Graph) -> Graph:
    """Rewrite max pools to maxima of slices. The indices that they give have no bound and stay."""
    return rewrite(graph, TABLE)
