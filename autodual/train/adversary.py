"""Points to train at: found quickly, and promised to nobody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
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
from autodual.threat.base import wide

UNIONS = "worst", "average", "msd"
"""How the members of a union are attacked."""


HALVES = torch.bfloat16, torch.float16
"""What an attack may compute in."""


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
        dtype: ``torch.bfloat16`` or ``torch.float16`` for the model's passes under autocast. What
            is found is less exact, and a point of the set as any other; bounds refuse autocast.

    Raises:
        InputError: an argument is none of these.
    """

    steps: int = 10
    step_size: float | None = None
    start: str = "random"
    union: str = "worst"
    loss: losses.Loss = losses.log_odds
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        check_count("steps", self.steps, 0)
        if self.start not in ("random", "x"):
            raise InputError(f'start={self.start!r}: give "random" or "x"')
        if self.union not in UNIONS:
            raise InputError(f"union={self.union!r} is none of {', '.join(UNIONS)}")
        if self.step_size is not None and not 0 < self.step_size < float("inf"):
            raise InputError(f"step_size={self.step_size}: give a finite number above 0")
        if self.dtype not in (None, *HALVES):
            raise InputError(f"dtype={self.dtype}: give torch.bfloat16, torch.float16 or None")

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
        half = torch.autocast(x.device.type, self.dtype) if self.dtype else nullcontext()
        with evaluating(model), torch.no_grad(), half:
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
        point = self._start(threat, problem.x)
        for i in range(self.steps):
            here = problem.read(point, gradient=True)
            point = strategy.step(Path(problem, here, memory, i, self.steps))
        return point

    def _start(self, threat: ThreatModel, x: Tensor) -> Tensor:
        """Return where a path begins."""
        return threat.random_start(x) if self.start == "random" else threat.project(x, x)


@dataclass(frozen=True)
class Growing(Adversary):
    """Ascent in a set that grows until the model errs: no one ε is chosen (thesis, 5.2.3).

    The net's set is the largest of them. An example's path ends at the first point that is not
    classified as y, or with the last step.

    Args:
        smallest: by which factor the net's set is scaled for the first steps; the thesis's for
            Wasserstein balls on MNIST.
        factor, every: it grows by this after so many steps, to the whole set at most.
    """

    steps: int = 50
    step_size: float | None = 0.5
    smallest: float = 0.1 / 2.1
    factor: float = 1.4
    every: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("every", self.every)
        if not 0 < self.smallest <= 1 or not self.factor >= 1:
            raise InputError(
                f"smallest={self.smallest}, factor={self.factor}: give one in (0, 1], one from 1 on"
            )

    def _climb(self, problem: Problem, threat: ThreatModel, strategy: Strategy) -> Tensor:
        """Return where a path ends."""
        found, share = self._start(threat.scaled(self.smallest), problem.x), self.smallest
        going = torch.arange(len(found), device=found.device)
        for first in range(0, self.steps, self.every):
            some = replace(problem, threat=threat.scaled(share)).select(going)
            inside = some.threat.fixed(some.x)
            some, memory, point = replace(some, threat=inside), Memory(), found[going]
            for i in range(first, min(first + self.every, self.steps)):
                here = some.read(point, gradient=True)
                moved = strategy.step(Path(some, here, memory, i, self.steps))
                point = torch.where(wide(here.done, point), point, moved)
            found = found.index_copy(0, going, point)
            going = going[~here.done]
            share = min(1.0, share * self.factor)
            if len(going) == 0:
                break
        return found


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
