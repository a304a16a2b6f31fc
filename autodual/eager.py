"""Bounds stay out of torch.compile: they look at data, and compile what they may by themselves."""

from __future__ import annotations

import sys
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
    plain = called(function)

    @cache
    def disabled() -> Callable[P, T]:  # the compiler takes long to load: not before it is needed
        return torch.compiler.disable(plain)

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        compiler_is_there = "torch._dynamo" in sys.modules  # without it nothing is compiled
        return (disabled() if compiler_is_there else plain)(*args, **kwargs)

    return run
