"""APGD: projected ascent that needs no step size, alone or towards every class in turn."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autodual.attack import losses
from autodual.attack.ascent import Path, Strategy, ascend
from autodual.attack.finding import Attack
from autodual.attack.options import Options, pose
from autodual.attack.problem import Model, Problem
from autodual.attack.strategies import ahead
from autodual.calls import check_count
from autodual.inputs import Inputs
from autodual.labels import Labels
from autodual.threat import Eps
from autodual.threat.base import wide

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True)
class Adaptive(Strategy):
    """Steepest ascent that sets its own step (Croce and Hein 2020, Algorithm 1).

    z = P(x′ + ηv), x′ ← P(x′ + ¾(z − x′) + ¼(x′ − x″)), with v the set's steepest step and x″ the
    point before x′. η starts at two radii. At each checkpoint it is halved, and the path goes on
    from its best point, if the loss rose in less than ¾ of the steps since the last one, or if
    neither η nor the best loss changed there. Between equal losses (cross-entropy rounds to 0 where
    a model is sure) the score decides.
    """

    def step(self, path: Path) -> Tensor:
        """Take one step."""
        point, gradient, m = path.point, path.gradient, path.memory
        level = torch.stack([path.loss, path.here.score], dim=1)
        if path.index == 0:
            m.update(best=point, top=level, slope=gradient, before=point, level=level)
            m.update(checked=level, rises=torch.zeros_like(path.loss))
            m.update(rate=torch.full_like(path.loss, 2), halved=path.loss == path.loss)
        m["rises"] = m["rises"] + _above(level, m["level"])
        better = _above(level, m["top"])
        m["best"] = torch.where(wide(better, point), point, m["best"])
        m["slope"] = torch.where(wide(better, point), gradient, m["slope"])
        m["top"] = torch.where(better.unsqueeze(1), level, m["top"])
        m["level"] = level
        before, since = m["before"], _since_checkpoint(path.index, path.steps)
        if since:
            stuck = ~m["halved"] & ~_above(m["top"], m["checked"])
            halve = (m["rises"] < 0.75 * since) | stuck
            m["rate"] = torch.where(halve, m["rate"] / 2, m["rate"])
            m.update(checked=m["top"], halved=halve, rises=torch.zeros_like(path.loss))
            back = wide(halve, point)
            point, before = (torch.where(back, m["best"], old) for old in (point, before))
            gradient = torch.where(back, m["slope"], gradient)
        m["before"] = point
        z = ahead(path, point, gradient, wide(m["rate"], point))
        if path.index == 0:
            return z
        return path.threat.extend(path.x, point.lerp(z, 0.75), 0.25 * (point - before))


def _above(one: Tensor, other: Tensor) -> Tensor:
    """Return [N] bool: the loss is larger, or the loss equal and the score larger; [N, 2] each."""
    loss, score = (one > other).unbind(1)
    return loss | ((one == other)[:, 0] & score)


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
    x: Tensor | Inputs,
    y: Labels | None,
    eps: Eps,
    *,
    steps: int = 100,
    **options: Unpack[Options],
) -> Attack:
    """Climb the loss with steps that halve where they stop to pay (Croce and Hein 2020).

    ``loss`` must return one number per example: ``losses.cross_entropy``, ``losses.dlr`` (the
    difference of logits ratio), ``losses.margin`` or your own. The other arguments are ``pgd``'s.
    """
    return ascend(pose(apgd, model, x, y, eps, options), Adaptive(), steps)


def multi_targeted(
    model: Model,
    x: Tensor | Inputs,
    y: Labels | None,
    eps: Eps,
    *,
    steps: int = 100,
    classes: int | None = None,
    **options: Unpack[Options],
) -> Attack:
    """Run APGD towards every other class in turn, the likeliest first; any class is a success.

    Args:
        model, x, y, eps: as for ``pgd``.
        steps: steps per start and class.
        classes: how many classes to try; all others by default.
        options: see ``ad.attack.Options``, without targets and success. The loss is
            loss(output, y, targets), one number per example: ``losses.margin`` by default,
            ``losses.dlr`` (which needs 4 classes), ``losses.cross_entropy`` or your own.
    """
    shared: Options = {"loss": losses.margin, **options}
    problem = pose(multi_targeted, model, x, y, eps, shared, ("targets", "success"))
    if classes is not None:
        check_count("classes", classes)
    return towards_each(problem, steps, classes)


def towards_each(problem: Problem, steps: int, classes: int | None) -> Attack:
    """Run APGD towards every other class in turn, or so many of the likeliest."""
    with torch.no_grad():
        ranking = replace(problem, loss=losses.margin, beneath=True)
        here = ranking.read(problem.x, gradient=False)
    problem, z = problem.knowing(here.classes), here.margins
    assert problem.labels is not None
    y = problem.labels.clamp(min=0).unsqueeze(1)
    ranked = z.scatter(1, y, torch.inf).argsort(1)[:, : z.shape[1] - 1]
    return ascend(problem, Adaptive(), steps, aims=ranked[:, :classes].unbind(1))
