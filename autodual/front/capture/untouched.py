"""Run a model and leave it, its inputs and all random states as they were."""

from __future__ import annotations

import operator
import random
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from autodual.inputs import Inputs

_CONTAINERS = dict, list, set, deque
_PLAIN = frozenset((bool, int, float, str, type(None), Tensor, nn.Parameter))


@torch.no_grad()
def call_untouched(model: nn.Module, inputs: Inputs) -> Any:
    """Call the model on copies of its inputs and buffers; put back all that it changes.

    A model that has been captured draws random numbers from torch alone; see ``rehearse``.
    """
    own = inputs.clone()
    with untouched(model, only_torch=True) as kept:
        kept.lend_copies()
        return model(*own.args, **own.kwargs)


@contextmanager
def untouched(model: nn.Module, only_torch: bool = False) -> Iterator[Kept]:
    """Put attributes, buffers, random states and torch's own settings back afterwards.

    Tensors that are written to in place are not: that is what ``lend_copies`` is for. With
    ``only_torch``, no other random states than torch's are.
    """
    kept, states, settings = Kept(model), RandomStates(only_torch), _settings()
    try:
        yield kept
    finally:
        kept.put_back()
        states.put_back()
        torch.set_grad_enabled(settings[0])
        if torch.get_default_dtype() != settings[1]:
            torch.set_default_dtype(settings[1])


def _settings() -> tuple[bool, torch.dtype]:
    return torch.is_grad_enabled(), torch.get_default_dtype()


class Kept:
    """What the modules of a model and the containers in their attributes hold.

    ``modules`` are all that can be reached, by name, those in plain lists and dicts too.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules: dict[str, nn.Module] = {}
        self.attributes: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.containers: list[tuple[Any, Any]] = []
        self.empty: list[Any] = []
        self._seen: set[int] = set()
        self._module(model, "")

    def _module(self, module: nn.Module, name: str) -> None:
        if id(module) in self._seen:
            return
        self._seen.add(id(module))
        self.modules[name] = module
        own = vars(module)
        self.attributes.append((own, own.copy()))
        for key, item in own.items():
            if type(item) not in _PLAIN:
                self._visit(item, name, key)

    def _visit(self, value: Any, name: str, key: Any) -> None:
        """Keep what an attribute or an item of a container holds, if it may hold anything."""
        if isinstance(value, _CONTAINERS):
            if not value:
                self.empty.append(value)
            elif id(value) not in self._seen:
                self._seen.add(id(value))
                self.containers.append((value, value.copy()))
                inner = name if key == "_modules" else _joined(name, key)
                pairs = value.items() if isinstance(value, dict) else enumerate(value)
                for k, item in pairs:
                    if type(item) not in _PLAIN:
                        self._visit(item, inner, k)
        elif isinstance(value, nn.Module):
            self._module(value, _joined(name, key))
        elif isinstance(value, SimpleNamespace):
            self._visit(vars(value), name, key)

    def lend_copies(self) -> None:
        """Give the model copies of its buffers and plain tensors, until all is put back."""
        copies: dict[int, Tensor] = {}

        def copied(tensor: Tensor) -> Tensor:
            return copies.setdefault(id(tensor), tensor.detach().clone())

        for own, before in self.attributes:
            for name, value in before.items():
                if isinstance(value, Tensor):
                    own[name] = _like(value, copied)
            for name, buffer in own["_buffers"].items():
                if buffer is not None:
                    own["_buffers"][name] = _like(buffer, copied)

    def put_back(self) -> None:
        """Undo every change of an attribute or a container."""
        for value in self.empty:
            if value:
                value.clear()
        for own, before in self.attributes:
            _put_back(own, before)
        for value, before in self.containers:
            if isinstance(value, dict):
                _put_back(value, before)
            elif len(value) != len(before) or not all(map(operator.is_, value, before)):
                value.clear()
                (value.update if isinstance(value, set) else value.extend)(before)


def _joined(name: str, key: Any) -> str:
    return f"{name}.{key}" if name else str(key)


def _like(tensor: Tensor, copied: Any) -> Tensor:
    return tensor if isinstance(tensor, nn.Parameter) else copied(tensor)


def _put_back(now: dict[Any, Any], before: dict[Any, Any]) -> None:
    same = len(now) == len(before) and all(map(operator.is_, now, before))
    if not (same and all(map(operator.is_, now.values(), before.values()))):
        now.clear()
        now.update(before)


class RandomStates:
    """The states of the generators that a forward might draw from unseen."""

    def __init__(self, only_torch: bool = False) -> None:
        self.torch = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        self.python = None if only_torch else random.getstate()
        numpy = None if only_torch else sys.modules.get("numpy")
        self.numpy = None if numpy is None else numpy.random.get_state()

    def advanced(self) -> list[str]:
        """Return which generators outside torch have been drawn from since."""
        names = []
        if self.python is not None and random.getstate() != self.python:
            names.append("Python's random")
        if self.numpy is not None:
            now = sys.modules["numpy"].random.get_state()
            if now[2] != self.numpy[2] or bool((now[1] != self.numpy[1]).any()):
                names.append("numpy.random")
        return names

    def put_back(self) -> None:
        """Set all generators back."""
        torch.set_rng_state(self.torch)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)
        if self.python is not None:
            random.setstate(self.python)
        if self.numpy is not None:
            sys.modules["numpy"].random.set_state(self.numpy)
