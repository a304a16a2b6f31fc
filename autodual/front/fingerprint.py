"""What a captured graph takes for granted about a model: if it changes, capture anew."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any

from torch import Tensor, nn

_REGISTRIES = ("_parameters", "_buffers", "_modules")
_PLAIN = frozenset((bool, int, float, str, bytes, type(None)))
_HOOKS = frozenset((dict, OrderedDict))


def fingerprint(model: nn.Module) -> Hashable:
    """Return how the model is made, without the values of its parameters and buffers.

    Per module, by name: class, attributes (training flag included), hooks, a replaced forward.
    Which modules, parameters and buffers there are, and which of them are one and the same.
    """
    modules = list(model.named_modules(remove_duplicate=False))
    tensors = [
        (name, tensor)
        for kind in (model.named_parameters, model.named_buffers)
        for name, tensor in kind(remove_duplicate=False)
    ]
    return (
        _sharing(modules),
        _sharing(tensors),
        tuple(_module(module) for _, module in modules),
    )


def freeze(value: Any) -> Hashable:
    """Return something hashable that is equal for equal plain data, and else by identity."""
    if type(value) in _PLAIN:
        return value
    if type(value) in _HOOKS and not value:
        return ()
    if isinstance(value, list | tuple):
        return (type(value), *map(freeze, value))
    if isinstance(value, Mapping):
        return (type(value), *((freeze(k), freeze(v)) for k, v in value.items()))
    if isinstance(value, set | frozenset):
        return (type(value), frozenset(map(freeze, value)))
    if isinstance(value, Tensor):
        return (id(value), None if value.is_inference() else value._version)
    return id(value)


def _module(module: nn.Module) -> Hashable:
    attributes = tuple(
        (name, freeze(value)) for name, value in vars(module).items() if name not in _REGISTRIES
    )
    return type(module), attributes


def _sharing(named: list[tuple[str, Any]]) -> Hashable:
    """Return the names, each with the position of the first that names the same object."""
    first: dict[int, int] = {}
    return tuple((name, first.setdefault(id(value), i)) for i, (name, value) in enumerate(named))
