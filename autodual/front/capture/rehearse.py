"""Run a model for real before it is traced: what it needs is made, and what is wrong with it shows.

Tables that it makes once and keeps outside of itself are then made of real tensors.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autodual.errors import CaptureError
from autodual.front.capture.untouched import Kept, RandomStates, untouched
from autodual.inputs import Inputs

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Allowed difference, relative to the largest value. Reordered sums differ far less."""


def close(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are the same but for rounding."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    if not a.is_floating_point():
        return torch.equal(a, b)
    finite = torch.stack([a, b]).nan_to_num(0, 0, 0)
    largest = float(finite.abs().max()) if a.numel() else 0.0
    slack = TOLERANCE.get(a.dtype, 1e-3) * largest
    return torch.allclose(a, b, rtol=0, atol=slack + 1e-12, equal_nan=True)


@torch.no_grad()
def rehearse(model: nn.Module, *examples: Inputs) -> None:
    """Call the model on each of these, and on the first once more before and after.

    Raises:
        CaptureError: it makes parameters as it runs, draws random numbers that torch does not
            see, or answers differently to the same input.
    """
    _refuse_lazy(model)
    with untouched(model):
        before = _parameters(Kept(model))
        states = RandomStates()
        answers = []
        for given in (examples[0], *examples, examples[0]):
            states.put_back()
            answers.append(_answer(model, given))
            _refuse_made(before, _parameters(Kept(model)))
            _refuse_drawn(states)
        first, *again = (pytree.tree_leaves(answers[i]) for i in (0, 1, -1))
        if not all(len(first) == len(a) and all(map(_same, first, a)) for a in again):
            raise CaptureError(
                "the model answers differently to the same input a second time: it keeps "
                "something from call to call that no argument shows. A bound holds for one "
                "function: make that state an argument, or keep it fixed in eval mode."
            )


def _answer(model: nn.Module, given: Inputs) -> Any:
    """Return what the model says, with its buffers left alone."""
    kept, own = Kept(model), given.clone()
    shelves = [(module._buffers, dict(module._buffers)) for module in kept.modules.values()]
    kept.lend_copies()
    try:
        return model(*own.args, **own.kwargs)
    finally:
        for shelf, before in shelves:
            shelf |= before


def _same(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return type(a) is type(b)
    return close(a, b)


def _refuse_lazy(model: nn.Module) -> None:
    tensors = itertools.chain(model.named_parameters(), model.named_buffers())
    lazy = [name for name, tensor in tensors if nn.parameter.is_lazy(tensor)]
    if lazy:
        raise CaptureError(
            f"{lazy[0]} has no shape yet: lazy layers get theirs from the first input. Call the "
            "model once before certify."
        )


def _parameters(kept: Kept) -> dict[int, str]:
    return {
        id(parameter): f"{name}.{own}" if name else own
        for name, module in kept.modules.items()
        for own, parameter in module._parameters.items()
        if parameter is not None
    }


def _refuse_made(before: dict[int, str], now: dict[int, str]) -> None:
    made = [name for key, name in now.items() if key not in before]
    if made:
        raise CaptureError(
            f"forward makes {made[0]} on its first call. What it will be is not known yet: call "
            "the model once before certify, or make its parameters in __init__."
        )


def _refuse_drawn(states: RandomStates) -> None:
    drawn = states.advanced()
    if drawn:
        raise CaptureError(
            f"forward draws from {' and '.join(drawn)}: the model is another function at each "
            "call, and a bound holds for one. Draw outside of forward and pass what was drawn as "
            "an argument, or leave it out where the model is evaluated."
        )
