"""Attacks on unions of sets (thesis, section 5.3)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autodual.attack import losses
from autodual.attack.ascent import Memory, Rule, ascend
from autodual.attack.losses import Loss
from autodual.attack.pgd import pgd
from autodual.attack.problem import Attack, Finding, Model, Problem, Reading, Success, pose, unit
from autodual.threat import ThreatModel


@dataclass(frozen=True)
class MultiSteepest(Rule):
    """δ ← argmax {loss(x + δ_p) : p}, δ_p = P_p(δ + α v_p), over the members p (equation 5.33).

    ``rate`` is α, in radii of each member. With ``average``, every member takes the mean of all
    steps v_p.
    """

    rate: float
    average: bool = False

    def step(
        self, problem: Problem, here: Reading, memory: Memory, index: int, steps: int
    ) -> Tensor:
        """Take the member's step that the loss likes best."""
        x, members, slope = problem.x, problem.threat.members, unit(here.gradient)
        moves = [m.steepest(x, slope, problem.generator, here.x) for m in members]
        if self.average:
            moves = [torch.stack(moves).mean(0)] * len(members)
        pairs = zip(members, moves, strict=True)
        points = [m.project(x, here.x + self.rate * move) for m, move in pairs]
        values = torch.stack([problem.read(point, gradient=False).loss for point in points])
        chosen = values.nan_to_num(nan=-torch.inf).argmax(0)
        return torch.stack(points)[chosen, torch.arange(len(x), device=x.device)]


def msd(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float | Tensor | ThreatModel,
    *,
    steps: int = 40,
    restarts: int = 1,
    step_size: float | None = None,
    average: bool = False,
    loss: Loss = losses.cross_entropy,
    targets: Tensor | None = None,
    early_stop: bool = False,
    logits: Callable[[Any], Tensor] | None = None,
    success: Success | None = None,
    generator: torch.Generator | None = None,
) -> Attack:
    """Attack a union by multi steepest descent (thesis, Algorithm 9).

    Each step asks every member for its projected steepest step and goes where the loss is
    highest: one pass forward and back, and one forward per member.

    Args:
        eps: a ``Union``.
        step_size: fraction of each member's radius per step, 2.5/steps by default.
        average: all members step in the mean of their directions.
        model, x, y, steps, restarts, loss, targets, early_stop, logits, success, generator: as
            for ``pgd``, with one loss per example.
    """
    problem = pose(model, x, y, eps, loss, targets, logits, success, generator)
    rule = MultiSteepest(2.5 / max(steps, 1) if step_size is None else step_size, average)
    return ascend(problem, rule, steps=steps, restarts=restarts, early_stop=early_stop)


def worst_of(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float | Tensor | ThreatModel,
    *,
    attacks: Sequence[Callable[..., Attack]] = (pgd,),
    targets: Tensor | None = None,
    early_stop: bool = False,
    **options: Any,
) -> Attack:
    """Run each attack on each member of a union and keep the worst (thesis, equation 5.31).

    Args:
        eps: a ``Union``; any other set is its own only member.
        attacks: functions of this package, or partials of them.
        early_stop: leave an example at its first success, for all attacks.
        options: more keyword arguments for all of them.
        model, x, y, targets: as for ``pgd``.
    """
    problem = pose(model, x, y, eps, losses.margin, targets, None, None, None)
    worst: Finding | None = None
    rejected = 0
    for member, attack in itertools.product(problem.threat.members, attacks):
        index = torch.arange(len(x), device=x.device)
        if worst is not None and early_stop:
            index = index[~worst.success]
        if len(index) == 0:
            break
        if targets is not None:
            options["targets"] = targets[index]
        there = x[index], y[index], member.select(x, index)
        found = attack(model, *there, early_stop=early_stop, **options)
        rejected += found.rejected
        worst = found if worst is None else worst.put(index, worst.select(index).worse_of(found))
    assert worst is not None
    return Attack(*worst.parts, rejected)
