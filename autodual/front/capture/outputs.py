"""Which of a model's outputs is bounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils import _pytree as pytree

from autodual.errors import ModelError

Key = int | str
Output = Key | tuple[Key, ...] | None
"""A position, key or name in what a model returns, or several of them, from the outside in."""


def choose(returned: pytree.TreeSpec, output: Output, show: Callable[[int], str]) -> int:
    """Return which leaf of what a model returns is the one called ``output``.

    Args:
        returned: how the leaves are packed.
        output: the way to one of them; None if the model returns a single tensor.
        show: says what the leaf at a position is.

    Raises:
        ModelError: none is called so; lists those there are.
    """
    leaves = range(returned.num_leaves)
    paths, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(leaves, returned))
    ways = [tuple(map(_key, path)) for path, _ in paths]
    wanted = () if output is None else output if isinstance(output, tuple) else (output,)
    if wanted in ways:
        return ways.index(wanted)
    found = ", ".join(f"{_written(way)} ({show(i)})" for way, i in zip(ways, leaves, strict=True))
    asked = "" if output is None else f"not {_written(wanted)}; "
    raise ModelError(
        f"the model returns {len(ways)} value(s), {asked}bounds need one tensor. Choose it with "
        f"certify(...): {found}."
    )


def _key(step: Any) -> Key:
    if isinstance(step, pytree.SequenceKey):
        return step.idx
    key: Key = step.name if isinstance(step, pytree.GetAttrKey) else step.key
    return key


def _written(way: tuple[Key, ...]) -> str:
    """Return how to choose this output."""
    choice = way[0] if len(way) == 1 else way or None
    return f"output={choice!r}"
