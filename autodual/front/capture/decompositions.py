"""What capture takes apart, and into what: functional ATen ops, but for those kept whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

aten = torch.ops.aten

KEEP = (
    aten.stack.default,
    aten.linear.default,
    aten.matmul.default,
    aten.pad.default,
    aten.detach.default,
    aten.relu6.default,
    aten.scaled_dot_product_attention.default,
    aten.instance_norm.default,
    aten.logaddexp.default,
    aten.logsumexp.default,
    aten._prelu_kernel.default,
    aten.celu.default,
    aten.elu.default,
    aten.hardsigmoid.default,
    aten.hardswish.default,
    aten.heaviside.default,
    aten.grid_sampler_2d.default,
    aten.grid_sampler_3d.default,
    aten.log_sigmoid_forward.default,
    aten.logit.default,
    aten.mish.default,
    aten.nan_to_num.default,
    aten.silu.default,
    aten.softplus.default,
    aten.sinc.default,
    aten.softshrink.default,
    aten.hardshrink.default,
    aten.threshold.default,
    aten.upsample_nearest1d.vec,
    aten.upsample_nearest2d.vec,
    aten.upsample_nearest3d.vec,
    aten.upsample_linear1d.vec,
    aten.upsample_bilinear2d.vec,
    aten.upsample_trilinear3d.vec,
)
"""Ops whose own dual layer is better than that of their parts."""


Parts = Callable[..., Any]
"""Computes what an op does by other ops."""


class Table:
    """What functional ops are taken apart into; ``KEEP`` and ``whole`` stay whole."""

    def __init__(self, whole: Iterable[OpOverload] = ()) -> None:
        self.kept = frozenset((*KEEP, *whole))
        self._core: Mapping[Any, Parts] = torch._decomp._core_aten_decompositions_post_autograd()

    def parts(self, op: OpOverload) -> Parts | None:
        """Return how an op is computed by others, or None for those that stay."""
        if op in self.kept:
            return None
        found = REWRITTEN.get(op) or self._core.get(op)
        return op.decompose if found is None and op._can_decompose() else found


def _copy(z: Tensor, src: Tensor, non_blocking: bool = False) -> Tensor:
    return src.to(z.dtype).expand(z.shape).clone()


def _adaptive_mean(z: Tensor, output_size: list[int]) -> Tensor:
    """Average to a given size, without the look at strides that aten's own entry takes."""
    if list(output_size) == [1, 1]:
        return z.mean((-2, -1), keepdim=True)
    pooled: Tensor = aten._adaptive_avg_pool2d(z, output_size)
    return pooled


def _unfold(z: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Pick windows of a dimension, as a new last one."""
    dim = dimension % z.dim()
    starts = torch.arange(0, z.shape[dim] - size + 1, step, device=z.device)
    index = (starts.unsqueeze(1) + torch.arange(size, device=z.device)).flatten()
    picked = z.index_select(dim, index)
    shape = [*z.shape[:dim], len(starts), size, *z.shape[dim + 1 :]]
    return picked.reshape(shape).movedim(dim + 1, -1)


def _trilinear(
    i1: Tensor,
    i2: Tensor,
    i3: Tensor,
    expand1: list[int],
    expand2: list[int],
    expand3: list[int],
    sumdim: list[int],
    unroll_dim: int = 1,
) -> Tensor:
    """Multiply three tensors entry by entry and sum, what the third does not vary in first."""

    def expanded(t: Tensor, dims: list[int]) -> Tensor:
        for dim in sorted(dims):
            t = t.unsqueeze(dim)
        return t

    pairs = expanded(i1, expand1) * expanded(i2, expand2)
    early = [dim for dim in sumdim if dim in expand3]
    if early:
        pairs = pairs.sum(early, keepdim=True)
    return (pairs * expanded(i3, expand3)).sum(sumdim)


def _put(
    z: Tensor, indices: list[Tensor | None], values: Tensor, accumulate: bool = False
) -> Tensor:
    """Write one number where a mask holds."""
    given = [index for index in indices if index is not None]
    if len(given) != 1 or given[0].dtype != torch.bool or accumulate or values.dim() > 0:
        return NotImplemented
    mask = given[0]
    place = next(i for i, index in enumerate(indices) if index is not None)
    behind = z.dim() - place - mask.dim()
    return torch.where(mask.reshape([*mask.shape, *[1] * behind]), values.to(z.dtype), z)


def _distances(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: int | None = None) -> Tensor:
    """Return the distance between each row of one and each of the other."""
    return torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, dim=-1)


def _log_of_powers_of_two(z: Tensor, other: Tensor) -> Tensor:
    """log₂(2ᵃ + 2ᵇ)."""
    scale = math.log(2)
    return torch.logaddexp(z * scale, other * scale) / scale


PARTS: dict[OpOverload, Parts] = {
    aten.adaptive_avg_pool2d.default: _adaptive_mean,
    aten.cdist.default: _distances,
}
"""How ops are taken apart that torch would take apart into ops without dual layers."""

REWRITTEN: dict[OpOverload, Parts] = {
    aten.copy.default: _copy,
    aten.adaptive_avg_pool2d.default: _adaptive_mean,
    aten._trilinear.default: _trilinear,
    aten.unfold.default: _unfold,
    aten.index_put.default: _put,
    aten.logaddexp2.default: _log_of_powers_of_two,
}
