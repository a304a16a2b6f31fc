"""Bounds are differentiated once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autodual.errors import InputError


def once(bound: Tensor) -> Tensor:
    """Return a bound that refuses to be differentiated twice.

    Where a line touches f, and which price of a set is best, is found without a gradient: it is
    extremal, so that first derivatives do not notice (envelope theorem). Second ones would.
    """
    wanted = torch.is_grad_enabled() and bound.requires_grad
    result: Tensor = _Once.apply(bound) if wanted else bound
    return result


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bound: Tensor) -> Tensor:
        return bound.view_as(bound)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise InputError(
                "a bound has first derivatives only: what it holds fixed for these moves in second "
                "ones. Leave out create_graph=True; for a term with a gradient in it, such as a "
                "penalty, take the gradient of the model's own output."
            )
        return gradient
