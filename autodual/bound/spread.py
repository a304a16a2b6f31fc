"""Sums over rows within a memory budget: in chunks, and recomputed where gradients need them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from autodual.bound.network import DualNetwork
from autodual.bound.rows import Memo, Seeds, Specs

CACHE_BYTES = 2**22
"""How many bytes one form of a chunk's rows may take on a CPU: what stays in its cache is fast."""

KEPT = 4
"""Which part of the budget rows may take that are kept for the backward pass."""

KEPT_BYTES = 2**25
"""How many bytes they may take on a CPU at most: to fetch more costs more than to recompute."""

MEMO = 64
"""Which part of the budget one table may take that the chunks of a pass share."""


def spread(
    network: DualNetwork, seeds: Seeds, both: bool, memory: int, select: bool = True
) -> Tensor:
    """Return ``network.spread`` [E, R] for any number of rows, within ``memory`` bytes.

    Rows whose gradient is wanted are kept if they all fit; otherwise, and always for unit rows
    where ``select`` allows to look for them, those with a gradient that is not zero are computed
    anew in the backward pass.
    """
    if get_proxy_mode() is not None:  # it is being traced, to be compiled as a whole
        return network.spread(seeds, Memo(detach=False, room=_room(memory)), both)
    if not torch.is_grad_enabled():
        return _in_chunks(network, seeds, both, memory)
    leaves = [*network.tensors(seeds.value), *seeds.tensors()]
    if not any(t.requires_grad for t in leaves):
        return _in_chunks(network, seeds, both, memory)
    needed = len(seeds) * network.row_cost(seeds).total_bytes if len(seeds) else 0
    most = memory // KEPT if network.x.is_cuda else min(memory // KEPT, KEPT_BYTES)
    if needed <= most and (isinstance(seeds, Specs) or not select):
        return _in_chunks(network, seeds, both, memory)
    result: Tensor = _Recomputed.apply(network, seeds, both, memory, select, *leaves)
    return result


def _in_chunks(network: DualNetwork, seeds: Seeds, both: bool, memory: int) -> Tensor:
    memo = Memo(detach=False, room=_room(memory))
    parts = [
        network.spread(seeds.take(chunk), memo, both) for chunk in _chunks(network, seeds, memory)
    ]
    if not parts:
        ends = 2 if both and not network.symmetric(seeds.value) else 1
        return network.x.new_zeros(ends, 0)
    return torch.cat(parts, dim=1)


def _chunks(network: DualNetwork, seeds: Seeds, memory: int) -> Iterator[slice]:
    if len(seeds) == 0:
        return
    widest = network.row_cost(seeds).widest_bytes
    room = memory // 16 if network.x.is_cuda else min(memory // 16, CACHE_BYTES)
    size = max(1, room // widest // seeds.group) * seeds.group
    for start in range(0, len(seeds), size):
        yield slice(start, start + size)


def _room(memory: int) -> int:
    return memory // MEMO


class _Recomputed(torch.autograd.Function):
    """Keeps nothing but the leaves; the backward pass computes rows with a gradient anew."""

    @staticmethod
    def forward(
        ctx: Any,
        network: DualNetwork,
        seeds: Seeds,
        both: bool,
        memory: int,
        select: bool,
        *leaves: Tensor,
    ) -> Tensor:
        ctx.network, ctx.seeds, ctx.both = network.until(seeds.value), seeds, both
        ctx.memory, ctx.select = memory, select
        ctx.names = [id(leaf) for leaf in leaves]
        ctx.save_for_backward(*leaves)
        return _in_chunks(network, seeds, both, memory)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        old = ctx.saved_tensors
        new = [
            t.detach().requires_grad_() if wanted else t
            for t, wanted in zip(old, ctx.needs_input_grad[5:], strict=True)
        ]
        others = dict(zip(ctx.names, new, strict=True))
        network = ctx.network.replace(others)
        seeds = ctx.seeds.replace(others)
        if ctx.select:
            matter = (gradient != 0).any(0).nonzero().squeeze(1)
            with torch.enable_grad():
                seeds = seeds.take(matter)
            gradient = gradient[:, matter]
        memo = Memo(detach=True, room=_room(ctx.memory))
        for chunk in _chunks(network, seeds, ctx.memory):
            with torch.enable_grad():
                part = network.spread(seeds.take(chunk), memo, ctx.both)
            torch.autograd.backward(part, gradient[:, chunk], retain_graph=True)
        memo.finish()
        return None, None, None, None, None, *(t.grad for t in new)
