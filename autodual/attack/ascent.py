"""The loop of every attack: a rule says where to look next, the worst point found is kept."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from autodual.attack.problem import Attack, Problem, Reading, unit
from autodual.errors import InputError

Memory = dict[str, Tensor]
"""What a rule remembers: tensors with one row per example that is still under attack."""


class Rule(ABC):
    """How a path goes on."""

    gradients: bool = True
    """Whether the rule looks at gradients."""

    @abstractmethod
    def step(
        self, problem: Problem, here: Reading, memory: Memory, index: int, steps: int
    ) -> Tensor:
        """Return where to look next, a point of each example's set.

        Args:
            problem: the examples still under attack.
            here: what the model says where the path stands; at ``index`` 0, its start.
            memory: the rule's own, empty at the start of each path.
            index, steps: this is step ``index`` of ``steps``.
        """


def ascend(
    problem: Problem,
    rule: Rule,
    *,
    steps: int,
    restarts: int = 1,
    early_stop: bool = False,
    aims: Sequence[Tensor | None] = (None,),
) -> Attack:
    """Follow ``restarts`` paths by the rule and keep the worst point on any of them.

    The first path starts at x. With gradients it first tries the point where the linearised loss
    is largest over the set, FGSM's: on a linear model that is the answer. The other paths start
    at random. With ``aims``, classes [N] to climb towards, all of this happens for each.

    Every result is checked to lie in its set. One that does not is thrown away, with a warning.
    """
    if restarts < 1:
        raise InputError(f"an attack needs at least one path, not restarts={restarts}")
    with torch.inference_mode(False), torch.no_grad():
        problem = replace(problem, x=problem.x.detach().clone(), y=problem.y.clone())
        problem.threat.check(problem.x)
        origin = problem.threat.project(problem.x, problem.x)
        best, fixed = _Best(len(problem.x), problem.x.device), problem.fixed()
        for aim in aims:
            aimed = fixed if aim is None else replace(fixed, targets=aim.clone())
            for start in range(restarts):
                fresh = start > 0
                begin = aimed.threat.random_start(aimed.x, aimed.generator) if fresh else origin
                _climb(aimed, rule, begin, best, steps, early_stop, leaps=not fresh)
        return _checked(problem, origin, best.found)


class _Best:
    """The worst point found for each example so far."""

    def __init__(self, count: int, device: torch.device) -> None:
        self.all = torch.arange(count, device=device)
        self._found: Reading | None = None

    @property
    def found(self) -> Reading:
        """The reading at the worst points."""
        assert self._found is not None
        return self._found

    @property
    def open(self) -> Tensor:
        """The examples that have not succeeded."""
        return self.all if self._found is None else self.all[~self._found.success]

    def update(self, index: Tensor, here: Reading) -> None:
        """Keep what is worse in ``here``, the reading of the examples at ``index``."""
        if self._found is None:
            self._found = here.select(self.all)
        else:
            self._found.keep_worse(index, here)


def _climb(
    problem: Problem,
    rule: Rule,
    begin: Tensor,
    best: _Best,
    steps: int,
    early_stop: bool,
    leaps: bool,
) -> None:
    """Follow one path from ``begin``; examples that succeeded are left behind if so asked."""
    index, point, memory = best.all, begin, Memory()
    if early_stop and len(best.open) < len(index):
        index = best.open
        if len(index) == 0:
            return
        problem, point = problem.select(index), begin[index]
    for i in range(steps + 1):
        leap = leaps and i == 0 and rule.gradients
        here = problem.read(point, gradient=leap or (rule.gradients and i < steps))
        best.update(index, here)
        if i == 0:
            problem = replace(problem, classes=here.margins.shape[1])
        if leap:
            point = problem.threat.maximizer(problem.x, unit(here.gradient))
            best.update(index, problem.read(point, gradient=False))
        if i == steps:
            return
        if early_stop and bool(best.found.success[index].any()):
            keep = (~best.found.success[index]).nonzero().squeeze(1)
            if len(keep) == 0:
                return
            index, problem, here = index[keep], problem.select(keep), here.select(keep)
            memory = {name: kept[keep] for name, kept in memory.items()}
        point = rule.step(problem, here, memory, i, steps)


def _checked(problem: Problem, origin: Tensor, found: Reading) -> Attack:
    """Put x in place of every point outside its set, and say so."""
    inside = problem.threat.contains(problem.x, found.x)
    rejected = int((~inside).sum())
    if rejected == 0:
        return Attack(found.x, found.margins, found.success, found.score, rejected)
    warnings.warn(
        f"{rejected} of {len(inside)} points found lie outside {problem.threat}: thrown away. "
        "Its project() is at fault, or numbers overflow.",
        RuntimeWarning,
        stacklevel=4,
    )
    safe = problem.read(origin, gradient=False)
    rows = inside.nonzero().squeeze(1)
    safe.put(rows, found, rows)
    return Attack(safe.x, safe.margins, safe.success, safe.score, rejected)
