"""Attacks on unions of sets (thesis, section 5.3)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from autodual.attack.ascent import Path, Strategy, ascend
from autodual.attack.call import Call
from autodual.attack.finding import Attack, Finding
from autodual.attack.options import Options, pose, rate_of
from autodual.attack.pgd import pgd
from autodual.attack.problem import Model, unit
from autodual.calls import check_count
from autodual.inputs import Inputs
from autodual.labels import Labels
from autodual.threat import Eps

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True)
class MultiSteepest(Strategy):
    """δ ← argmax {loss(x + δ_p) : p}, δ_p = P_p(δ + α v_p), over the members p (equation 5.33).

    ``rate`` is α, in radii of each member. With ``average``, every member takes the mean of all
    steps v_p.
    """

    rate: float
    average: bool = False

    def step(self, path: Path) -> Tensor:
        """Take the member's step that the loss likes best."""
        x, point, members, slope = path.x, path.point, path.threat.members, unit(path.gradient)
        moves = [m.steepest(x, slope, path.generator, point) for m in members]
        if self.average:
            moves = [torch.stack(moves).mean(0)] * len(members)
        pairs = zip(members, moves, strict=True)
        points = [m.project(x, point + self.rate * move) for m, move in pairs]
        values = torch.stack([path.problem.read(end, gradient=False).loss for end in points])
        chosen = values.nan_to_num(nan=-torch.inf).argmax(0)
        return torch.stack(points)[chosen, torch.arange(len(x), device=x.device)]


def msd(
    model: Model,
    x: Tensor | Inputs,
    y: Labels | None,
    eps: Eps,
    *,
    steps: int = 40,
    step_size: float | None = None,
    average: bool = False,
    **options: Unpack[Options],
) -> Attack:
    """Attack a union by multi steepest descent (thesis, Algorithm 9).

    Each step asks every member for its projected steepest step and goes where the loss is
    highest: one pass forward and back, and one forward per member.

    Args:
        model, x, y, steps: as for ``pgd``.
        eps: a ``Union``.
        step_size: fraction of each member's radius per step, 2.5/steps by default.
        average: all members step in the mean of their directions.
        options: see ``ad.attack.Options``, with one loss per example.
    """
    problem = pose(msd, model, x, y, eps, options)
    rate = rate_of(step_size, 2.5 / max(check_count("steps", steps, 0), 1))
    return ascend(problem, MultiSteepest(rate, average), steps)


def worst_of(
    model: Model,
    x: Tensor | Inputs,
    y: Labels | None,
    eps: Eps,
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
        options: more keyword arguments for all of them, ``ad.attack.Options`` among them.
        model, x, y, targets: as for ``pgd``.
    """
    shared = {k: v for k, v in options.items() if k in Options.__annotations__}
    problem = pose(worst_of, model, x, y, eps, {"targets": targets, **shared})  # type: ignore[typeddict-item]
    given, several = x, isinstance(problem.model, Call)
    x, y, targets = problem.x, problem.y, problem.targets
    worst: Finding | None = None
    rejected = 0
    for member, attack in itertools.product(problem.threat.members, attacks):
        index = torch.arange(len(x), device=x.device)
        if worst is not None and early_stop:
            if bool(worst.done.all()):
                break
            index = index if several else index[~worst.done]
        if targets is not None:
            options["targets"] = targets[index]
        there = given if several else x[index], None if y is None else y[index]
        around = member.select(x, index)
        found = attack(model, *there, around, early_stop=early_stop, **options)
        rejected += found.rejected
        worst = found if worst is None else worst.put(index, worst.select(index).worse_of(found))
    assert worst is not None
    return Attack(*worst.parts, rejected, inputs=problem.inputs(worst.x))
