"""What functions may be called with: the arguments that they take, and numbers that count."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from autodual.brief import brief
from autodual.errors import InputError

P = ParamSpec("P")
T = TypeVar("T")

REMEDY = (
    "Several inputs of a model are one x, ad.Inputs(image, meta); how it is bounded is said to "
    "certify, as in ad.robust_loss(ad.certify(model, eps, perturb=...), x, y)."
)


def check_count(name: str, value: object, least: int = 1) -> int:
    """Return a whole number.

    Raises:
        InputError: it is none, or less than ``least``.
    """
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = least - 1
    if number < least:
        raise InputError(f"{name}={brief(value)}: give a whole number, at least {least}")
    return number


def called(function: Callable[P, T]) -> Callable[P, T]:
    """Return a function that says what to write instead where it is called with other arguments.

    Raises:
        InputError: there are too many arguments or too few, or one has another name.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except TypeError:
            _check_call(function, args, kwargs)
            raise

    return run


def _check_call(
    function: Callable[..., object], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """Raise if a function does not take these arguments."""
    signature = inspect.signature(function)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        names = list(signature.parameters)
        own = names[0] == "self"
        given = [*map(brief, args[own:]), *(f"{k}={brief(v)}" for k, v in kwargs.items())]
        name = function.__qualname__.removesuffix(".forward").removesuffix(".__init__")
        takes = f"{name}({', '.join(names[own:])})"
        raise InputError(f"{takes} does not take ({', '.join(given)}): {error}. {REMEDY}") from None
