"""Average pooling, interpolation and resampling: weighted means of pixels.

No weight is negative but those of bicubic resampling.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from autodual.duals.affine import Affine, Window, pair, picks, sums
from autodual.duals.base import Call, by_endpoints
from autodual.interval import Interval


def _window(call: Call) -> Window | None:
    """Return the window of a mean whose weights are the same at every pixel."""
    kernel, padding = call["kernel_size"], call["padding"]
    stride = call["stride"] or kernel
    edges = max(padding) > 0 and not call["count_include_pad"] and not call["divisor_override"]
    if edges or call["ceil_mode"]:
        return None
    return Window(pair(kernel), pair(stride), pair(padding), {"padding": [0, 0]})


def _terms(call: Call, read: int, given: int) -> tuple[int, int]:
    """Return how many pixels a window has, and that no pixel lies in more windows than that."""
    kernel = pair(call["kernel_size"])
    return kernel[0] * kernel[1] + 3, kernel[0] * kernel[1] + 3


MEAN = Affine(together=("self",), linear=True, terms=sums)
DIVIDED = Affine(
    together=("self",),
    linear=True,
    accepts=lambda args: (args["divisor_override"] or 1) > 0,
    terms=sums,
)
DIVIDED_2D = replace(DIVIDED, window=_window, terms=_terms)
COPIED = Affine(together=("input",), linear=True, terms=picks)
INTERPOLATE = Affine(together=("input",), linear=True)

BICUBIC = 2
"""The number by which grid_sample's op calls it."""


def _resampled(call: Call, box: Interval) -> Interval:
    """Bound an image read off a constant grid: A c ± |A| r if A may have negative entries."""
    if call["interpolation_mode"] != BICUBIC:
        return by_endpoints(call, box)
    center, radius = box.center, box.radius
    rows = torch.eye(radius[0].numel(), dtype=radius.dtype, device=radius.device)
    spread = torch.zeros_like(call(center))
    for row, r in zip(rows, radius.flatten(1).unbind(1), strict=True):
        one = row.reshape(1, *radius.shape[1:]).expand_as(radius)
        spread = spread + call(one).abs() * r.reshape(-1, *[1] * (spread.dim() - 1))
    return Interval(call(center) - spread, call(center) + spread)


RESAMPLE = Affine(alone=("input",), interval=_resampled, linear=True)

TABLE = {
    "aten.grid_sampler_2d.default": RESAMPLE,
    "aten.grid_sampler_3d.default": RESAMPLE,
    "aten.avg_pool1d.default": MEAN,
    "aten.avg_pool2d.default": DIVIDED_2D,
    "aten.avg_pool3d.default": DIVIDED,
    "aten.adaptive_avg_pool1d.default": MEAN,
    "aten._adaptive_avg_pool2d.default": MEAN,
    "aten._adaptive_avg_pool3d.default": MEAN,
    "aten.upsample_nearest1d.vec": COPIED,
    "aten.upsample_nearest2d.vec": COPIED,
    "aten.upsample_nearest3d.vec": COPIED,
    "aten.upsample_linear1d.vec": INTERPOLATE,
    "aten.upsample_bilinear2d.vec": INTERPOLATE,
    "aten.upsample_trilinear3d.vec": INTERPOLATE,
}
