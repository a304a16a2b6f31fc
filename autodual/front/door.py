"""Each model is captured once for each kind of input."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from autodual.front.capture import Captured, Inputs, Kind, Output, capture
from autodual.front.fingerprint import fingerprint, freeze
from autodual.front.passes import simplify

_CAPTURES: WeakKeyDictionary[nn.Module, dict[Any, Captured]] = WeakKeyDictionary()
"""Graphs by model and kind of input. They hold no parameters, so they outlive optimizer steps."""


def capture_once(
    model: nn.Module,
    inputs: Inputs,
    perturb: int | str = 0,
    output: Output = None,
    kinds: Iterable[Kind] = (),
) -> Captured:
    """Capture the model and simplify its graph, once for each kind of input."""
    key = _key(model, inputs, perturb, output), frozenset(kinds)
    captures = _CAPTURES.setdefault(model, {})
    if key not in captures:
        found = capture(model, inputs, perturb, output, kinds)
        captures[key] = replace(found, graph=simplify(found.graph))
    return captures[key]


def _key(model: nn.Module, inputs: Inputs, perturb: int | str, output: Output) -> Any:
    """Everything that can change the graph: kinds of inputs, and how the model is made."""
    batch = len(inputs.get(perturb))

    def kind(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return freeze(leaf)
        batched = leaf.dim() > 0 and leaf.shape[0] == batch
        return (batched, leaf.shape[1:] if batched else leaf.shape, leaf.dtype, leaf.device)

    leaves = tuple(kind(leaf) for leaf in inputs.leaves())
    autocast = torch.is_autocast_enabled(), torch.is_autocast_enabled("cpu")
    return leaves, tuple(inputs.kwargs), perturb, output, autocast, fingerprint(model)
