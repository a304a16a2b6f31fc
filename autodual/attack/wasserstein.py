"""Attacks that move mass: projected Sinkhorn, and Frank–Wolfe with the conjugate step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autodual.attack.ascent import try_elsewhere
from autodual.attack.finding import Attack, Finding
from autodual.attack.options import Options, pose, rate_of
from autodual.attack.problem import Model
from autodual.attack.steady import examined, settled
from autodual.calls import check_count
from autodual.errors import InputError
from autodual.inputs import Inputs
from autodual.labels import Labels
from autodual.threat import Eps, ThreatModel, Wasserstein, as_threat
from autodual.threat.base import wide

if TYPE_CHECKING:
    from typing_extensions import Unpack

METHODS = "conjugate", "sinkhorn"
UNUSED = "restarts", "early_stop", "success", "generator"


@dataclass(frozen=True, eq=False)
class WassersteinAttack(Attack):
    """What an attack found, and the radius it was given.

    Attributes:
        x, margins, success, score, rejected: as for ``Attack``.
        eps: [N], the ε of the ball each point was sought in.
    """

    eps: Tensor


def wasserstein(
    model: Model,
    x: Tensor | Inputs,
    y: Labels | None,
    eps: Eps,
    *,
    steps: int = 50,
    method: str = "conjugate",
    step_size: float | None = None,
    growth: float = 1.0,
    every: int = 10,
    **options: Unpack[Options],
) -> WassersteinAttack:
    """Climb the loss inside a Wasserstein ball; every point returned was checked to lie in it.

    ``"conjugate"`` steps towards the point of the ball that maximises the loss's slope (thesis,
    section 5.1.6, without entropy): any part of such a step stays inside. ``"sinkhorn"`` follows
    the gradient's sign and projects by Algorithm 8.

    With ``growth`` above 1 the radius grows as in section 5.2: examples that resist get a larger
    ball every so many steps, those fooled are left as they are. ε 0.3, growth 1.1, every 10 and
    200 steps are the thesis's for MNIST.

    Args:
        model: returns logits [N, K]; its mode and gradients are left alone.
        x, y: inputs [N, *], at least 0, and labels [N].
        eps: the radius, or a ``Wasserstein`` ball, the radius of which is where the growth begins.
        steps: steps of the attack.
        method: one of ``"conjugate"`` and ``"sinkhorn"``.
        step_size: how far a step goes: as a share of the way to the maximizer, 2/(t + 2) in step
            t by default; for ``"sinkhorn"`` in units of the input, 0.1 by default.
        growth: factor of ε.
        every: after how many steps.
        options: loss, targets and logits, see ``ad.attack.Options``.

    Raises:
        InputError: x is empty or negative, there is no such method, steps, growth or every is
            below 1, or the model has no gradient.
    """
    steps, every = check_count("steps", steps), check_count("every", every)
    if not growth >= 1:
        raise InputError(f"growth={growth}: give a factor of ε of at least 1")
    if method not in METHODS:
        raise InputError(f"method={method!r} is none; there are {', '.join(METHODS)}")
    if isinstance(eps, ThreatModel | Mapping) and not isinstance(eps, Wasserstein):
        raise InputError(
            f"wasserstein attacks a Wasserstein ball, not {as_threat(eps)}: give "
            "ad.Wasserstein(eps) or its ε, or take ad.attack.pgd, which attacks any set"
        )
    ball = eps if isinstance(eps, Wasserstein) else Wasserstein(eps)
    problem = pose(wasserstein, model, x, y, ball, options, UNUSED)
    x, grows = problem.x.detach(), growth > 1
    ball.check(x)
    radius = ball.radius(x).flatten().expand(len(x))
    problem, here = examined(problem, ball.center(x), gradient=True)
    flat, best, least, sought = here.flat, here.x, -here.score, radius
    for t in range(steps):
        around = ball.with_eps(radius)
        if method == "conjugate":
            share = rate_of(step_size, 2 / (t % every + 2 if grows else t + 2))
            point = here.x + share * (around.maximizer(x, here.gradient) - here.x)
        else:
            point = around.sinkhorn(x, here.x + rate_of(step_size, 0.1) * here.gradient.sign())
        here = problem.read(point, gradient=t + 1 < steps)
        better = (-here.score < least) & ((least > 0) | (not grows))
        best = torch.where(wide(better, point), point, best)
        least, sought = (
            torch.where(better, new, old) for new, old in ((-here.score, least), (radius, sought))
        )
        if grows and bool((least <= 0).all()):
            break
        if grows and (t + 1) % every == 0:
            radius = torch.where(least > 0, radius * growth, radius)
    inside = ball.with_eps(sought).contains(x, best)
    found: Finding = problem.read(torch.where(wide(inside, best), best, x), gradient=False)
    found = settled(problem, try_elsewhere(problem, found, flat))
    rejected = int((~inside).sum())
    inputs = problem.inputs(found.x)
    return WassersteinAttack(*found.parts, rejected, sought, inputs=inputs)
