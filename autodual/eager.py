"""Bounds stay out of torch.compile: they look at data, and compile what they may by themselves."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import torch

from autodual.calls import called

P = ParamSpec("P")
T = TypeVar("T")


def eager(function: Callable[P, T]) -> Callable[P, T]:
    """Return a function that compiled code calls as it is, with all that it calls.

    One that is called with other arguments than it takes says what to write instead.
    """

    @cache
    def disabled() -> Callable[P, T]:  # the compiler takes long to load: not before it is needed
        return torch.compiler.disable(called(function))

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return disabled()(*args, **kwargs)

    return run
