"""All arguments of a model's forward, as one object."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from autodual.errors import InputError


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

    def get(self, which: int | str) -> Any:
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

    def position(self, which: int | str) -> int:
        """Return which of the leaves is the argument at a position or under a keyword."""
        marked = self.replace(which, marker := object())
        return next(i for i, leaf in enumerate(marked.leaves()) if leaf is marker)

    def leaves(self) -> list[Any]:
        """Return every leaf, in the order in which the graph takes them."""
        return pytree.tree_leaves((self.args, self.kwargs))

    def replace(self, which: int | str, value: Any) -> Inputs:
        """Return a copy with one argument replaced."""
        args, kwargs = list(self.args), dict(self.kwargs)
        (args if isinstance(which, int) else kwargs)[which] = value  # type: ignore[index]
        return Inputs(*args, **kwargs)
