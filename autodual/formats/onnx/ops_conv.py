"""Convolutions and their transposes, in one to three dimensions."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from autodual.formats.onnx.value import Node, Op, Value, room
from autodual.formats.onnx.windows import on_images, windows_of

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}

CHANNELS = 16
"""Channels that a convolution computes at once."""

WIDEST = 2**8
"""The largest stride of a transpose, whose time grows with its square."""


def conv(node: Node, z: Value, weight: Value, bias: Value | None = None) -> Value:
    """Convolve images with constant weights."""
    shift = _constant(node, z, weight, bias)
    kernel = weight.shape[2:]
    w = windows_of(node, node.ints("kernel_shape") or kernel, z.shape[2:])
    if w.kernel != kernel:
        raise node.refuse(
            f"kernel_shape is {list(w.kernel)}, and that of its weights {list(kernel)}"
        )
    group = node.whole("group", 1)
    room((*z.shape[:1], weight.shape[0], *w.counts(z.shape[2:])), _products(weight))

    def run(images: Tensor) -> Tensor:
        padded = images if w.even else F.pad(images, w.pads)
        pads = w.before if w.even else (0,) * len(kernel)
        return CONV[len(kernel)](padded, weight.tensor, shift, w.strides, pads, w.dilations, group)

    return on_images(node, z, run)


def conv_transpose(node: Node, z: Value, weight: Value, bias: Value | None = None) -> Value:
    """Send images through the transpose of a convolution with constant weights."""
    shift = _constant(node, z, weight, bias)
    dims = len(weight.shape[2:])
    w = windows_of(node, weight.shape[2:], z.shape[2:])
    if max(w.strides) > WIDEST:
        raise node.refuse(f"strides {list(w.strides)} are too large")
    more = tuple(node.ints("output_padding") or [0] * dims)
    if len(more) != dims or min(more) < 0:
        raise node.refuse("output_padding does not fit its weights")
    full = [
        stride * (size - 1) + extra + (k - 1) * dilation + 1
        for stride, size, extra, k, dilation in zip(
            w.strides, z.shape[2:], more, w.kernel, w.dilations, strict=True
        )
    ]
    room((*z.shape[:1], weight.shape[1] * max(node.whole("group", 1), 1), *full))
    room(z.shape, _products(weight))
    before, sizes = _cropped(node, full, w.strides, z.shape[2:], (w.before, w.after))
    if any(not 1 <= s <= f - b for f, b, s in zip(full, before, sizes, strict=True)):
        raise node.refuse(f"pads or output_shape leave {sizes} of {full}")
    group = node.whole("group", 1)
    pads = tuple(before)
    even = all(f - 2 * b == s for f, b, s in zip(full, before, sizes, strict=True))

    def run(images: Tensor) -> Tensor:
        run, none = TRANSPOSED[dims], (0,) * dims
        if even:
            return run(images, weight.tensor, shift, w.strides, pads, more, group, w.dilations)
        made = run(images, weight.tensor, None, w.strides, none, none, group, w.dilations)
        made = F.pad(made, [n for extra in reversed(more) for n in (0, extra)])
        for dim, (start, size) in enumerate(zip(before, sizes, strict=True), 2):
            made = made.narrow(dim, start, size)
        return made if shift is None else made + shift.reshape(-1, *[1] * dims)

    return on_images(node, z, run)


def _cropped(
    node: Node,
    full: list[int],
    strides: tuple[int, ...],
    sizes: tuple[int, ...],
    pads: tuple[tuple[int, ...], tuple[int, ...]],
) -> tuple[list[int], list[int]]:
    """Return what is cropped before each dimension of a transpose, and how much stays."""
    auto = node.text("auto_pad", "NOTSET")
    wanted = node.ints("output_shape")
    if wanted is None and auto in ("NOTSET", "VALID", ""):
        return list(pads[0]), [f - b - a for f, b, a in zip(full, *pads, strict=True)]
    if wanted is None:
        wanted = [size * stride for size, stride in zip(sizes, strides, strict=True)]
    wanted = wanted[-len(full) :]
    if len(wanted) != len(full):
        raise node.refuse(f"output_shape {wanted} does not fit {full}")
    total = [f - w for f, w in zip(full, wanted, strict=True)]
    before = [max(t, 0) // 2 if auto == "SAME_UPPER" else max(t, 0) - max(t, 0) // 2 for t in total]
    return before, wanted


def _products(weight: Value) -> int:
    """Return how many products a number takes; few channels take the time of ``CHANNELS``."""
    out, into, *kernel = weight.shape
    return max(into, CHANNELS) * math.prod(kernel) * max(CHANNELS // max(out, 1), 1)


def _constant(node: Node, z: Value, weight: Value, bias: Value | None) -> Tensor | None:
    """Return the bias; refuse weights that vary, or do not fit."""
    if weight.varies or (bias is not None and bias.varies):
        raise node.refuse("its weights must be constants")
    if weight.rank != z.rank or not 3 <= z.rank <= 5:
        raise node.refuse(f"weights {list(weight.shape)} do not fit images {list(z.shape)}")
    return None if bias is None else bias.tensor


TABLE: Mapping[str, Op] = {"Conv": conv, "ConvTranspose": conv_transpose}
