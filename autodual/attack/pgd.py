"""Projected gradient descent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autodual.errors import InputError
from autodual.threat import ThreatModel, as_threat


@dataclass(frozen=True, eq=False)
class Attack:
    """What an attack found.

    Attributes:
        x: [N, *], the worst point found in each example's set.
        margins: [N, K], z_y − z_k there: an upper bound on what any bound can guarantee.
        success: [N] bool, the model gives this point another class than y.
    """

    x: Tensor
    margins: Tensor
    success: Tensor


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float | Tensor | ThreatModel,
    *,
    steps: int = 40,
    restarts: int = 1,
    step_size: float | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    generator: torch.Generator | None = None,
) -> Attack:
    """Climb the loss inside the set: steepest ascent for its norm, then projection.

    The first start is x itself, the others are random; the best point on all paths is kept.

    Args:
        model: returns logits [N, K]; its mode and gradients are left alone.
        x, y: inputs [N, *] and labels [N].
        eps: a number, read as ``LinfBall(eps)``, or a threat model.
        steps: steps per start.
        restarts: number of starts.
        step_size: fraction of the set's radius per step; 2.5/steps by default.
        loss: loss(logits, y), one number per example or reduced to a sum or mean.
        generator: randomness of the starts, the caller's to seed.

    Raises:
        InputError: x is empty, steps or restarts is not positive, or there is no gradient.
    """
    if x.numel() == 0 or steps < 1 or restarts < 1:
        raise InputError("an attack needs a non-empty batch, and steps and restarts of at least 1")
    threat = as_threat(eps)
    threat.check(x)
    rate = 2.5 / steps if step_size is None else step_size
    x = x.detach()
    best, gap, margins = x.clone(), *_margins(model, x, y)
    for start in range(restarts):
        begin = x if start == 0 else threat.random_start(x, generator)
        point = threat.project(x, begin)
        for _ in range(steps):
            slope = _gradient(model, point, y, loss)
            point = threat.project(x, point + rate * threat.steepest(x, slope)).detach()
            new_gap, new_margins = _margins(model, point, y)
            better = new_gap < gap
            best = torch.where(better.reshape(-1, *[1] * (x.dim() - 1)), point, best)
            margins = torch.where(better.unsqueeze(1), new_margins, margins)
            gap = torch.where(better, new_gap, gap)
    return Attack(best, margins, gap <= 0)


def _gradient(
    model: nn.Module, point: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    point = point.requires_grad_()
    with torch.enable_grad():
        value = loss(model(point), y).sum()
    (gradient,) = torch.autograd.grad(value, point, allow_unused=True)
    if gradient is None:
        raise InputError("the model's output has no gradient in x: PGD has nothing to climb")
    return gradient


@torch.no_grad()
def _margins(model: nn.Module, point: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smallest margin [N] over the other classes, and all margins [N, K]."""
    logits = model(point)
    margins = logits.gather(1, y.unsqueeze(1)) - logits
    others = margins.scatter(1, y.unsqueeze(1), torch.inf)
    return others.amin(1), margins
