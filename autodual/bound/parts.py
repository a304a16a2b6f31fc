"""A result for some examples at a time: only what goes in and comes out is kept for gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from autodual.bound.memory import give_back

Part = Callable[[Mapping[int, Tensor], Tensor], Tensor]
"""(tensors in the place of others, by their identity; which examples) → their results."""


def in_parts(part: Part, indices: Sequence[Tensor], leaves: Sequence[Tensor]) -> Tensor:
    """Return the results of all parts; the backward pass computes each of them anew.

    Args:
        part: computes some examples.
        indices: the examples of each part, all of them in order.
        leaves: what a gradient could be wanted for; ``part`` reads these through its mapping.
    """
    result: Tensor = _Parts.apply(part, indices, *leaves)
    return result


class _Parts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Part, indices: Sequence[Tensor], *leaves: Tensor) -> Tensor:
        ctx.part, ctx.indices, ctx.names = part, indices, [id(leaf) for leaf in leaves]
        ctx.save_for_backward(*leaves)
        results = []
        for index in indices:
            results.append(part({}, index))
            give_back()
        return torch.cat(results)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        new = [
            t.detach().requires_grad_() if wanted else t
            for t, wanted in zip(ctx.saved_tensors, ctx.needs_input_grad[2:], strict=True)
        ]
        others = dict(zip(ctx.names, new, strict=True))
        for index in ctx.indices:
            with torch.enable_grad():
                results = ctx.part(others, index)
            give_back()
            torch.autograd.backward(results, gradient[index])
            del results
            give_back()
        return None, None, *(t.grad for t in new)
