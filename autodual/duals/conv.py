"""Convolutions of any dimension and their transposes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from autodual.duals.affine import Affine, Window, pair
from autodual.duals.base import Call
from autodual.duals.linear import absolute, by_magnitude

MANY = 32
"""From how many rows on phases are faster than columns."""


def transpose_convolution(call: Call, nu: Tensor, shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
    """ν_in = Wᵀν_out: the convolution that runs the other way, all rows in one batch."""
    (shape,) = shapes
    size = shape[2:]
    narrow = _narrow(call, nu.shape[0] * nu.shape[1])
    if narrow is not None:
        return (narrow(call, nu.flatten(0, 1), size).unflatten(0, nu.shape[:2]),)
    rows = torch.ops.aten.convolution.default(
        nu.flatten(0, 1),
        call["weight"],
        None,
        call["stride"],
        call["padding"],
        call["dilation"],
        not call["transposed"],
        [0] * len(size) if call["transposed"] else _unread(call, nu.shape[3:], size),
        call["groups"],
    )
    for dim, length in enumerate(size, start=2):
        if rows.shape[dim] > length:  # the gradient of a narrow that takes all is a copy
            rows = rows.narrow(dim, 0, length)
    return (rows.unflatten(0, nu.shape[:2]),)


def _narrow(call: Call, rows: int) -> Callable[[Call, Tensor, torch.Size], Tensor] | None:
    """Return a faster way to transpose a 2-d convolution that reads few channels, if any."""
    if call["weight"].dim() != 4 or call["groups"] > 1 or call["transposed"]:
        return None
    channels, strides = call["weight"].shape[1], max(call["stride"]) > 1
    if strides and channels < 4 and max(call["dilation"]) == 1 and rows >= MANY:
        return _by_phases
    return _by_columns if channels == 1 else None


def _by_columns(call: Call, rows: Tensor, size: torch.Size) -> Tensor:
    """Transpose by a matrix product and a sum over windows."""
    columns = torch.bmm(call["weight"].flatten(1).mT.expand(len(rows), -1, -1), rows.flatten(2))
    geometry = call["weight"].shape[2:], call["dilation"], call["padding"], call["stride"]
    return F.fold(columns, size, *geometry)


def _by_phases(call: Call, rows: Tensor, size: torch.Size) -> Tensor:
    """Transpose by a convolution without stride: a pixel meets only every s-th tap of the kernel.

    The taps that meet the pixels of a phase, those s apart, are a small kernel of their own.
    """
    weight, (down, right) = call["weight"], call["stride"]
    high, wide = (-(-k // s) for k, s in zip(weight.shape[2:], (down, right), strict=True))
    taps = F.pad(weight, (0, wide * right - weight.shape[3], 0, high * down - weight.shape[2]))
    taps = taps.unflatten(3, (wide, right)).unflatten(2, (high, down)).permute(1, 3, 5, 0, 2, 4)
    phases = F.conv2d(rows, taps.flatten(0, 2).flip(2, 3), padding=(high - 1, wide - 1))
    image = phases.unflatten(1, (-1, down, right)).permute(0, 1, 4, 2, 5, 3)
    image = image.flatten(4, 5).flatten(2, 3)
    (top, left), (height, width) = call["padding"], image.shape[2:]
    return F.pad(image, (-left, left + size[1] - width, -top, top + size[0] - height))


def _window(call: Call) -> Window | None:
    """Return the window of a 2-d convolution."""
    kernel = call["weight"].shape[2:]
    if call["transposed"] or len(kernel) != 2:
        return None
    stride, padding, dilation = (pair(call[name]) for name in ("stride", "padding", "dilation"))
    reach = dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1
    return Window(reach, stride, padding, {"padding": [0, 0]})


def _terms(call: Call, read: int, given: int) -> tuple[int, int]:
    """Return how many taps an output reads, with the bias, and how many an input is read by."""
    weight, groups = call["weight"], call["groups"]
    taps = math.prod(weight.shape[2:])
    ahead, back = weight.shape[1] * taps, weight.shape[0] // groups * taps
    return (back + 1, ahead) if call["transposed"] else (ahead + 1, back)


def _unread(call: Call, outputs: torch.Size, inputs: torch.Size) -> list[int]:
    """Return how many entries at the far end of each dimension the stride leaves unread."""
    geometry = zip(
        call["stride"], call["padding"], call["dilation"], call["weight"].shape[2:], strict=True
    )
    return [
        size - ((out - 1) * s - 2 * p + d * (k - 1) + 1)
        for size, out, (s, p, d, k) in zip(inputs, outputs, geometry, strict=True)
    ]


TABLE = {
    "aten.convolution.default": Affine(
        alone=("input",),
        interval=by_magnitude("weight", bias="bias"),
        bias="bias",
        transpose=transpose_convolution,
        window=_window,
        terms=_terms,
        absolute=absolute("weight", bias="bias"),
    ),
}
