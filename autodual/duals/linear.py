"""Matrix products with a constant: linear, matmul, mm, bmm, addmm (thesis, Corollary 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from autodual.duals.base import Affine, Call, transpose_by_vjp
from autodual.interval import Interval


def by_magnitude(*weights: str, bias: str | None = None) -> Callable[..., Interval]:
    """Bound A z + b by A c + b ± |A| r, for c, r the center and radius of the box.

    A is linear in the arguments called ``weights``, so |A| is A at their absolute values. It is
    A/2 that meets ℓ + u and u − ℓ: weights are fewer to halve than entries.
    """

    def interval(call: Call, *z: Interval) -> Interval:
        half = {w: 0.5 * call[w] for w in weights if isinstance(call[w], Tensor)}
        absolute = {w: weight.abs() for w, weight in half.items()}
        if bias is not None:
            absolute[bias] = None
        center = call.replace(half)(*(i.lower + i.upper for i in z))
        radius = call.replace(absolute)(*(i.upper - i.lower for i in z))
        return Interval(center - radius, center + radius)

    return interval


def transpose_linear(call: Call, nu: Tensor, shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
    """ν_in = Wᵀν_out."""
    if call["weight"].dim() == 1:
        return transpose_by_vjp(call, nu, shapes)
    return (nu @ call["weight"],)


def _addmm_interval(call: Call, z: Interval) -> Interval:
    mat2 = call["mat2"] * call["alpha"]
    center, radius = call(z.center), z.radius @ mat2.abs()
    return Interval(center - radius, center + radius)


TABLE = {
    "aten.linear.default": Affine(
        alone=("input",),
        interval=by_magnitude("weight", bias="bias"),
        bias="bias",
        transpose=transpose_linear,
    ),
    "aten.matmul.default": Affine(alone=("self", "other"), interval=by_magnitude("self", "other")),
    "aten.mm.default": Affine(alone=("self", "mat2"), interval=by_magnitude("self", "mat2")),
    "aten.bmm.default": Affine(alone=("self", "mat2"), interval=by_magnitude("self", "mat2")),
    "aten.mv.default": Affine(alone=("self", "vec"), interval=by_magnitude("self", "vec")),
    "aten.addmm.default": Affine(alone=("mat1",), interval=_addmm_interval),
}
