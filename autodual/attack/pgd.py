"""Projected gradient descent, and its single step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from autodual.attack import losses
from autodual.attack.ascent import Rule, ascend
from autodual.attack.losses import Loss
from autodual.attack.problem import Attack, Model, Success, pose
from autodual.attack.rules import Momentum, Plain, Steepest
from autodual.errors import InputError
from autodual.threat import ThreatModel

ASCENTS: dict[str, Callable[[float], Rule]] = {
    "steepest": Steepest,
    "momentum": Momentum,
    "plain": Plain,
}
"""The ways ``pgd`` can climb, by name."""


def pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float | Tensor | ThreatModel,
    *,
    steps: int = 40,
    restarts: int = 1,
    step_size: float | None = None,
    ascent: str = "steepest",
    loss: Loss = losses.cross_entropy,
    targets: Tensor | None = None,
    early_stop: bool = False,
    logits: Callable[[Any], Tensor] | None = None,
    success: Success | None = None,
    generator: torch.Generator | None = None,
) -> Attack:
    """Climb the loss inside the set: a step up, then projection (thesis, equation 2.6).

    The first start is x itself, and FGSM's point is tried from there; the others are random. The
    worst point on all paths is kept, and checked to lie in its set.

    Args:
        model: returns logits [N, K], or anything that ``loss`` takes; its mode and gradients are
            left alone. Attack a certified model as ``net.model``.
        x, y: inputs [N, *] and labels [N].
        eps: a number, read as ``LinfBall(eps)``, or a threat model.
        steps: steps per start.
        restarts: number of starts.
        step_size: fraction of the set's radius per step, 2.5/steps by default; for plain ascent
            what multiplies the gradient, 1 by default.
        ascent: ``"steepest"`` for the set's norm, ``"momentum"`` for steepest ascent along a
            running sum of gradients, ``"plain"`` for the gradient itself.
        loss: loss(output, y), one number per example or reduced to a sum or mean; with targets
            loss(output, y, targets), larger where the target is nearer.
        targets: classes [N] to reach. Success is then the target, not just any other class.
        early_stop: leave an example at its first success. Same successes, less time; the point
            is then the first found, not the worst.
        logits: takes the model's output to logits [N, K], for margins, success and the losses of
            ``ad.attack.losses``.
        success: decides success(output, y), [N] bool, instead of the logits; the worst point is
            then the one with the largest loss.
        generator: randomness of the starts and of random steps, the caller's to seed.

    Raises:
        InputError: an argument is unusable, see the message; there is no gradient.
        DomainError: x lies outside the set's domain.
    """
    problem = pose(model, x, y, eps, loss, targets, logits, success, generator)
    if steps < 1 or ascent not in ASCENTS:
        raise InputError(f"pgd has steps ≥ 1 and ascent {' or '.join(ASCENTS)}")
    default = 1.0 if ascent == "plain" else 2.5 / steps
    rule = ASCENTS[ascent](default if step_size is None else step_size)
    return ascend(problem, rule, steps=steps, restarts=restarts, early_stop=early_stop)


def fgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float | Tensor | ThreatModel,
    *,
    loss: Loss = losses.cross_entropy,
    targets: Tensor | None = None,
    early_stop: bool = False,
    logits: Callable[[Any], Tensor] | None = None,
    success: Success | None = None,
) -> Attack:
    """Go to the point of the set where the linearised loss is largest (Goodfellow et al. 2015).

    For ``LinfBall`` that is x + ε·sign(∇), within the domain. On a linear model no attack does
    better. The arguments are ``pgd``'s; where x itself is worse, it is kept.
    """
    problem = pose(model, x, y, eps, loss, targets, logits, success, None)
    return ascend(problem, Steepest(1.0), steps=0, early_stop=early_stop)
