"""The dual layers a user gives: by an op's name, a module's class or an autograd Function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from autodual.capture import Kind, name_of
from autodual.duals import REGISTRY, DualLayer, Registry
from autodual.errors import InputError

UserRules = Mapping[str | Kind, DualLayer]


@dataclass(frozen=True, eq=False)
class Rules:
    """The registry with the user's dual layers, and the classes that must be captured whole."""

    registry: Registry
    kinds: frozenset[Kind]


def read_rules(rules: UserRules | None) -> Rules:
    """Add what a user gives to the registry.

    Raises:
        InputError: a key is neither a name nor such a class, or a value is no dual layer.
    """
    own: dict[str, DualLayer] = {}
    kinds: set[Kind] = set()
    for key, rule in (rules or {}).items():
        if isinstance(key, type) and issubclass(key, nn.Module | torch.autograd.Function):
            kinds.add(key)
            name = name_of(key)
        elif isinstance(key, str):
            name = key
        else:
            raise InputError(
                "rules are given by an op's name, like 'aten.asinh.default' or "
                "'mylib.op.default', by the class of a module or by an autograd Function, not by "
                f"{key!r}"
            )
        if name in own:
            raise InputError(f"rules hold two dual layers for {name}: rename one of the classes")
        own[name] = rule
        if not isinstance(rule, DualLayer):
            raise InputError(
                f"rules[{key!r}] is no dual layer: give Affine, Elementwise or smooth(...)"
            )
    return Rules({**REGISTRY, **own}, frozenset(kinds))
