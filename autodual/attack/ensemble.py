"""One call that runs the attacks which the field reports, the cheap ones first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autodual.attack import losses
from autodual.attack.apgd import Adaptive, towards_each
from autodual.attack.ascent import ascend
from autodual.attack.closest import fits, nearest
from autodual.attack.finding import Attack, Finding
from autodual.attack.options import Options, pose
from autodual.attack.problem import Model, Problem
from autodual.attack.square import Squares
from autodual.attack.steady import examined, settled
from autodual.calls import check_count
from autodual.errors import Interrupted
from autodual.inputs import Inputs
from autodual.labels import Labels
from autodual.threat import Ball, Eps, L2Ball
from autodual.working import working

if TYPE_CHECKING:
    from typing_extensions import Unpack

BEYOND = 3.0
"""How many times ε away the minimum-norm attack looks."""

SHARE = 0.8
"""The part of all pixels that the first squares cover."""

SHORT, LONG = 6, 40
"""Steps of a short Square and of a long one, for each of APGD's."""

CLASSES, LEAST = 9, 4
"""How many other classes are tried, and how many there must be for the ratio of logits."""


@dataclass(frozen=True, eq=False)
class Ensemble(Attack):
    """What the ensemble found; see ``Attack``.

    Attributes:
        x, margins, success, score, rejected: as for ``Attack``.
        by: [N], the name of the attack that broke each example; None where none did.
    """

    by: tuple[str | None, ...]

    def __str__(self) -> str:
        counts = {name: self.by.count(name) for name in dict.fromkeys(self.by) if name is not None}
        said = ", ".join(f"{count} by {name}" for name, count in counts.items())
        return f"{super().__str__()}{': ' if said else ''}{said}"


@dataclass(frozen=True)
class Stage:
    """One attack of the ensemble.

    Attributes:
        name: what it is called.
        passes: about how many passes through the model it takes per step of the ensemble's, one
            back counting as two.
        fits: whether it can attack a problem, of so many classes.
        run: attacks a problem with the ensemble's steps, given what is known of it.
    """

    name: str
    passes: int
    fits: Callable[[Problem, int], bool]
    run: Callable[[Problem, int, Finding], Finding]


def ensemble(
    model: Model,
    x: Tensor | Inputs,
    y: Labels | None,
    eps: Eps,
    *,
    steps: int = 50,
    batch: int = 250,
    **options: Unpack[Options],
) -> Ensemble:
    """Run attacks of every kind, each only on the examples that those before left standing.

    As in AutoAttack (Croce and Hein 2020): APGD, APGD towards every other class with the ratio of
    logits, a minimum-norm attack, Square; the cheap ones first. APGD also starts where a short
    Square ended, which gets it past regions without a useful slope. What does not fit the set,
    such as Square for ℓ1 balls, is left out. Every member of a union is attacked.

    Ctrl-C raises ``ad.errors.Interrupted``, whose ``partial`` is an ``Ensemble`` too.

    Args:
        model, x, y, eps: as for ``pgd``.
        steps: steps of APGD; those of the other attacks are in proportion.
        batch: how many examples are attacked at once.
        options: see ``ad.attack.Options``, without restarts and early_stop, and with one loss
            per example.

    Raises:
        InputError: as for ``pgd``.
        Interrupted: by Ctrl-C; what was not reached counts as not broken.
    """
    problem = pose(ensemble, model, x, y, eps, options, ("restarts", "early_stop"))
    steps, batch = check_count("steps", steps), check_count("batch", batch)
    with torch.inference_mode(False), torch.no_grad():
        problem = replace(problem, early_stop=True).detached()
        problem.threat.check(problem.x)
        best = _at_x(problem, batch)
        by = ["x itself" if done else None for done in best.done.tolist()]
        alone = [replace(problem, threat=member) for member in problem.threat.members]
        classes = best.margins.shape[1]
        jobs = [(s, one) for s in STAGES for one in alone if s.fits(one, classes)]
        rejected = 0
        try:
            with working("attacking", len(by) * sum(stage.passes for stage, _ in jobs)) as bar:
                for stage, one in jobs:
                    left = (~best.done).nonzero().squeeze(1)
                    bar.advance(stage.passes * (len(by) - len(left)))
                    for index in left.split(batch) if len(left) > 0 else ():
                        found = stage.run(one.select(index), steps, best.select(index))
                        rejected += found.rejected if isinstance(found, Attack) else 0
                        best = best.put(index, best.select(index).worse_of(found))
                        for i in index[best.select(index).done].tolist():
                            by[i] = stage.name
                        bar.advance(stage.passes * len(index))
        except KeyboardInterrupt:
            partial = Ensemble(*best.parts, rejected, tuple(by))
            raise Interrupted(partial, f"stopped when {partial}") from None
    return Ensemble(*best.parts, rejected, tuple(by))


