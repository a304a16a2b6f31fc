"""Minimum-norm attacks: how near the nearest point lies at which a model is wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autodual.attack import losses
from autodual.attack.apgd import Adaptive
from autodual.attack.ascent import ascend, checked
from autodual.attack.finding import Attack, Finding, Reading
from autodual.attack.options import Options, pose
from autodual.attack.problem import Model, Problem, unit
from autodual.attack.steady import examined, settled
from autodual.calls import check_count
from autodual.errors import InputError
from autodual.inputs import Inputs
from autodual.labels import Labels
from autodual.threat import Ball, ThreatModel, Wasserstein
from autodual.threat.base import wide

if TYPE_CHECKING:
    from typing_extensions import Unpack

RATES = 1.0, 0.01
"""How far a step goes, in radii: at first, and at last."""

GROWTHS = 0.2, 0.001
"""By which part the radius grows or shrinks from step to step: at first, and at last."""

BEYOND = 1e-4
"""How much farther than to the boundary the first step goes, so that rounding does not undo it."""

CLASSES = 9
"""How many classes, the likeliest, are looked at for the first step."""

HALVINGS = 14
"""How often the way back to x is halved."""


@dataclass(frozen=True, eq=False)
class MinimumNorm(Attack):
    """The nearest points found; see ``Attack``.

    Attributes:
        x, margins, success, score, rejected: as for ``Attack``.
        eps: [N], how far each point lies from x, in the ball's norm; infinite where none fools
            the model. The true minimum is at most that.
    """

    eps: Tensor


def minimum_norm(
    model: Model,
    x: Tensor | Inputs,
    y: Labels | None,
    eps: float | Tensor | ThreatModel,
    *,
    steps: int = 100,
    **options: Unpack[Options],
) -> MinimumNorm:
    """Find for each example the smallest ε at which a point fools the model, and the point.

    Two paths climb the loss in a ball that shrinks below each success and grows again where there
    is none (FMN, Pintor et al. 2021). One starts where the linearised model changes its class, the
    nearest of nine, the other at a point that APGD finds in the whole ball. On linear models the
    first is the answer.

    Args:
        model, x, y: as for ``pgd``.
        eps: ``LinfBall``, ``L2Ball`` or ``L1Ball``, the largest to look in, and the domain; a
            number is read as ``LinfBall``.
        steps: steps per path.
        options: see ``ad.attack.Options``, without restarts and early_stop, and with one loss
            per example.

    Raises:
        InputError: as for ``pgd``; the set is no ball of a norm.
    """
    problem = pose(minimum_norm, model, x, y, eps, options, ("restarts", "early_stop"))
    if not fits(problem.threat):
        raise InputError(
            f"minimum_norm measures in LinfBall, L2Ball or L1Ball, not {problem.threat}"
        )
    steps = check_count("steps", steps)
    with torch.inference_mode(False), torch.no_grad():
        problem = problem.detached()
        problem.threat.check(problem.x)
        origin = problem.threat.project(problem.x, problem.x)
        found = checked(problem, origin, nearest(problem, origin, steps))
        far = problem.threat.distance(problem.x, found.x)
        return MinimumNorm(*found.parts, found.rejected, far.where(found.done, torch.inf))


def fits(threat: ThreatModel) -> bool:
    """Return whether distances in the set's own norm are there, and cheap."""
    return isinstance(threat, Ball) and not isinstance(threat, Wasserstein)


