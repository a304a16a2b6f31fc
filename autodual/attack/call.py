"""A model with several arguments, as a function of the one that is attacked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from autodual.inputs import Inputs, Keys


@dataclass(frozen=True, eq=False)
class Call:
    """A model, and all other arguments than the one that it is called with.

    Attributes:
        inputs: the arguments; that under ``key`` is replaced, or several that lie side by side.
        batched: for each of their leaves, whether it has a row for each example.
    """

    model: Callable[..., Any]
    inputs: Inputs
    key: Keys
    batched: tuple[bool, ...]

    @classmethod
    def of(cls, model: Callable[..., Any], inputs: Inputs, key: Keys) -> Call:
        """Return the call; tensors as long as the attacked one have a row for each example."""
        count = len(inputs.get(key))
        batched = (
            isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == count
            for leaf in inputs.leaves()
        )
        return cls(model, inputs, key, tuple(batched))

    def __call__(self, point: Tensor) -> Any:
        """Return what the model says at points [N, *], which lie where the examples do."""
        given = self.at(point).clone()
        return self.model(*given.args, **given.kwargs)

    def at(self, point: Tensor) -> Inputs:
        """Return the arguments at points [N, *]."""
        return self.inputs.replace(self.key, point)

    def select(self, index: Tensor) -> Call:
        """Return the call for the examples at ``index``."""
        leaves, packed = pytree.tree_flatten((self.inputs.args, self.inputs.kwargs))
        some = [
            leaf[index] if own else leaf for leaf, own in zip(leaves, self.batched, strict=True)
        ]
        args, kwargs = pytree.tree_unflatten(some, packed)
        return replace(self, inputs=Inputs(*args, **kwargs))


def select(model: Callable[..., Any], index: Tensor) -> Callable[..., Any]:
    """Return a model for the examples at ``index``: the same, unless it is a ``Call``."""
    return model.select(index) if isinstance(model, Call) else model


def at(model: Callable[..., Any], x: Tensor, index: Tensor) -> Tensor | Inputs:
    """Return the arguments of the examples at ``index``, as an attack is given them."""
    return model.select(index).at(x[index]) if isinstance(model, Call) else x[index]
