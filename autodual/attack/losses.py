"""What gradient attacks climb: one number per example, larger where the model is more wrong.

Each takes logits z [N, K, *], labels y [N, *] and, for targeted attacks, the classes t [N, *] to
reach; it returns [N], the mean over an example's labels. A loss of your own takes the model's
output instead, whatever that is; decorate it with ``of_logits`` if it is to take what ``logits=``
makes of that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper

import torch
import torch.nn.functional as F
from torch import Tensor

from autodual.errors import InputError
from autodual.labels import NONE

Loss = Callable[..., Tensor]
"""loss(output, y), and loss(output, y, targets) in a targeted attack."""


class of_logits:  # noqa: N801, it reads as what it does
    """Mark a loss that takes logits, not a model's whole output."""

    def __init__(self, loss: Loss) -> None:
        self.loss = loss
        update_wrapper(self, loss)

    def __call__(self, z: Tensor, y: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return the loss."""
        return self.loss(z, y) if targets is None else self.loss(z, y, targets)


@of_logits
def cross_entropy(z: Tensor, y: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return −log softmax(z)_y, or log softmax(z)_t."""
    if targets is None:
        return _mean(F.cross_entropy(z, y, reduction="none", ignore_index=NONE), y)
    return -_mean(F.cross_entropy(z, targets, reduction="none", ignore_index=NONE), y)


@of_logits
def log_odds(z: Tensor, y: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return log((1 − p_y) / p_y) for p = softmax(z), or log(p_t / (1 − p_t)).

    It rises wherever cross-entropy, log(1 + e^it), does, and has its slope but for a positive
    factor, which is what vanishes in that where a model is sure.
    """
    if targets is None:
        return _mean(_odds_against(z, y), y)
    return -_mean(_odds_against(z, targets), y)


@of_logits
def margin(z: Tensor, y: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return max_{k≠y} z_k − z_y, or z_t − z_y. Positive where the model is wrong."""
    return _mean(_margin(z, y, targets), y)


@of_logits
def dlr(z: Tensor, y: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return the difference of logits ratio (Croce and Hein 2020, equations 6 and 7).

    With z_(1) ≥ z_(2) ≥ …: (max_{k≠y} z_k − z_y) / (z_(1) − z_(3)), and targeted
    (z_t − z_y) / (z_(1) − (z_(3) + z_(4))/2). Scaling or shifting the logits changes nothing, so
    it does not vanish where a model is very sure.

    Raises:
        InputError: fewer than 3 classes, or 4 for a target.
    """
    needed = 3 if targets is None else 4
    if z.shape[1] < needed:
        raise InputError(
            f"the difference of logits ratio needs {needed} classes and the model has "
            f"{z.shape[1]}; use ad.attack.losses.margin"
        )
    top = z.topk(needed, dim=1).values
    low = top[:, 2] if targets is None else (top[:, 2] + top[:, 3]) / 2
    return _mean(_margin(z, y, targets) / (top[:, 0] - low).clamp(min=1e-12), y)


def _margin(z: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
    other = best_other(z, y) if targets is None else pick(z, targets)
    return other - pick(z, y)


def _odds_against(z: Tensor, classes: Tensor) -> Tensor:
    return _without(z, classes).logsumexp(1) - pick(z, classes)


def _mean(values: Tensor, y: Tensor) -> Tensor:
    """Return the mean of values [N, *] over the labels that there are, [N]."""
    known = (y != NONE).reshape(len(y), -1)
    total = values.reshape(len(y), -1).masked_fill(~known, 0).sum(1)
    return total / known.sum(1).clamp(min=1)


def pick(z: Tensor, classes: Tensor) -> Tensor:
    """Return [N, *]: z [N, K, *] at each label's class, or at any where there is no label."""
    return z.gather(1, classes.clamp(min=0).unsqueeze(1)).squeeze(1)


def best_other(z: Tensor, classes: Tensor) -> Tensor:
    """Return [N, *]: the largest z of any other class."""
    return _without(z, classes).amax(1)


def _without(z: Tensor, classes: Tensor) -> Tensor:
    return z.scatter(1, classes.clamp(min=0).unsqueeze(1), -torch.inf)