def nearest(problem: Problem, origin: Tensor, steps: int) -> Finding:
    """Return the nearest point found for each example; where none is, the worst.

    Args:
        problem: in the ball to look in.
        origin: x within the domain.
        steps: per path.
    """
    problem, here = examined(problem, origin, gradient=True)
    radius, point = _first_step(problem, here)
    one = _walk(problem, here, point, radius, steps)
    far = ascend(replace(problem, early_stop=True, restarts=1), Adaptive(), max(steps // 3, 1))
    back = _bisect(problem, far, HALVINGS // 2)
    two = _walk(problem, back, back.x, _eps(problem, back), steps)
    rows = _closer(problem, two, one).nonzero().squeeze(1)
    best = one.put(rows, two.select(rows))
    return settled(problem, _bisect(problem, best, HALVINGS))


def _walk(problem: Problem, best: Finding, point: Tensor, radius: Tensor, steps: int) -> Finding:
    """Climb from ``point`` [N, *] in balls of about the radius [N] that successes still need."""
    x, ball = problem.x, problem.threat
    assert isinstance(ball, Ball)
    most = ball.radius(x).flatten().expand(len(x))
    for i in range(steps + 1):
        here = problem.read(point, gradient=i < steps)
        rows = _closer(problem, here, best).nonzero().squeeze(1)
        best = best.put(rows, here.select(rows))
        if i == steps:
            break
        growth, least = _between(GROWTHS, i / steps), _eps(problem, best)
        inner = torch.minimum(radius, least) * (1 - growth)
        outer = torch.minimum(radius * (1 + growth), least * (1 - GROWTHS[1]))
        radius = torch.where(here.done, inner, torch.minimum(outer, most))
        rate = _between(RATES, i / steps)
        point = _sized(ball, radius, x).advance(x, point, here.gradient, rate, problem.generator)
    return best


def _eps(problem: Problem, found: Finding) -> Tensor:
    """Return how far from x each success lies, [N], and 2ε for the others."""
    far = problem.threat.distance(problem.x, found.x)
    assert isinstance(problem.threat, Ball)
    return torch.where(found.done, far, 2 * problem.threat.radius(problem.x).flatten())


def _closer(problem: Problem, one: Finding, two: Finding) -> Tensor:
    """Return [N] bool: one succeeds and lies nearer than two, or neither does and it is worse."""
    nearer = one.done & (_eps(problem, one) < _eps(problem, two))
    return nearer | (~one.done & ~two.done & (one.score > two.score))


def _bisect(problem: Problem, found: Finding, halvings: int) -> Finding:
    """Go back on the straight line to x as far as the model stays wrong."""
    start, low, high = found.x, torch.zeros_like(found.score), torch.ones_like(found.score)
    x = problem.threat.project(problem.x, problem.x)
    for _ in range(halvings):
        middle = (low + high) / 2
        here = problem.read(x + wide(middle, x) * (start - x), gradient=False)
        rows = (here.done & found.done).nonzero().squeeze(1)
        found = found.put(rows, here.select(rows))
        low, high = torch.where(here.done, low, middle), torch.where(here.done, middle, high)
    return found


def _first_step(problem: Problem, here: Reading) -> tuple[Tensor, Tensor]:
    """Return the radius [N] in which the linearised model changes its class, and where, [N, *]."""
    ball, x = problem.threat, problem.x
    assert isinstance(ball, Ball)
    radius = ball.radius(x).flatten().expand(len(x))
    slope, best = unit(here.gradient), torch.full_like(radius, torch.inf)
    for aim in _aims(problem, here):
        there = replace(problem, loss=losses.margin, targets=aim).read(here.x, gradient=True)
        size = there.gradient.flatten(1).abs().amax(1)
        direction = unit(there.gradient)
        needed = -there.loss / size.clamp(min=torch.finfo(x.dtype).tiny)
        needed = needed.nan_to_num(nan=torch.inf)  # of logits that overflow: as far as can be
        reach = _radius(ball, x, here.x, direction, needed)
        slope = torch.where(wide(reach < best, x), direction, slope)
        best = torch.minimum(best, reach)
    radius = torch.minimum(best * (1 + BEYOND), radius)
    return radius, _sized(ball, radius, x).maximizer(x, slope)


def _aims(problem: Problem, here: Reading) -> tuple[Tensor, ...]:
    """Return the classes to step towards, [N] each, the likeliest first; none where none is one."""
    if problem.labels is None or problem.labels.dim() > 1 or here.margins.shape[1] == 0:
        return ()
    if problem.targets is not None:
        return (problem.targets,)
    y = problem.labels.clamp(min=0).unsqueeze(1)
    ranked = here.margins.scatter(1, y, torch.inf).argsort(1)
    return ranked[:, : min(CLASSES, ranked.shape[1] - 1)].unbind(1)


def _radius(ball: Ball, x: Tensor, origin: Tensor, direction: Tensor, needed: Tensor) -> Tensor:
    """Return the smallest radius [N] in which directionᵀ(x′ − origin) reaches ``needed``, or more.

    What is reached is concave in the radius, and 0 at 0: scaling by what is lacking approaches it
    from below, at once where no domain cuts the ball.
    """
    nu, most = direction.unsqueeze(1), ball.radius(x).flatten().expand(len(x))
    start = (origin * direction).flatten(1).sum(1)
    radius = most * 2**-10
    for _ in range(20):
        reached = _sized(ball, radius, x).support(x, nu).squeeze(1) - start
        grown = radius * (needed / reached.clamp(min=torch.finfo(x.dtype).tiny)).clamp(0, 1e4)
        if bool((grown - radius).abs().le(1e-6 * radius).all()):
            break
        radius = torch.minimum(grown, 2 * most)
    return radius


def _sized(ball: Ball, radius: Tensor, x: Tensor) -> Ball:
    return ball.with_eps(wide(radius, x))


def _between(ends: tuple[float, float], share: float) -> float:
    """Return a number that falls from the first end to the last like a cosine."""
    return ends[1] + (ends[0] - ends[1]) * (1 + math.cos(math.pi * share)) / 2
