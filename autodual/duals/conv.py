"""Convolutions of any dimension and their transposes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autodual.duals.base import Affine, Call
from autodual.duals.linear import by_magnitude


def transpose_convolution(call: Call, nu: Tensor, shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
    """ν_in = Wᵀν_out: the convolution that runs the other way, all rows in one batch."""
    (shape,) = shapes
    size = shape[2:]
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
        rows = rows.narrow(dim, 0, length)
    return (rows.unflatten(0, nu.shape[:2]),)


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
        transpose=transpose_convolution,
    ),
}
