"""BatchNorm with given statistics (thesis, Corollary 7, with its shift β − γμ/√(σ² + ε))."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from autodual.duals.affine import Affine, Window
from autodual.duals.arithmetic import scaled
from autodual.duals.base import Call


def transpose_batch_norm(call: Call, nu: Tensor, shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
    """ν_in = γ/√(σ² + ε) ν_out, per channel."""
    return (nu * _scale(call).reshape(-1, *[1] * (nu.dim() - 3)),)


def _scale(call: Call) -> Tensor:
    """Return γ/√(σ² + ε), per channel."""
    scale = torch.rsqrt(call["running_var"] + call["eps"])
    return scale if call["weight"] is None else scale * call["weight"]


def _absolute(call: Call, constant: bool) -> Callable[[Tensor], Tensor]:
    """Return z ↦ |γ|/√(σ² + ε)(z + |μ|) + |β|: its shift may be much less than its two parts."""
    scale = _scale(call).abs()
    shift = call["running_mean"].abs() * scale
    shift = shift if call["bias"] is None else shift + call["bias"].abs()

    def extent(z: Tensor) -> Tensor:
        shape = [-1] + [1] * (z.dim() - 2)
        wide = z * scale.reshape(shape)
        return wide + shift.reshape(shape) if constant else wide

    return extent


BATCH_NORM = Affine(
    together=("input",),
    interval=scaled,
    transpose=transpose_batch_norm,
    window=lambda call: Window(),
    terms=lambda call, read, given: (12, 8),
    absolute=_absolute,
)

TABLE = {
    "aten._native_batch_norm_legit_no_training.default": BATCH_NORM,
    "autodual.batch_norm": BATCH_NORM,
}
