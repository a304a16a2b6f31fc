"""Average pooling and interpolation: weighted means with weights that are never negative."""

from __future__ import annotations

from autodual.duals.base import Affine

MEAN = Affine(together=("self",))
DIVIDED = Affine(together=("self",), accepts=lambda args: (args["divisor_override"] or 1) > 0)
INTERPOLATE = Affine(together=("input",))

TABLE = {
    "aten.avg_pool1d.default": MEAN,
    "aten.avg_pool2d.default": DIVIDED,
    "aten.avg_pool3d.default": DIVIDED,
    "aten.adaptive_avg_pool1d.default": MEAN,
    "aten._adaptive_avg_pool2d.default": MEAN,
    "aten._adaptive_avg_pool3d.default": MEAN,
    "aten.upsample_nearest1d.vec": INTERPOLATE,
    "aten.upsample_nearest2d.vec": INTERPOLATE,
    "aten.upsample_nearest3d.vec": INTERPOLATE,
    "aten.upsample_bilinear2d.vec": INTERPOLATE,
}
