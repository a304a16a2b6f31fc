"""Convolutions of any dimension and their transposes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from autodual.duals.base import Affine, Call, Window, pair
from autodual.duals.linear import by_magnitude


def transpose_convolution(call: Call, nu: Tensor, shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
    """ν_in = Wᵀν_out: the convolution that runs the other way, all rows in one batch."""
    (shape,) = shapes
    size = shape[2:]
    if _is_narrow(call):
        rows = nu.flatten(0, 1).flatten(2)
        columns = torch.bmm(call["weight"].flatten(1).mT.expand(len(rows), -1, -1), rows)
        geometry = call["weight"].shape[2:], call["dilation"], call["padding"], call["stride"]
        return (F.fold(columns, size, *geometry).unflatten(0, nu.shape[:2]),)
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


def _is_narrow(call: Call) -> bool:
    """Return whether a 2-d convolution reads so few channels that a matrix product is faster."""
    few = call["weight"].dim() == 4 and call["weight"].shape[1] < 4
    return few and call["groups"] == 1 and not call["transposed"]


def _window(call: Call) -> Window | None:
    """Return the window of a 2-d convolution."""
    kernel = call["weight"].shape[2:]
    if call["transposed"] or len(kernel) != 2:
        return None
    stride, padding, dilation = (pair(call[name]) for name in ("stride", "padding", "dilation"))
    reach = dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1
    return Window(reach, stride, padding, {"padding": [0, 0]})


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
    ),
}
