"""Projected gradient descent, and its single step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from autodual.attack import losses
from autodual.attack.ascent import Strategy, ascend
from autodual.attack.finding import Attack
from autodual.attack.options import Options, pose, rate_of
from autodual.attack.problem import Model
from autodual.attack.strategies import Momentum, Plain, Steepest
from autodual.calls import check_count
from autodual.errors import InputError
from autodual.inputs import Inputs
from autodual.labels import Labels
from autodual.threat import Eps

if TYPE_CHECKING:
    from typing_extensions import Unpack

ASCENTS: dict[str, Callable[[float], Strategy]] = {
    "steepest": Steepest,
    "momentum": Momentum,
    "plain": Plain,
}
"""The ways ``pgd`` can climb, by name."""


def pgd(
    model: Model,
    x: Tensor | Inputs,
    y: Labels | None,
    eps: Eps,
    *,
    steps: int = 40,
    step_size: float | None = None,
    ascent: str = "steepest",
    **options: Unpack[Options],
) -> Attack:
    """Climb the loss inside the set: a step up, then projection (thesis, equation 2.6).

    The first start is x itself, and FGSM's point is tried from there; the others are random. The
    worst point on all paths is kept, and checked to lie in its set.

    Args:
        model: returns logits [N, K], [N, K, *] or one of two, [N] or [N, 1], or anything that
            ``loss`` takes; its mode and gradients are left alone. Attack a certified model as
            ``net.model``.
        x: inputs [N, *], or ``Inputs`` of which ``perturb`` names one.
        y: labels [N] or [N, *], −100 for none, in any form that ``certify`` takes; if None the
            model's own predictions, or nothing where ``success`` decides.
        eps: a number, read as ``LinfBall(eps)``, or a threat model.
        steps: steps per start.
        step_size: fraction of the set's radius per step, 2.5/steps by default; for plain ascent
            what multiplies the gradient, 1 by default.
        ascent: ``"steepest"`` for the set's norm, ``"momentum"`` for steepest ascent along a
            running sum of gradients, ``"plain"`` for the gradient itself.
        options: loss, targets, restarts, early_stop, logits, success, perturb, generator, eot;
            what attacks share, see ``ad.attack.Options``.

    Warns:
        AttackWarning: there is no gradient where it was looked for; points were found outside the
            set.

    Raises:
        InputError: an argument is unusable, see the message; the output does not depend on x.
        ModelError: the model is in training mode, where that matters, or gives two answers to one
            question; ``eot`` averages over those of a random one.
        DomainError: x lies outside the set's domain.
    """
    if ascent == "plain":
        options = {"loss": losses.cross_entropy, **options}
    problem = pose(pgd, model, x, y, eps, options)
    if ascent not in ASCENTS:
        raise InputError(f"ascent={ascent!r} is none; there are {', '.join(ASCENTS)}")
    rate = rate_of(step_size, 1.0 if ascent == "plain" else 2.5 / check_count("steps", steps))
    return ascend(problem, ASCENTS[ascent](rate), steps)


def fgsm(
    model: Model,
    x: Tensor | Inputs,
    y: Labels | None,
    eps: Eps,
    **options: Unpack[Options],
) -> Attack:
    """Go to the point of the set where the linearised loss is largest (Goodfellow et al. 2015).

    For ``LinfBall`` that is x + ε·sign(∇), within the domain. On a linear model no attack does
    better. The arguments are ``pgd``'s, without restarts; where x itself is worse, it is kept.
    """
    return ascend(pose(fgsm, model, x, y, eps, options, ("restarts",)), Steepest(1.0), steps=0)
