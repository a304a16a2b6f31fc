"""Matrix products with a constant: linear, matmul, mm, bmm, addmm (thesis, Corollary 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from autodual.duals.affine import Affine, Terms, transpose_by_vjp
from autodual.duals.arithmetic import corners
from autodual.duals.base import Call, DualLayer, Either
from autodual.duals.products import MatrixProduct
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


def absolute(*weights: str, bias: str | None = None) -> Callable[..., Callable[..., Tensor]]:
    """Return (call, constant) ↦ z ↦ |A| z + |b|: the op at absolute weights, and bias if wanted."""

    def made(call: Call, constant: bool) -> Call:
        changes = {w: call[w].abs() for w in weights if isinstance(call[w], Tensor)}
        if bias is not None:
            kept = call[bias] if constant else None
            changes[bias] = None if kept is None else kept.abs()
        return call.replace(changes)

    return made


def linear_terms(call: Call, read: int, given: int) -> tuple[int, int]:
    """Return the sizes of a matrix: of a row, with the bias, and of a column."""
    weight = call["weight"]
    return weight.shape[-1] + 1, weight.numel() // weight.shape[-1]


def _product_terms(other: str) -> Terms:
    """Return how many products are summed where one factor is constant."""

    def terms(call: Call, read: int, given: int) -> tuple[int, int]:
        left, right = call["self"], call[other]
        if isinstance(left, Tensor):
            return left.shape[-1], given
        return right.shape[-2 if right.dim() > 1 else -1], given

    return terms


def transpose_linear(call: Call, nu: Tensor, shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
    """ν_in = Wᵀν_out."""
    if call["weight"].dim() == 1:
        return transpose_by_vjp(call, nu, shapes)
    return (nu @ call["weight"],)


def _addmm_interval(call: Call, z: Interval) -> Interval:
    mat2 = call["mat2"] * call["alpha"]
    center, radius = call(z.center), z.radius @ mat2.abs()
    return Interval(center - radius, center + radius)


def matrix_corners(call: Call, x: Interval, y: Interval) -> Interval:
    """Bound a product of matrices: a sum over k of products, each by its corners."""
    total = Interval(*[x.lower.new_zeros(())] * 2)
    for k in range(x.lower.shape[-1]):
        column, row = (
            Interval(i.lower.narrow(dim, k, 1), i.upper.narrow(dim, k, 1))
            for i, dim in ((x, -1), (y, -2))
        )
        term = corners(torch.mul, column, row)
        total = Interval(total.lower + term.lower, total.upper + term.upper)
    return total


def _product(other: str) -> Either:
    """Return the rules of a matrix product of ``self`` and the argument of this name."""
    alone = Affine(
        alone=("self", other),
        interval=by_magnitude("self", other),
        linear=True,
        terms=_product_terms(other),
        absolute=absolute("self", other),
    )
    return Either((alone, MatrixProduct(alone, matrix_corners)))


TABLE: dict[str, DualLayer | Either] = {
    "aten.linear.default": Affine(
        alone=("input",),
        interval=by_magnitude("weight", bias="bias"),
        bias="bias",
        transpose=transpose_linear,
        terms=linear_terms,
        absolute=absolute("weight", bias="bias"),
    ),
    "aten.matmul.default": _product("other"),
    "aten.mm.default": _product("mat2"),
    "aten.bmm.default": _product("mat2"),
    "aten.mv.default": Affine(
        alone=("self", "vec"),
        interval=by_magnitude("self", "vec"),
        linear=True,
        terms=_product_terms("vec"),
        absolute=absolute("self", "vec"),
    ),
    "aten.addmm.default": Affine(
        alone=("mat1",),
        interval=_addmm_interval,
        terms=lambda call, read, given: (call["mat2"].shape[0] + 4, call["mat2"].shape[1] + 2),
    ),
}
