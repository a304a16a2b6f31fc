"""What a captured graph takes for granted about a model: if it changes, capture anew.

This finds most changes without running the model. Whatever is called a certificate has also been
compared with the model itself; see ``door``.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, is_dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

_REGISTRIES = ("_parameters", "_buffers", "_modules", "training")
_PLAIN = frozenset((bool, int, float, str, bytes, type(None)))
_HOOKS = frozenset((dict, OrderedDict))

Attribute = tuple[str, str]
"""A module's name and that of an attribute of it."""


@dataclass(frozen=True)
class Fingerprint:
    """How a model is made, without the values of its parameters and buffers.

    Attributes:
        structure: which modules, parameters and buffers there are, which of them are one and the
            same, each module's class and training flag.
        attributes: the modules' other attributes, hooks and a replaced forward included.
    """

    structure: Hashable
    attributes: Mapping[Attribute, Hashable]

    def changes(self, other: Fingerprint) -> set[Attribute]:
        """Return the attributes that differ."""
        mine, theirs = self.attributes, other.attributes
        return {k for k in {**mine, **theirs} if mine.get(k, id) != theirs.get(k, id)}


def fingerprint(model: nn.Module) -> Fingerprint:
    """Return how the model is made."""
    modules = list(model.named_modules(remove_duplicate=False))
    tensors = [
        (name, tensor)
        for kind in (model.named_parameters, model.named_buffers)
        for name, tensor in kind(remove_duplicate=False)
    ]
    kinds = tuple((type(module), module.training) for _, module in modules)
    attributes = {
        (name, attribute): freeze(value)
        for name, module in modules
        for attribute, value in vars(module).items()
        if attribute not in _REGISTRIES
    }
    return Fingerprint((_sharing(modules), _sharing(tensors), kinds), attributes)


def freeze(value: Any) -> Hashable:
    """Return something hashable that is equal for equal plain data, and else by identity."""
    if type(value) in _PLAIN:
        return type(value), repr(value)
    if type(value) in _HOOKS and not value:
        return ()
    if isinstance(value, list | tuple):
        return (type(value), *map(freeze, value))
    if isinstance(value, Mapping):
        return (type(value), *((freeze(k), freeze(v)) for k, v in value.items()))
    if isinstance(value, set | frozenset):
        return (type(value), frozenset(map(freeze, value)))
    if isinstance(value, Tensor):
        return (Itself(value), None if value.is_inference() else value._version)
    if isinstance(value, partial):
        return (Itself(value.func), freeze(value.args), freeze(value.keywords))
    if isinstance(value, SimpleNamespace) or is_dataclass(value):
        return (Itself(value), freeze(vars(value)) if hasattr(value, "__dict__") else ())
    return Itself(value)


class Itself:
    """Stands for an object: equal to what stands for the same one, while that lives."""

    __slots__ = ("_hash", "_object")

    def __init__(self, value: object) -> None:
        self._hash = id(value)
        try:
            self._object: Callable[[], object] = weakref.ref(value)
        except TypeError:
            self._object = lambda: value

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Itself):
            return False
        mine = self._object()
        return mine is not None and mine is other._object()


def _sharing(named: list[tuple[str, Any]]) -> Hashable:
    """Return the names, each with the position of the first that names the same object."""
    first: dict[int, int] = {}
    return tuple((name, first.setdefault(id(value), i)) for i, (name, value) in enumerate(named))
