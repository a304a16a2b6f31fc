"""Sums, means and maxima over dimensions, and softmax."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from autodual.formats.onnx.value import Node, Op, Value, along


def reduced(function: Callable[..., Tensor]) -> Op:
    """Return the op that reduces dimensions, all of them where none are given."""

    def op(node: Node, z: Value, given: Value | None = None) -> Value:
        if given is not None:
            node.constant(1, "axes")
        axes = node.axes(z, position=1)
        if not axes and node.flag("noop_with_empty_axes", False):
            return z
        tensor, dims, lead = along(z, axes or range(z.rank))
        return Value(function(tensor, dims, keepdim=node.flag("keepdims", True)), lead)

    return op


def softmax(function: Callable[..., Tensor]) -> Op:
    """Return a softmax: over one dimension since opset 13, before over all from one on."""

    def op(node: Node, z: Value) -> Value:
        joint = node.opset < 13
        axis = node.axis(node.whole("axis", 1 if joint else -1), z.rank)
        tensor, (dim,), lead = along(z, [axis])
        if not joint or axis == z.rank - 1:
            return Value(function(tensor, dim), lead)
        return Value(function(tensor.flatten(dim), dim).reshape(tensor.shape), lead)

    return op


TABLE: Mapping[str, Op] = {
    "ReduceSum": reduced(torch.sum),
    "ReduceMean": reduced(torch.mean),
    "ReduceMax": reduced(torch.amax),
    "ReduceMin": reduced(torch.amin),
    "Softmax": softmax(F.softmax),
    "LogSoftmax": softmax(F.log_softmax),
}
