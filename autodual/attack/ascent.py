"""The loop of every attack: a strategy says where to look next, the worst point found is kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from autodual.attack.finding import Attack, Finding, Reading
from autodual.attack.options import Options, pose
from autodual.attack.problem import Model, Problem, unit
from autodual.attack.steady import examined, settled
from autodual.brief import brief
from autodual.calls import check_count
from autodual.errors import AttackWarning, InputError
from autodual.inputs import Inputs
from autodual.labels import Labels
from autodual.threat import Eps, ThreatModel
from autodual.warn import warn

if TYPE_CHECKING:
    from typing_extensions import Unpack

Memory = dict[str, Tensor]
"""What a strategy remembers: tensors with one row per example that is still under attack."""


@dataclass(frozen=True, eq=False)
class Path:
    """Where an attack stands, for the N examples that are still under attack.

    Attributes:
        problem: these examples; ``problem.read(point, gradient)`` asks the model more.
        here: what the model says where the path stands.
        memory: the strategy's own, to fill and to read: tensors with one row per example. Empty
            at the start of each path.
        index, steps: this is step ``index`` of ``steps``; at 0 the path stands at its start.
    """

    problem: Problem
    here: Reading
    memory: Memory
    index: int
    steps: int

    @property
    def threat(self) -> ThreatModel:
        """The set."""
        return self.problem.threat

    @property
    def x(self) -> Tensor:
        """[N, *], what the sets lie around."""
        return self.problem.x

    @property
    def point(self) -> Tensor:
        """[N, *], where the path stands."""
        return self.here.x

    @property
    def loss(self) -> Tensor:
        """[N], the loss there."""
        return self.here.loss

    @property
    def gradient(self) -> Tensor:
        """[N, *], the loss's gradient there; 0 for strategies without ``gradients``."""
        return self.here.gradient

    @property
    def generator(self) -> torch.Generator | None:
        """Where randomness comes from."""
        return self.problem.generator


class Strategy(ABC):
    """How a path goes on: all that an attack adds to the loop. ``run`` runs it."""

    gradients: bool = True
    """Whether ``step`` looks at gradients."""

    @abstractmethod
    def step(self, path: Path) -> Tensor:
        """Return where to look next, a point of each example's set: like ``path.x``, [N, *]."""


def run(
    strategy: Strategy,
    model: Model,
    x: Tensor | Inputs,
    y: Labels | None,
    eps: Eps,
    *,
    steps: int = 100,
    **options: Unpack[Options],
) -> Attack:
    """Attack by a strategy of your own.

    Args:
        strategy: says where to look next.
        steps: steps per start.
        model, x, y, eps: as for ``pgd``.
        options: see ``ad.attack.Options``.

    Raises:
        InputError: as for ``pgd``; ``step`` returns anything but points like ``path.x``, or NaN.
    """
    return ascend(pose(run, model, x, y, eps, options), strategy, steps)


def ascend(
    problem: Problem,
    strategy: Strategy,
    steps: int,
    aims: Sequence[Tensor | None] = (None,),
    begin: Tensor | None = None,
) -> Attack:
    """Follow ``problem.restarts`` paths and keep the worst point on any of them.

    The first path starts at x. With gradients it first tries the point where the linearised loss
    is largest over the set, FGSM's: on a linear model that is the answer. The other paths start
    at random. With ``aims``, classes [N] to climb towards, all of this happens for each. With
    ``begin``, points of the sets, the first path starts there.

    Every result is checked to lie in its set. One that does not is thrown away, with a warning.
    So are examples warned of whose gradient vanishes, at x and at a random point.

    Raises:
        ModelError: the model's answers change from one time to the next, and there is no ``eot``.
    """
    steps = check_count("steps", steps, 0)
    with torch.inference_mode(False), torch.no_grad():
        problem = problem.detached()
        problem.threat.check(problem.x)
        fixed = replace(problem, threat=problem.threat.fixed(problem.x), x=problem.x.clone())
        origin = fixed.threat.project(problem.x, problem.x)
        start = origin if begin is None else begin
        fixed, first = examined(_aimed(fixed, aims[0]), start, strategy.gradients)
        best: Finding = first
        for number, aim in enumerate(aims):
            aimed = _aimed(fixed, aim)
            for path in range(problem.restarts):
                at = first if number == 0 else start
                if path > 0:
                    at = aimed.threat.random_start(aimed.x, aimed.generator)
                best = _climb(aimed, strategy, at, best, steps, leaps=path == 0)
        if strategy.gradients:
            best = try_elsewhere(fixed, best, first.flat)
        return checked(problem, origin, settled(fixed, best))


