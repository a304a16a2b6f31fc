"""Ops as the nodes that proofs know: which entries each output reads, and with which weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch.nn.functional import unfold

from autodual.front.ir import Node, Value
from autodual.proof.network import Entries, Translated


def no_bias() -> np.ndarray:
    """Return a bias of 0."""
    return np.zeros((1, 1, 1), np.float32)


def linear(net: Translated, z: Entries, W: np.ndarray, b: np.ndarray | None) -> Entries | None:
    """Add W z + b for the last dimension of z: a place for each of what lies before it."""
    if W.ndim != 2 or (b is not None and b.shape != (len(W),)):
        return None
    (m, k), places = W.shape, z.index.shape[:-1]
    index = np.arange(z.index.size).reshape(-1, k).T[None]
    b = np.zeros(m, np.float32) if b is None else b
    out = net.entries(net.affine(z, W[None], index, b.reshape(1, m, 1)), (m, *places))
    return Entries(out.nodes, np.moveaxis(out.index, 0, -1))


def _windows(
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    dilation: tuple[int, ...],
    padding: tuple[int, ...],
    stride: tuple[int, ...],
) -> np.ndarray:
    """Return which entries of one image windows read, [C · kernel, windows]; −1 for padding."""
    count = torch.arange(1, math.prod(size) + 1, dtype=torch.float64).reshape(size)
    return unfold(count, kernel, dilation, padding, stride)[0].long().numpy() - 1


def convolution(
    net: Translated, z: Entries, node: Node, rest: Mapping[str, np.ndarray | None]
) -> Entries | None:
    """Add a convolution of a signal or an image."""
    W, b, a = rest["weight"], rest["bias"], node.args
    assert W is not None
    if W.ndim > 4:
        return None
    row = (1,) * (4 - W.ndim)
    stride, padding, dilation = (
        (*fill[: 4 - W.ndim], *a[name])
        for name, fill in (("stride", (1,)), ("padding", (0,)), ("dilation", (1,)))
    )
    kernel = (*row, *W.shape[2:])
    size = (1, z.index.shape[1], *row, *z.index.shape[2:])
    windows = _windows(size, kernel, dilation, padding, stride)
    g, out = a["groups"], W.shape[0]
    index = windows.reshape(g, -1, windows.shape[-1])
    b = np.zeros(out, np.float32) if b is None else b
    number = net.affine(z, W.reshape(g, out // g, -1), index, b.reshape(g, out // g, 1))
    return net.entries(number, node.out.size(1))


def scaled(
    net: Translated, z: Entries, rest: Mapping[str, np.ndarray | None], eps: float
) -> Entries | None:
    """Add a batch norm by its running statistics: a factor and a shift for each channel.

    Both are rounded to float64: these numbers are the network that is proved.
    """
    mean, var = rest["running_mean"], rest["running_var"]
    if mean is None or var is None:
        return None
    factor = 1 / np.sqrt(var.astype(np.float64) + eps)
    if rest["weight"] is not None:
        factor = factor * rest["weight"]
    shift = -mean * factor
    if rest["bias"] is not None:
        shift = shift + rest["bias"]
    C, index = len(factor), np.arange(z.index.size).reshape(len(factor), 1, -1)
    number = net.affine(z, factor.reshape(C, 1, 1), index, shift.reshape(C, 1, 1))
    return net.entries(number, z.index.shape)


def averaged(net: Translated, z: Entries, node: Node) -> Entries | None:
    """Add averages over windows of an image; one over their size is rounded to float64."""
    a = node.args
    kernel, stride = tuple(a["kernel_size"]), tuple(a["stride"] or a["kernel_size"])
    padded = any(a["padding"]) and not a["count_include_pad"]
    if padded or a["ceil_mode"] or a.get("divisor_override") is not None or z.index.ndim != 4:
        return None
    windows = _windows(z.index.shape, kernel, (1, 1), tuple(a["padding"]), stride)
    C, k = z.index.shape[1], kernel[0] * kernel[1]
    W = np.full((C, 1, k), 1 / k)
    number = net.affine(z, W, windows.reshape(C, k, -1), np.zeros((C, 1, 1)))
    return net.entries(number, node.out.size(1))


def added(
    net: Translated,
    node: Node,
    rest: Mapping[str, np.ndarray | None],
    known: Mapping[Value, Entries],
    sign: int,
) -> Entries | None:
    """Add a sum or difference of values, or of a value and a constant."""
    parts, factors, b = list[Entries](), list[float](), np.zeros((1, 1, 1))
    for name, factor in (("self", 1), ("other", sign)):
        arg, constant = node.args[name], rest[name]
        if isinstance(arg, Value) and arg in known:
            index = np.broadcast_to(known[arg].index, node.out.size(1))
            parts.append(Entries(known[arg].nodes, index))
            factors.append(factor)
        elif constant is None:
            return None
        else:
            b = factor * np.broadcast_to(constant, node.out.size(1)).reshape(1, 1, -1)
    return net.mixed(parts, factors, b)


def clamped(net: Translated, z: Entries, low: float | None, high: float | None) -> Entries | None:
    """Add min(max(z, low), high) = low + relu(z − low) − relu(z − high), if low ≤ high."""
    if low is None or high is None or low > high:
        return None
    ends = (net.relu(net.mixed([z], [1], np.full((1, 1, 1), -float(e)))) for e in (low, high))
    return net.mixed(list(ends), [1, -1], np.full((1, 1, 1), float(low)))
