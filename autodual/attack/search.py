"""Search without direction: random points of any set, corners of a box."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autodual.attack import losses
from autodual.attack.ascent import Memory, Rule, ascend
from autodual.attack.problem import Attack, Model, Problem, Reading, pose
from autodual.errors import InputError
from autodual.threat import ThreatModel


@dataclass(frozen=True)
class Anywhere(Rule):
    """Try a random point of each set."""

    gradients = False

    def step(
        self, problem: Problem, here: Reading, memory: Memory, index: int, steps: int
    ) -> Tensor:
        """Draw the next point."""
        return problem.threat.random_start(problem.x, problem.generator)


@dataclass(frozen=True)
class Corners(Rule):
    """Try the corners of each box: one after the other if there are few, else at random."""

    gradients = False

    def step(
        self, problem: Problem, here: Reading, memory: Memory, index: int, steps: int
    ) -> Tensor:
        """Choose the next corner."""
        box, x = problem.threat.interval(problem.x), problem.x
        entries = x[0].numel()
        if entries < 32 and 2**entries <= steps:
            digits = torch.arange(entries, device=x.device)
            up = ((index >> digits) % 2 == 1).reshape(1, *x.shape[1:])
        else:
            up = torch.randint(2, x.shape, device=x.device, generator=problem.generator).bool()
        return problem.threat.project(x, torch.where(up, box.upper, box.lower))


def search(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float | Tensor | ThreatModel,
    *,
    steps: int = 100,
    corners: bool = False,
    targets: Tensor | None = None,
    early_stop: bool = False,
    logits: Callable[[Any], Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Attack:
    """Try ``steps`` random points of each set, or corners of each box; needs scores only.

    Args:
        corners: try corners, all of them where ``steps`` suffice. Boxes only.
        model, x, y, eps, targets, early_stop, logits, generator: as for ``pgd``.

    Raises:
        InputError: as for ``pgd``; the set has no corners.
    """
    problem = pose(model, x, y, eps, losses.margin, targets, logits, None, generator)
    if corners and problem.threat.weights(problem.x) is None:
        raise InputError(f"{problem.threat} is no box: it has no corners to try")
    rule = Corners() if corners else Anywhere()
    return ascend(problem, rule, steps=steps, early_stop=early_stop)
