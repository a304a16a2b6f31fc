"""What the chunks of one pass share: computed by the first that asks, differentiated once."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor


class Memo:
    """A table of tensors that do not depend on which rows are asked for.

    Args:
        detach: hand out leaves, so that each chunk can be differentiated on its own;
            ``finish`` then carries the gradient they gathered on to what they were made of.
        room: how many bytes one entry may take; a larger one is not kept.
    """

    def __init__(self, detach: bool, room: int) -> None:
        self.detach, self.room = detach, room
        self._made: dict[Hashable, tuple[Tensor, Tensor]] = {}

    def __call__(self, key: Hashable, build: Callable[[], Tensor]) -> Tensor:
        """Return the tensor called ``key``, built at the first call."""
        if key not in self._made:
            made = build()
            kept = made.detach().requires_grad_() if self.detach and made.requires_grad else made
            self._made[key] = made, kept
        return self._made[key][1]

    def finish(self) -> None:
        """Pass on the gradients that the leaves gathered, last made first."""
        for made, kept in reversed(self._made.values()):
            if kept is not made and kept.grad is not None:
                torch.autograd.backward(made, kept.grad)
