"""Average pooling and interpolation: weighted means with weights that are never negative."""

from __future__ import annotations

from dataclasses import replace

from autodual.duals.affine import Affine, Window, pair
from autodual.duals.base import Call


def _window(call: Call) -> Window | None:
    """Return the window of a mean whose weights are the same at every pixel."""
    kernel, padding = call["kernel_size"], call["padding"]
    stride = call["stride"] or kernel
    edges = max(padding) > 0 and not call["count_include_pad"] and not call["divisor_override"]
    if edges or call["ceil_mode"]:
        return None
    return Window(pair(kernel), pair(stride), pair(padding), {"padding": [0, 0]})


MEAN = Affine(together=("self",), linear=True)
DIVIDED = Affine(
    together=("self",), linear=True, accepts=lambda args: (args["divisor_override"] or 1) > 0
)
DIVIDED_2D = replace(DIVIDED, window=_window)
INTERPOLATE = Affine(together=("input",), linear=True)

TABLE = {
    "aten.avg_pool1d.default": MEAN,
    "aten.avg_pool2d.default": DIVIDED_2D,
    "aten.avg_pool3d.default": DIVIDED,
    "aten.adaptive_avg_pool1d.default": MEAN,
    "aten._adaptive_avg_pool2d.default": MEAN,
    "aten._adaptive_avg_pool3d.default": MEAN,
    "aten.upsample_nearest1d.vec": INTERPOLATE,
    "aten.upsample_nearest2d.vec": INTERPOLATE,
    "aten.upsample_nearest3d.vec": INTERPOLATE,
    "aten.upsample_linear1d.vec": INTERPOLATE,
    "aten.upsample_bilinear2d.vec": INTERPOLATE,
    "aten.upsample_trilinear3d.vec": INTERPOLATE,
}
