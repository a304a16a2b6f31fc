"""What a canary is, and what tells whether it was noticed."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from autodual.errors import AutodualError

Check = Callable[[], None]


@dataclass(frozen=True)
class Canary:
    """One thing that is broken.

    Attributes:
        path: the attribute that is replaced, by its dotted path.
        change: makes the broken one of the original.
        check: the check that must fail.
        says: a pattern that its message must match.
    """

    path: str
    change: Callable[[Any], Any]
    check: Check
    says: str


def must_fail(check: Check, says: str) -> None:
    """Run a check and raise unless it fails with a message like this."""
    with pytest.raises((AssertionError, AutodualError), match=says):
        check()


def must_be_noticed(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    """Break what a canary breaks; raise unless its check notices."""
    owner, _, attribute = canary.path.rpartition(".")
    target = resolve(owner)
    kept = vars(target).get(attribute)
    changed = canary.change(getattr(target, attribute))
    static = isinstance(kept, classmethod | staticmethod)
    monkeypatch.setattr(target, attribute, staticmethod(changed) if static else changed)
    must_fail(canary.check, canary.says)


def resolve(path: str) -> Any:
    """Return the module or class of this name."""
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise AssertionError(path)


def checks_of(canaries: dict[str, Canary]) -> dict[str, Check]:
    """Return the checks that some canaries name, each once."""
    return {canary.check.__name__: canary.check for canary in canaries.values()}
