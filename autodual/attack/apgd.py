"""APGD: projected ascent that needs no step size, alone or towards every class in turn."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from autodual.attack import losses
from autodual.attack.ascent import Memory, Rule, ascend
from autodual.attack.losses import Loss
from autodual.attack.problem import Attack, Model, Problem, Reading, Success, pose, wide
from autodual.attack.rules import ahead
from autodual.errors import InputError
from autodual.threat import ThreatModel


@dataclass(frozen=True)
class Adaptive(Rule):
    """Steepest ascent that sets its own step (Croce and Hein 2020, Algorithm 1).

    z = P(x′ + ηv), x′ ← P(x′ + ¾(z − x′) + ¼(x′ − x″)), with v the set's steepest step and x″ the
    point before x′. η starts at two radii. At each checkpoint it is halved, and the path goes on
    from its best point, if the loss rose in less than ¾ of the steps since the last one, or if
    neither η nor the best loss changed there.
    """

    def step(
        self, problem: Problem, here: Reading, memory: Memory, index: int, steps: int
    ) -> Tensor:
        """Take one step."""
        point, gradient, m = here.x, here.gradient, memory
        if index == 0:
            m.update(best=point, best_loss=here.loss, best_gradient=gradient, before=point)
            m.update(loss=here.loss, checked=here.loss, rises=torch.zeros_like(here.loss))
            m.update(rate=torch.full_like(here.loss, 2), halved=here.loss == here.loss)
        m["rises"] = m["rises"] + (here.loss > m["loss"])
        better = here.loss > m["best_loss"]
        m["best"] = torch.where(wide(better, point), point, m["best"])
        m["best_gradient"] = torch.where(wide(better, point), gradient, m["best_gradient"])
        m["best_loss"], m["loss"] = torch.where(better, here.loss, m["best_loss"]), here.loss
        before, since = m["before"], _since_checkpoint(index, steps)
        if since:
            stuck = ~m["halved"] & (m["best_loss"] <= m["checked"])
            halve = (m["rises"] < 0.75 * since) | stuck
            m["rate"] = torch.where(halve, m["rate"] / 2, m["rate"])
            m.update(checked=m["best_loss"], halved=halve, rises=torch.zeros_like(here.loss))
            back = wide(halve, point)
            point, before = (torch.where(back, m["best"], old) for old in (point, before))
            gradient = torch.where(back, m["best_gradient"], gradient)
        m["before"] = point
        z = ahead(problem, point, gradient, wide(m["rate"], point))
        if index == 0:
            return z
        return problem.threat.extend(problem.x, point.lerp(z, 0.75), 0.25 * (point - before))


def checkpoints(steps: int) -> Iterator[int]:
    """Yield ⌈p_j · steps⌉, where p₁ = 0.22 and p_{j+1} − p_j = max(p_j − p_{j−1} − 0.03, 0.06)."""
    share, gap = 0.22, 0.22
    while share <= 1:
        yield math.ceil(round(share * steps, 6))
        gap = max(gap - 0.03, 0.06)
        share += gap


def _since_checkpoint(index: int, steps: int) -> int:
    """Return how many steps lie between this checkpoint and the last, 0 if this is none."""
    last = 0
    for checkpoint in checkpoints(steps):
        if checkpoint == index:
            return index - last
        last = checkpoint
    return 0


def apgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float | Tensor | ThreatModel,
    *,
    steps: int = 100,
    restarts: int = 1,
    loss: Loss = losses.cross_entropy,
    targets: Tensor | None = None,
    early_stop: bool = False,
    logits: Callable[[Any], Tensor] | None = None,
    success: Success | None = None,
    generator: torch.Generator | None = None,
) -> Attack:
    """Climb the loss with steps that halve where they stop to pay (Croce and Hein 2020).

    ``loss`` must return one number per example: ``losses.cross_entropy``, ``losses.dlr`` (the
    difference of logits ratio), ``losses.margin`` or your own. The other arguments are ``pgd``'s.
    """
    problem = pose(model, x, y, eps, loss, targets, logits, success, generator)
    return ascend(problem, Adaptive(), steps=steps, restarts=restarts, early_stop=early_stop)


def multi_targeted(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float | Tensor | ThreatModel,
    *,
    steps: int = 100,
    restarts: int = 1,
    classes: int | None = None,
    loss: Loss = losses.margin,
    early_stop: bool = False,
    logits: Callable[[Any], Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Attack:
    """Run APGD towards every other class in turn, the likeliest first; any class is a success.

    Args:
        model, x, y, eps, restarts, early_stop, logits, generator: as for ``pgd``.
        steps: steps per start and class.
        classes: how many classes to try; all others by default.
        loss: loss(output, y, targets), one number per example: ``losses.margin`` or
            ``losses.dlr`` (which needs 4 classes), ``losses.cross_entropy`` or your own.
    """
    problem = pose(model, x, y, eps, loss, None, logits, None, generator)
    with torch.no_grad():
        z = replace(problem, loss=losses.margin).read(problem.x, gradient=False).margins
    ranked = z.scatter(1, problem.y.unsqueeze(1), torch.inf).argsort(1)[:, : z.shape[1] - 1]
    if classes is not None and classes < 1:
        raise InputError(f"there is no attack towards classes={classes}")
    aims = ranked[:, :classes].unbind(1)
    return ascend(
        problem, Adaptive(), steps=steps, restarts=restarts, early_stop=early_stop, aims=aims
    )
