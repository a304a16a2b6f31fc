"""BatchNorm with given statistics (thesis, Corollary 7, with its shift β − γμ/√(σ² + ε))."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autodual.duals.affine import Affine, Window
from autodual.duals.arithmetic import scaled
from autodual.duals.base import Call


def transpose_batch_norm(call: Call, nu: Tensor, shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
    """ν_in = γ/√(σ² + ε) ν_out, per channel."""
    scale = torch.rsqrt(call["running_var"] + call["eps"])
    if call["weight"] is not None:
        scale = scale * call["weight"]
    return (nu * scale.reshape(-1, *[1] * (nu.dim() - 3)),)


BATCH_NORM = Affine(
    together=("input",),
    interval=scaled,
    transpose=transpose_batch_norm,
    window=lambda call: Window(),
)

TABLE = {
    "aten._native_batch_norm_legit_no_training.default": BATCH_NORM,
    "autodual.batch_norm": BATCH_NORM,
}
