"""A result piece by piece: only what goes in and comes out is kept for gradients.

torch's checkpoint cannot be used: torch.func refuses its saved-tensor hooks inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Others = Mapping[int, Tensor]
"""Tensors in the place of others, by their identity; empty where nothing is replaced."""

Piece = tuple[slice, Callable[[], Tensor]]
"""Which of the results a piece computes, and how."""

Pieces = Callable[[Others, "Tensor | None"], Iterator[Piece]]
"""(others, which results matter, None for all) → the pieces of these results, in order.

What follows the last ``yield`` runs when all pieces have been computed, and differentiated.
"""


def recomputed(pieces: Pieces, leaves: Sequence[Tensor], dim: int, select: bool) -> Tensor:
    """Return the results of all pieces, joined along ``dim``; gradients compute them anew.

    Args:
        pieces: computes the results, reading ``leaves`` through its mapping.
        leaves: what a gradient could be wanted for.
        dim: the dimension along which results lie.
        select: compute anew only the results whose gradient is not zero; the host looks for them.
    """
    result: Tensor = _Recomputed.apply(pieces, dim, select, *leaves)
    return result


def in_pieces(pieces: Pieces, dim: int) -> Tensor:
    """Return the results of all pieces, joined; autograd sees everything."""
    return torch.cat([run() for _, run in pieces({}, None)], dim)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pieces: Pieces, dim: int, select: bool, *leaves: Tensor) -> Tensor:
        ctx.pieces, ctx.dim, ctx.select = pieces, dim, select
        ctx.names = [id(leaf) for leaf in leaves]
        ctx.save_for_backward(*leaves)
        return in_pieces(pieces, dim)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        new = [
            t.detach().requires_grad_() if wanted else t
            for t, wanted in zip(ctx.saved_tensors, ctx.needs_input_grad[3:], strict=True)
        ]
        matter, dim = None, ctx.dim
        if ctx.select:
            matter = (gradient.movedim(dim, 0).flatten(1) != 0).any(1).nonzero().squeeze(1)
            gradient = gradient.index_select(dim, matter)
        for index, run in ctx.pieces(dict(zip(ctx.names, new, strict=True)), matter):
            with torch.enable_grad():
                part = run()
            where = gradient.narrow(dim, index.start, index.stop - index.start)
            torch.autograd.backward(part, where, retain_graph=True)
            del part
        return None, None, None, *(t.grad for t in new)