def _at_x(problem: Problem, batch: int) -> Finding:
    """Return what the model says at every x, moved into its set."""
    parts = []
    for index in torch.arange(len(problem.x), device=problem.x.device).split(batch):
        some = problem.select(index)
        known, here = examined(some, some.threat.project(some.x, some.x), gradient=False)
        parts.append(settled(known, here))
    x, margins, score = (
        torch.cat(each) for each in zip(*((p.x, p.margins, p.score) for p in parts), strict=True)
    )
    verdicts = [part.verdict for part in parts if part.verdict is not None]
    return Finding(x, margins, score, torch.cat(verdicts) if verdicts else None)


def _climb(problem: Problem, steps: int, here: Finding) -> Finding:
    return ascend(problem, Adaptive(), steps)


def _after_squares(problem: Problem, steps: int, here: Finding) -> Finding:
    """Climb from where a short Square ended."""
    found = _squares(problem, SHORT * steps)
    left = (~found.done).nonzero().squeeze(1)
    if len(left) == 0:
        return found
    climbed = ascend(problem.select(left), Adaptive(), steps, begin=found.x[left])
    return found.put(left, found.select(left).worse_of(climbed))


def _towards_each(problem: Problem, steps: int, here: Finding) -> Finding:
    enough = here.margins.shape[1] >= LEAST
    aimed = replace(problem, loss=losses.dlr if enough else losses.margin)
    return towards_each(aimed, max(2 * steps // 5, 1), CLASSES)


def _nearest(problem: Problem, steps: int, here: Finding) -> Finding:
    """Look beyond the ball, from where paths lead back inside, and keep what lies in it."""
    ball = problem.threat
    assert isinstance(ball, Ball)
    radius = BEYOND * ball.radius(problem.x)
    radius = radius.expand(len(problem.x), *radius.shape[1:])
    beyond = replace(problem, threat=ball.with_eps(radius))
    found = nearest(beyond, here.x, steps)
    rows = (found.done & ball.contains(problem.x, found.x)).nonzero().squeeze(1)
    return here.put(rows, found.select(rows))


def _squares(problem: Problem, steps: int) -> Attack:
    own = problem.loss if not isinstance(problem.loss, losses.of_logits) else losses.margin
    return ascend(replace(problem, loss=own), Squares(SHARE), steps)


def _has_squares(problem: Problem, classes: int) -> bool:
    return isinstance(problem.threat, L2Ball) or problem.threat.weights(problem.x) is not None


def _has_classes(problem: Problem, classes: int) -> bool:
    return problem.success is None and problem.targets is None and classes > 2


STAGES = (
    Stage("APGD", 3, lambda problem, classes: True, _climb),
    Stage("APGD from squares", SHORT + 3, _has_squares, _after_squares),
    Stage("APGD towards every class", 11, _has_classes, _towards_each),
    Stage("minimum norm", 7, lambda problem, classes: fits(problem.threat), _nearest),
    Stage("Square", LONG, _has_squares, lambda p, steps, here: _squares(p, LONG * steps)),
)
"""The attacks, in their order."""
