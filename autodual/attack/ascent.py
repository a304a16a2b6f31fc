"""The loop of every attack: a rule says where to look next, the worst point found is kept."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from autodual.attack.problem import Attack, Finding, Problem, Reading, unit
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
        fixed = replace(problem, threat=problem.threat.fixed(problem.x))
        origin = fixed.threat.project(problem.x, problem.x)
        best: Finding | None = None
        for aim in aims:
            aimed = fixed if aim is None else replace(fixed, targets=aim.clone())
            for start in range(restarts):
                fresh = start > 0
                begin = aimed.threat.random_start(aimed.x, aimed.generator) if fresh else origin
                best = _climb(aimed, rule, begin, best, steps, early_stop, leaps=not fresh)
        assert best is not None
        return _checked(problem, origin, best)


def _climb(
    problem: Problem,
    rule: Rule,
    begin: Tensor,
    best: Finding | None,
    steps: int,
    early_stop: bool,
    leaps: bool,
) -> Finding:
    """Return the worst of ``best`` and of the points on one path from ``begin``.

    Examples that succeeded are left behind if so asked: ``mine`` is what was found for those at
    ``index``, which are still on the path.
    """
    index, memory = torch.arange(len(begin), device=begin.device), Memory()
    point, mine = begin, best
    if early_stop and best is not None:
        index = (~best.success).nonzero().squeeze(1)
        if len(index) == 0:
            return best
        problem, point, mine = problem.select(index), begin[index], best.select(index)
    for i in range(steps + 1):
        leap = leaps and i == 0 and rule.gradients
        here = problem.read(point, gradient=leap or (rule.gradients and i < steps))
        mine = here if mine is None else mine.worse_of(here)
        if i == 0:
            problem = replace(problem, classes=here.margins.shape[1])
        if leap:
            point = problem.threat.maximizer(problem.x, unit(here.gradient))
            mine = mine.worse_of(problem.read(point, gradient=False))
        if i == steps:
            break
        if early_stop and bool(mine.success.any()):
            best = mine if best is None else best.put(index, mine)
            keep = (~mine.success).nonzero().squeeze(1)
            if len(keep) == 0:
                return best
            index, mine = index[keep], mine.select(keep)
            problem, here = problem.select(keep), here.narrow(keep)
            memory = {name: kept[keep] for name, kept in memory.items()}
        point = rule.step(problem, here, memory, i, steps)
    assert mine is not None
    return mine if best is None else best.put(index, mine)


def _checked(problem: Problem, origin: Tensor, found: Finding) -> Attack:
    """Put x in place of every point outside its set, and say so."""
    inside = problem.threat.contains(problem.x, found.x)
    rejected = int((~inside).sum())
    if rejected > 0:
        warnings.warn(
            f"{rejected} of {len(inside)} points found lie outside {problem.threat}: thrown away. "
            "Its project() is at fault, or numbers overflow.",
            RuntimeWarning,
            stacklevel=4,
        )
        rows = inside.nonzero().squeeze(1)
        found = problem.read(origin, gradient=False).put(rows, found.select(rows))
    return Attack(*found.parts, rejected)
