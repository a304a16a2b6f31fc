"""Points to train at: found quickly, and promised to nobody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from autodual.attack import losses
from autodual.attack.ascent import Memory, Path, Strategy
from autodual.attack.problem import Problem
from autodual.attack.strategies import Steepest
from autodual.attack.union import MultiSteepest
from autodual.calls import check_count
from autodual.errors import InputError
from autodual.threat import ThreatModel

UNIONS = "worst", "average", "msd"
"""How the members of a union are attacked."""


@dataclass(frozen=True)
class Adversary:
    """Steepest ascent inside the set, for training: one path, and its last point.

    Args:
        steps: how many; one, from a random start, is fast adversarial training (thesis, Algorithm
            7), several are Algorithm 5. 0 is the start itself.
        step_size: fraction of the set's radius per step; 2.5/steps if not given, and 1.25 for one.
        start: ``"random"`` inside the set, or ``"x"``.
        union: of a union's members the ``"worst"`` point for each example (equation 5.31), points
            of all for the ``"average"`` of their losses (5.32), or ``"msd"``, one path whose steps
            are the best member's (Algorithm 9).
        loss: what is climbed, as for ``ad.attack.pgd``.

    Raises:
        InputError: an argument is none of these.
    """

    steps: int = 10
    step_size: float | None = None
    start: str = "random"
    union: str = "worst"
    loss: losses.Loss = losses.log_odds

    def __post_init__(self) -> None:
        check_count("steps", self.steps, 0)
        if self.start not in ("random", "x"):
            raise InputError(f'start={self.start!r}: give "random" or "x"')
        if self.union not in UNIONS:
            raise InputError(f"union={self.union!r} is none of {', '.join(UNIONS)}")
        if self.step_size is not None and not 0 < self.step_size < float("inf"):
            raise InputError(f"step_size={self.step_size}: give a finite number above 0")

    @property
    def rate(self) -> float:
        """The length of a step, in radii of the set."""
        if self.step_size is not None:
            return self.step_size
        return 1.25 if self.steps == 1 else 2.5 / max(1, self.steps)

    def points(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel
    ) -> tuple[Tensor, ...]:
        """Return points [N, *] of the set, one batch, or one for each member of an average.

        The model is asked in evaluation mode.
        """
        with evaluating(model), torch.no_grad():
            problem = Problem(model, threat, x, y, self.loss)
            if len(threat.members) == 1:
                return (self._climb(problem, threat, Steepest(self.rate)),)
            if self.union == "msd":
                return (self._climb(problem, threat, MultiSteepest(self.rate)),)
            ends = tuple(self._climb(problem, m, Steepest(self.rate)) for m in threat.members)
            return ends if self.union == "average" else (_worst(problem, ends),)

    def _climb(self, problem: Problem, threat: ThreatModel, strategy: Strategy) -> Tensor:
        """Return where a path inside a set ends."""
        problem, memory = replace(problem, threat=threat.fixed(problem.x)), Memory()
        x, random = problem.x, self.start == "random"
        point = threat.random_start(x) if random else threat.project(x, x)
        for i in range(self.steps):
            here = problem.read(point, gradient=True)
            point = strategy.step(Path(problem, here, memory, i, self.steps))
        return point


def _worst(problem: Problem, ends: tuple[Tensor, ...]) -> Tensor:
    """Return for each example the point of several whose loss is highest."""
    found = torch.stack([problem.read(end, gradient=False).loss for end in ends])
    chosen = found.nan_to_num(nan=-torch.inf).argmax(0)
    return torch.stack(ends)[chosen, torch.arange(len(chosen), device=chosen.device)]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode while the block runs."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
