"""All arguments of a model's forward, as one object."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autodual.brief import brief
from autodual.errors import InputError

Key = int | str
"""The position or the keyword of an argument."""

Keys = Key | tuple[Key, ...]
"""One argument, or several that lie side by side, each written out as a row [N, D]."""


class Inputs:
    """All arguments of a model's forward, where it takes more than one tensor.

    ``Inputs(x, adjacency, scale=s)`` stands for ``model(x, adjacency, scale=s)``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args
        self.kwargs = kwargs

    def __repr__(self) -> str:
        parts = [brief(a) for a in self.args] + [f"{k}={brief(v)}" for k, v in self.kwargs.items()]
        return f"Inputs({', '.join(parts)})"

    def key(self, which: Keys, model: Callable[..., Any]) -> Keys:
        """Return how an argument was passed that is called by its position or its name.

        A name that was passed by position, and the other way round, is looked up in the signature
        of the model's forward.

        Raises:
            InputError: it was not passed at all, or is called twice.
        """
        if isinstance(which, tuple):
            found = tuple(self.key(each, model) for each in which)
            if len(set(found)) < len(found):
                raise InputError(f"{list(which)} name an argument twice")
            return found  # type: ignore[return-value]
        names = _positional(model)
        if isinstance(which, str):
            if which not in self.kwargs and which in names[: len(self.args)]:
                return names.index(which)
        elif len(self.args) <= which < len(names) and names[which] in self.kwargs:
            return names[which]
        if not self._has(which):
            passed = [*names[: len(self.args)], *self.kwargs]
            unnamed = len(self.args) - len(names)
            more = f" and {unnamed} more by position" if unnamed > 0 else ""
            raise InputError(
                f"perturb={which!r} names no argument of this call, which passes "
                f"{', '.join(passed) or 'none by name'}{more}: give a name or a position from 0 on"
            )
        return which

    def _has(self, which: Key) -> bool:
        count = len(self.args)
        return which in self.kwargs if isinstance(which, str) else -count <= which < count

    def get(self, which: Keys) -> Any:
        """Return the argument at a position or under a keyword, or several side by side."""
        if isinstance(which, tuple):
            return torch.cat([part.flatten(1) for part in self._parts(which)], 1)
        return self.args[which] if isinstance(which, int) else self.kwargs[which]

    def map(self, f: Any) -> Inputs:
        """Apply ``f`` to every leaf."""
        args, kwargs = pytree.tree_map(f, (self.args, self.kwargs))
        return Inputs(*args, **kwargs)

    def clone(self) -> Inputs:
        """Return a copy with tensors of its own, for a model that may write to its input."""
        return self.map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf)

    def shapes(self, which: Keys) -> tuple[torch.Size, ...]:
        """Return the shape of one example's arguments."""
        return tuple(part.shape[1:] for part in self._parts(which))

    def _parts(self, which: Keys) -> list[Tensor]:
        """Return the arguments.

        Raises:
            InputError: they are not batches of the same number of examples.
        """
        parts = [self.get(each) for each in (which if isinstance(which, tuple) else (which,))]
        batches = all(isinstance(part, Tensor) and part.dim() > 1 for part in parts)
        if batches and len({(len(part), part.dtype, part.device) for part in parts}) == 1:
            return parts
        told = (
            f"{part.dtype} {list(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
            for part in parts
        )
        raise InputError(
            "perturbed arguments must be tensors [N, *] of one dtype and device, with a row for "
            f"each example, not {', '.join(told)}"
        )

    def position(self, which: Key) -> int:
        """Return which of the leaves is the argument at a position or under a keyword."""
        marked = self.replace(which, marker := object())
        return next(i for i, leaf in enumerate(marked.leaves()) if leaf is marker)

    def leaves(self) -> list[Any]:
        """Return every leaf, in the order in which the graph takes them."""
        return pytree.tree_leaves((self.args, self.kwargs))

    def replace(self, which: Keys, value: Any) -> Inputs:
        """Return a copy with one argument replaced, or several that lie side by side in one."""
        if isinstance(which, tuple):
            return self._replace_several(which, value)
        args, kwargs = list(self.args), dict(self.kwargs)
        (args if isinstance(which, int) else kwargs)[which] = value  # type: ignore[index]
        return Inputs(*args, **kwargs)

    def _replace_several(self, which: tuple[Key, ...], rows: Tensor) -> Inputs:
        shapes, replaced = self.shapes(which), self
        pieces = rows.split([shape.numel() for shape in shapes], dim=1)
        for key, piece, shape in zip(which, pieces, shapes, strict=True):
            replaced = replaced.replace(key, piece.unflatten(1, shape))
        return replaced


def is_batched(leaf: Any, batch: int) -> bool:
    """Return whether an argument looks as if it held one thing for each example of a batch."""
    return isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == batch


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
