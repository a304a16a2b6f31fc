"""Pools: means and maxima over windows, or over all of an image."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from autodual.formats.onnx.value import Node, Op, Value, along, room
from autodual.formats.onnx.windows import Windows, on_images, windows_of

MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
MEAN = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def max_pool(node: Node, z: Value) -> Value:
    """Take the largest entry of each window."""
    w = _windows(node, z)
    dims, ceil = len(w.kernel), node.flag("ceil_mode", False)
    inside = w.even and all(2 * p <= k for p, k in zip(w.before, w.kernel, strict=True))

    def run(images: Tensor) -> Tensor:
        padded = images if inside else F.pad(images, w.pads, value=-math.inf)
        pads = w.before if inside else (0,) * dims
        return MAX[dims](padded, w.kernel, w.strides, pads, w.dilations, ceil)

    return on_images(node, z, run)


def average_pool(node: Node, z: Value) -> Value:
    """Take the mean of each window; pads count only with ``count_include_pad``."""
    w = _windows(node, z)
    counted, ceil = node.flag("count_include_pad", False), node.flag("ceil_mode", False)
    if any(d > 1 for d in w.dilations) or (not w.even and not counted) or (ceil and any(w.pads)):
        raise node.refuse("means with dilation, uneven pads or pads and ceil_mode are not read")
    dims = len(w.kernel)

    def run(images: Tensor) -> Tensor:
        padded = images if w.even else F.pad(images, w.pads)
        pads = w.before if w.even else (0,) * dims
        return MEAN[dims](padded, w.kernel, w.strides, pads, ceil, counted)

    return on_images(node, z, run)


def _windows(node: Node, z: Value) -> Windows:
    """Return the windows of a pool."""
    kernel = node.ints("kernel_shape")
    if kernel is None or not 3 <= z.rank <= 5:
        raise node.refuse(f"pools {list(z.shape)} by windows {kernel}")
    w = windows_of(node, kernel, z.shape[2:])
    room((*z.shape[:2], *w.counts(z.shape[2:])), math.prod(kernel))
    return w


def global_mean(node: Node, z: Value) -> Value:
    """Take the mean of each channel."""
    tensor, dims, lead = along(z, range(2, z.rank))
    return Value(tensor.mean(dims, keepdim=True), lead)


def global_max(node: Node, z: Value) -> Value:
    """Take the largest entry of each channel."""
    tensor, dims, lead = along(z, range(2, z.rank))
    return Value(torch.amax(tensor, dims, keepdim=True), lead)


TABLE: Mapping[str, Op] = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_mean,
    "GlobalMaxPool": global_max,
}