def _aimed(problem: Problem, aim: Tensor | None) -> Problem:
    return problem if aim is None else replace(problem, targets=aim.clone())


def _climb(
    problem: Problem,
    strategy: Strategy,
    begin: Tensor | Reading,
    best: Finding,
    steps: int,
    leaps: bool,
) -> Finding:
    """Return the worst of ``best`` and of the points on one path from ``begin``.

    Examples that succeeded are left behind if so asked: ``mine`` is what was found for those at
    ``index``, which are still on the path.
    """
    index, memory, mine = torch.arange(len(best), device=best.x.device), Memory(), best
    if problem.early_stop:
        index = (~best.done).nonzero().squeeze(1)
        if len(index) == 0:
            return best
        problem, mine = problem.select(index), best.select(index)
        begin = begin.narrow(index) if isinstance(begin, Reading) else begin[index]
    here = begin if isinstance(begin, Reading) else None
    point = begin.x if isinstance(begin, Reading) else begin
    for i in range(steps + 1):
        leap = leaps and i == 0 and strategy.gradients
        if here is None or i > 0:
            here = problem.read(point, gradient=leap or (strategy.gradients and i < steps))
            mine = mine.worse_of(here)
        if leap:
            point = problem.threat.maximizer(problem.x, unit(here.gradient))
            mine = mine.worse_of(problem.read(point, gradient=False))
        if i == steps:
            break
        if problem.early_stop and bool(mine.done.any()):
            best = best.put(index, mine)
            keep = (~mine.done).nonzero().squeeze(1)
            if len(keep) == 0:
                return best
            index, mine = index[keep], mine.select(keep)
            problem, here = problem.select(keep), here.narrow(keep)
            memory = {name: kept[keep] for name, kept in memory.items()}
        point = _next(strategy, Path(problem, here, memory, i, steps))
    return best.put(index, mine)


def _next(strategy: Strategy, path: Path) -> Tensor:
    """Return where a strategy looks next.

    Raises:
        InputError: it answers with anything but points shaped like x.
    """
    point: Any = strategy.step(path)
    expected = _kind(path.x)
    if not isinstance(point, Tensor):
        found = brief(point)
    elif _kind(point) != expected:
        found = _kind(point)
    else:
        lost = int(point.isnan().flatten(1).any(1).sum())
        if lost == 0:
            return point
        found = f"NaN for {lost} of {len(point)} examples (does path.threat.project give it?)"
    raise InputError(
        f"{type(strategy).__name__}.step(path) returned {found} at step {path.index}; it must "
        f"return a point of each example's set, {expected} like path.x"
    )


def _kind(tensor: Tensor) -> str:
    """Say what a tensor is like."""
    kind = f"a {str(tensor.dtype).removeprefix('torch.')} tensor {list(tensor.shape)}"
    return kind if tensor.device.type == "cpu" else f"{kind} on {tensor.device}"


def try_elsewhere(problem: Problem, best: Finding, flat: Tensor) -> Finding:
    """Look at a random point where there was no slope at x, and warn if there is none either."""
    index = (flat & ~best.done & problem.labelled).nonzero().squeeze(1)
    if len(index) == 0:
        return best
    some = problem.select(index)
    there = some.read(some.threat.random_start(some.x, some.generator), gradient=True)
    moved = (there.x != some.x).flatten(1).any(1)
    stuck = int((there.flat & ~there.done & moved).sum())
    if stuck > 0:
        warn(
            f"no gradient for {stuck} of {len(best)} examples: it is 0, or it or the output is no "
            "number, at x and at a random point, so this attack could not work there. Outputs that "
            "saturate (softmax of large logits), overflow, go by steps or come from dead units "
            "have none. Attack what comes before them (logits=, losses.margin), or search with "
            "ad.attack.square.",
            AttackWarning,
        )
    return best.put(index, best.select(index).worse_of(there))


def checked(problem: Problem, origin: Tensor, found: Finding) -> Attack:
    """Put x in place of every point outside its set, and say so."""
    inside = problem.threat.contains(problem.x, found.x)
    rejected = int((~inside).sum())
    if rejected > 0:
        warn(
            f"{rejected} of {len(inside)} points found lie outside {problem.threat}: thrown away. "
            "Its project() is at fault, or numbers overflow.",
            AttackWarning,
        )
        rows = inside.nonzero().squeeze(1)
        found = problem.read(origin, gradient=False).put(rows, found.select(rows))
    return Attack(*found.parts, rejected, inputs=problem.inputs(found.x))
