"""A model with several arguments, as a function of the one that is attacked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from autodual.inputs import Inputs, Keys, is_batched


@dataclass(frozen=True, eq=False)
class Call:
    """A model, and all other arguments than the one that it is called with.

    It is always asked about the whole batch: an argument as long as that may have a row for each
    example, or be shared by all, and only the model knows which.

    Attributes:
        inputs: the arguments; that under ``key`` is replaced, or several that lie side by side.
        index: which examples of the batch it is called for; None for all.
    """

    model: Callable[..., Any]
    inputs: Inputs
    key: Keys
    index: Tensor | None = None

    def __call__(self, point: Tensor) -> Any:
        """Return what the model says at points [R, *], one for each of its examples."""
        if self.index is None:
            return self._ask(point)
        x: Tensor = self.inputs.get(self.key)
        output = self._ask(x.detach().index_copy(0, self.index, point))
        count, index = len(x), self.index

        def some(leaf: Any) -> Any:
            return leaf[index] if is_batched(leaf, count) else leaf

        return pytree.tree_map(some, output)

    def at(self, point: Tensor) -> Inputs:
        """Return the arguments at points [N, *] of the whole batch."""
        return self.inputs.replace(self.key, point)

    def select(self, index: Tensor) -> Call:
        """Return the call for some of its examples."""
        return replace(self, index=index if self.index is None else self.index[index])

    def _ask(self, point: Tensor) -> Any:
        given = self.at(point).clone()
        return self.model(*given.args, **given.kwargs)


def select(model: Callable[..., Any], index: Tensor) -> Callable[..., Any]:
    """Return a model for the examples at ``index``: the same, unless it is a ``Call``."""
    return model.select(index) if isinstance(model, Call) else model
