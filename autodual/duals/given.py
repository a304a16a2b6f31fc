"""The dual layers a user gives: by an op's name, a module's class or an autograd Function."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload

from autodual.duals import REGISTRY, DualLayer, Registry
from autodual.errors import InputError
from autodual.front.capture import Kind, name_of

UserRules = Mapping[str | Kind, DualLayer]


@dataclass(frozen=True, eq=False)
class Rules:
    """The registry with the user's dual layers, and what must be captured whole for them."""

    given: UserRules
    own: Mapping[str, DualLayer]
    kinds: frozenset[Kind]

    def __deepcopy__(self, memo: object) -> Rules:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the rules as they were given: ops by their names."""
        for name, rule in self.given.items():
            try:
                pickle.dumps(rule)
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                raise InputError(
                    f"rules[{name!r}] cannot be pickled: {error}. Make it of functions that a "
                    "module defines by name, without lambda and not inside a function."
                ) from error
        return read_rules, (self.given,)

    @property
    def registry(self) -> Registry:
        """All dual layers, the user's before the library's."""
        return {**REGISTRY, **self.own} if self.own else REGISTRY


NONE = Rules({}, {}, frozenset())
"""No dual layers but the library's."""


def read_rules(rules: UserRules | None) -> Rules:
    """Add what a user gives to the registry.

    Raises:
        InputError: a key is neither an op's name nor such a class, or a value is no dual layer.
    """
    if not isinstance(rules, Mapping | None):
        raise InputError(f"rules must map ops to dual layers, not be a {type(rules).__name__}")
    own: dict[str, DualLayer] = {}
    kinds: set[Kind] = set()
    for key, rule in (rules or {}).items():
        if isinstance(key, type) and issubclass(key, nn.Module | torch.autograd.Function):
            kinds.add(key)
            name = name_of(key)
        elif isinstance(key, str):
            name = key
            if key not in REGISTRY:
                kinds.add(op_named(key, f"rules[{key!r}]"))
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
    return Rules(dict(rules or {}), own, frozenset(kinds)) if own else NONE


def op_named(name: str, given: str) -> OpOverload:
    """Return the op of a name, which was ``given`` so.

    Raises:
        InputError: there is none.
    """
    found: object = torch.ops
    for part in name.split("."):
        found = getattr(found, part, None)
    if isinstance(found, OpOverload):
        return found
    parts = (*name.split("."), "", "")
    space = parts[0] if parts[1] else "aten"
    near = get_close_matches(parts[1] or parts[0], dir(getattr(torch.ops, space)), n=1)
    meant = f"Did you mean '{space}.{near[0]}.default'? " if near else ""
    raise InputError(
        f"{given} names no op. {meant}Ops are named as ad.coverage(model, x) lists them, "
        "'aten.asinh.default' or 'mylib.op.default'; a class of modules stands for itself."
    )
