"""Every rung of the ladder side by side: how near each comes to what attacks find, and when."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autodual import attack
from autodual.attack import losses
from autodual.certified import Certified
from autodual.errors import InputError, ModelError
from autodual.front.arguments import check_classes
from autodual.inputs import Inputs, as_inputs
from autodual.labels import NONE, Labels
from autodual.ladder import IBP, LP, MILP, Dual, Optimised, Solver
from autodual.ladder.base import LATE, check_time
from autodual.target import Target
from autodual.working import track

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LADDER = IBP(), Dual(), Optimised(), LP(), MILP()
"""From the cheapest rung to the exact one."""

COLOURS = "#937860", "#4c72b0", "#8172b3", "#dd8452", "#2f7d3f", "#64b5cd"


@dataclass(frozen=True, eq=False)
class Answer:
    """What one solver says.

    Attributes:
        name: the solver's, or "attack".
        margins: [N], the least z_y − z_k over the set, from below; from above for the attack.
            None where the solver does not take the net or the set.
        seconds: how long it took, with all that it prepared.
        said: how it ended, or why it did not begin.
    """

    name: str
    margins: Tensor | None
    seconds: float
    said: str


@dataclass(frozen=True, eq=False, repr=False)
class GapReport:
    """How tight each rung is on a batch; print it, or ``draw`` it.

    "gap closed" is how much of the way from the second rung to the attack.

    Attributes:
        rungs: one per solver, in the order asked for.
        attack: the margins of the worst points found: nothing sound lies above them.
        threat: the set, in words.
    """

    rungs: tuple[Answer, ...]
    attack: Answer
    threat: str

    @property
    def _start(self) -> float:
        """The mean of the second rung, or of the first if there is no other."""
        known = [float(rung.margins.mean()) for rung in self.rungs if rung.margins is not None]
        return (*known[1:2], *known[:1], 0.0)[0]

    @property
    def _top(self) -> float:
        """The mean of the attack."""
        assert self.attack.margins is not None
        return float(self.attack.margins.mean())

    def __str__(self) -> str:
        found = self.attack.margins
        assert found is not None
        start, end = self._start, self._top
        width = max(len(rung.name) for rung in (*self.rungs, self.attack)) + 2
        head = f"{'':{width}}{'margin':>10}{'gap closed':>12}{'verified':>10}{'seconds':>9}"
        lines = [head]
        for rung in (*self.rungs, self.attack):
            if rung.margins is None:
                lines.append(f"{rung.name:{width}}{rung.said}")
                continue
            mean, robust = float(rung.margins.mean()), int((rung.margins > 0).sum())
            way = f"{(mean - start) / (end - start):.1%}" if start <= mean < end else ""
            said = "" if rung.said == "" else f"  {rung.said}"
            count = f"{robust}" if rung is not self.attack else f"≤ {robust}"
            lines.append(
                f"{rung.name:{width}}{mean:10.4g}{way:>12}{count:>10}{rung.seconds:9.3g}{said}"
            )
        last = f"mean least margins of {len(found)} examples within {self.threat}"
        return "\n".join([*lines, last])

    __repr__ = __str__

    def draw(self) -> Figure:
        """Draw the margins, example by example, and what each rung took. Needs matplotlib."""
        from matplotlib.figure import Figure

        found = self.attack.margins
        assert found is not None
        figure = Figure(figsize=(9, 4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        order = found.argsort()
        left.axhline(0, color="0.8", linewidth=1)
        left.plot(found[order].cpu().numpy(), "k.", label="attack", markersize=4)
        rungs = [rung for rung in self.rungs if rung.margins is not None]
        for rung, colour in zip(rungs, COLOURS, strict=False):
            assert rung.margins is not None
            values = rung.margins[order].cpu().numpy()
            left.plot(values, color=colour, label=rung.name, linewidth=1.2)
            right.plot(rung.seconds, float(rung.margins.mean()), "o", color=colour)
        spread = float(found.max() - found.min()) + 1e-6
        left.set_ylim(float(found.min()) - spread, float(found.max()) + 0.1 * spread)
        left.set(xlabel="examples, by the margin an attack finds", ylabel="least margin")
        left.legend(fontsize=8)
        right.axhline(self._top, color="k", linestyle=":", linewidth=1)
        room = 0.1 * (self._top - self._start) + 1e-6
        right.set_ylim(self._start - room, self._top + room)  # the loosest may lie far below
        right.set_xscale("log")
        right.set(xlabel="seconds", ylabel="mean least margin")
        figure.suptitle(self.threat, fontsize=10)
        return figure


@torch.no_grad()
def gap(
    net: Certified,
    x: Tensor | Inputs,
    y: Labels | None = None,
    solvers: Sequence[Solver] = LADDER,
    time_limit: float = 60.0,
) -> GapReport:
    """Ask every rung of the ladder for the least margin of each example, and attacks beside them.

    Args:
        net: what ``certify`` returned; the rungs share its model, set and intermediate bounds.
        x, y: as for the net itself, with one label for each example.
        solvers: the rungs, from the loosest to the tightest. Programs are asked about the classes
            that could be the nearest, as far as the rungs before tell.
        time_limit: seconds for each rung's questions on the whole batch.

    Raises:
        ModelError: ``net`` is not certified.
        InputError: x or y is not usable; labels that are no single class.
    """
    if not isinstance(net, Certified):
        raise ModelError(f"gap needs certify(model, eps), not {type(net).__name__}")
    check_time(time_limit)
    found = net.admitted(x, sound=True)
    classes, labels = check_classes(found.graph.output), net.labels(found, y)
    if classes.cells or bool((labels == NONE).any()):
        raise InputError("gap is for one label for each example, and none of −100")
    C = classes.against(labels, found.x)[0]
    C = C.reshape(*C.shape[:2], *found.graph.output.size(1)[1:])
    attacked, rungs = _attacked(net, x, labels), list[Answer]()
    assert attacked.margins is not None
    known = found.x.new_full(C.shape[:2], -torch.inf)
    for solver in track(list(solvers), "rungs"):
        index = _could_be_least(known, attacked.margins, solver)
        some = C[torch.arange(len(C), device=C.device).unsqueeze(1), index]
        rung, lower = _asked(net, solver, x, some, time_limit)
        if lower is not None:
            known.scatter_(1, index, torch.maximum(lower, known.gather(1, index)))
        rungs.append(rung)
    return GapReport(tuple(rungs), attacked, str(net.threat))


def _could_be_least(known: Tensor, attacked: Tensor, solver: Solver) -> Tensor:
    """Return which rows [N, k] a solver is asked about: programs those that could be the least."""
    count = known.shape[1]
    if solver.unit == "programs":
        count = max(1, int((known <= attacked.unsqueeze(1)).sum(1).amax()))
    return known.topk(count, 1, largest=False).indices


def _asked(
    net: Certified, solver: Solver, x: Tensor | Inputs, C: Tensor, time_limit: float
) -> tuple[Answer, Tensor | None]:
    """Return what a solver says, and its bounds [N, S]."""
    start = time.perf_counter()
    try:
        solution = net.by(solver).solve(x, C, time_limit=time_limit)
    except InputError as error:
        said = f"does not take it: {error}"
        return Answer(str(solver), None, time.perf_counter() - start, said), None
    late = solution.reasons.count(LATE)
    said = f"{late} examples stopped by the time limit" if late else ""
    took, lower = time.perf_counter() - start, solution.lower
    return Answer(str(solver), lower.amin(1), took, said), lower


def _attacked(net: Certified, x: Tensor | Inputs, labels: Tensor) -> Answer:
    """Return the margins of the worst points that attacks find."""
    start, target = time.perf_counter(), Target(net, as_inputs(x))
    worst = torch.full((len(labels),), torch.inf, device=labels.device)
    for member in target.threat.members:
        for run in (attack.pgd, attack.multi_targeted):
            options = {"loss": losses.margin} if run is attack.pgd else {}
            margins = target.attack(run, labels, member, **options).margins
            least = margins.scatter(1, labels.unsqueeze(1), torch.inf).amin(1)
            worst = torch.minimum(worst.to(least), least)
    return Answer("attack", worst, time.perf_counter() - start, "")
