"""All arguments of a model's forward, as one object."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autodual.errors import InputError

Key = int | str
"""The position or the keyword of an argument."""


class Inputs:
    """All arguments of a model's forward, where it takes more than one tensor.

    ``Inputs(x, adjacency, scale=s)`` stands for ``model(x, adjacency, scale=s)``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args
        self.kwargs = kwargs

    def __repr__(self) -> str:
        parts = [repr(type(a).__name__) for a in self.args] + [f"{k}=…" for k in self.kwargs]
        return f"Inputs({', '.join(parts)})"

    def key(self, which: Key, model: Callable[..., Any]) -> Key:
        """Return how an argument was passed that is called by its position or its name.

        A name that was passed by position, and the other way round, is looked up in the signature
        of the model's forward.

        Raises:
            InputError: it was not passed at all.
        """
        names = _positional(model)
        if isinstance(which, str):
            if which not in self.kwargs and which in names[: len(self.args)]:
                return names.index(which)
        elif len(self.args) <= which < len(names) and names[which] in self.kwargs:
            return names[which]
        self.get(which)
        return which

    def get(self, which: Key) -> Any:
        """Return the argument at a position or under a keyword."""
        try:
            return self.args[which] if isinstance(which, int) else self.kwargs[which]
        except (IndexError, KeyError):
            raise InputError(
                f"perturb={which!r} names no argument of this call: it has "
                f"{len(self.args)} positional and {sorted(self.kwargs)} keyword arguments"
            ) from None

    def map(self, f: Any) -> Inputs:
        """Apply ``f`` to every leaf."""
        args, kwargs = pytree.tree_map(f, (self.args, self.kwargs))
        return Inputs(*args, **kwargs)

    def clone(self) -> Inputs:
        """Return a copy with tensors of its own, for a model that may write to its input."""
        return self.map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf)

    def position(self, which: Key) -> int:
        """Return which of the leaves is the argument at a position or under a keyword."""
        marked = self.replace(which, marker := object())
        return next(i for i, leaf in enumerate(marked.leaves()) if leaf is marker)

    def leaves(self) -> list[Any]:
        """Return every leaf, in the order in which the graph takes them."""
        return pytree.tree_leaves((self.args, self.kwargs))

    def replace(self, which: Key, value: Any) -> Inputs:
        """Return a copy with one argument replaced."""
        args, kwargs = list(self.args), dict(self.kwargs)
        (args if isinstance(which, int) else kwargs)[which] = value  # type: ignore[index]
        return Inputs(*args, **kwargs)


def as_inputs(x: object) -> Inputs:
    """Return ``x`` as ``Inputs``; a tuple is read as positional arguments."""
    if isinstance(x, Inputs):
        return x
    return Inputs(*x) if isinstance(x, tuple) else Inputs(x)


def _positional(model: Callable[..., Any]) -> list[str]:
    """Return the names of the arguments that a model takes by position, in order."""
    try:
        forward = model.forward if isinstance(model, nn.Module) else model
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):
        return []
    named = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [p.name for p in parameters if p.kind in named]
