"""Exact verdicts: bounds first, attacks next, mixed-integer programs for what is left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autodual import attack
from autodual.bound.layer import Entry
from autodual.bound.options import Steps
from autodual.errors import InputError, Interrupted
from autodual.front.arguments import check_classes
from autodual.labels import NONE, Labels
from autodual.ladder.base import check_time
from autodual.solve import (
    OVER,
    Matrices,
    Outcome,
    Whole,
    check_whole,
    radius_of,
    streamed,
    whole_network,
)
from autodual.target import Run, Target
from autodual.threat import ThreatModel, Wasserstein
from autodual.working import working

if TYPE_CHECKING:
    from autodual.certified import Certified, Compiled
    from autodual.inputs import Inputs

STEPS = 20
"""In how many steps planes are sought, if the net does not say."""

AT_ONCE = 100
"""How many examples are attacked, and have their planes sought, together."""

Answer = tuple[int, ThreatModel, Outcome, float]
"""The number of an example, the set that was asked about, what was found, and in how long."""

Told = Callable[[int, str], None]
"""(the number of an example, what became of it) → nothing."""


@dataclass(frozen=True, eq=False, repr=False)
class Verdicts:
    """What is known of each of N examples; print it.

    Attributes:
        verified: [N] bool: no point of the set is given another class than y. Bounds proved it,
            or HiGHS found that mixed-integer programs have no solution, as far as its tolerance
            of 1e-6 goes.
        falsified: [N] bool: the model itself gives ``x`` another class than y, or a tie.
        x: [N, *]: where the model came closest to another class; the inputs where nothing was
            tried.
        lower, upper: [N]: the least margin z_y − z_k over the set lies between these. 0 where it
            is a program that verified; ∞ above where nothing was tried.
        labels: [N], the class y.
        reasons: for each example how it was decided, or why not.
        seconds: [N], how long its programs took.
        threat: the set, in words.
    """

    verified: Tensor
    falsified: Tensor
    x: Tensor
    lower: Tensor
    upper: Tensor
    labels: Tensor
    reasons: tuple[str, ...]
    seconds: Tensor
    threat: str

    def __len__(self) -> int:
        return len(self.verified)

    @property
    def unknown(self) -> Tensor:
        """[N] bool: neither verified nor falsified."""
        return ~(self.verified | self.falsified)

    def __str__(self) -> str:
        said = (
            f"{int(self.verified.sum())} of {len(self)} verified, {int(self.falsified.sum())} "
            f"falsified, {int(self.unknown.sum())} unknown within {self.threat}"
        )
        counts = (f"{self.reasons.count(why):>7} {why}" for why in dict.fromkeys(self.reasons))
        return "\n".join([said, *counts])

    __repr__ = __str__


def exact(
    net: Certified,
    x: Tensor | Inputs,
    y: Labels | None,
    time_limit: float = 60.0,
    told: Told | None = None,
) -> Verdicts:
    """Decide each example; see ``Certified.exact``."""
    check_time(time_limit)
    net = net.by_last(None)
    found = net.admitted(x)
    if found.program.caveats or net.options.estimator.delta or net.options.method.name == "ibp":
        raise InputError(
            "exact verdicts stand on exact sums over dual networks: certify a model in eval mode, "
            'without estimator=, and with other bounds= than "ibp"'
        )
    labels = net.labels(found, y)
    if check_classes(found.graph.output).cells or bool((labels == NONE).any()):
        raise InputError("exact verdicts are for one label for each example, and none of −100")
    for member in net.threat.around(found.shapes).members:
        check_whole(found.program.plan, Entry(found.graph.perturbed, found.x, member))
    deciding = _Deciding(net, found, labels, told)
    try:
        for member in deciding.threat.members:
            nearest = member.project(found.x, found.x)
            deciding.seen_all(nearest, "falsified as it is")
        deciding.bound("verified by the bound")
        deciding.attack(partial(attack.pgd, early_stop=True), "falsified by PGD")
        if net.options.optimize is None or not net.options.optimize.last:
            deciding.turn(net.with_options(optimize=Steps(STEPS)))
            deciding.bound("verified by optimised planes")
        if isinstance(deciding.threat, Wasserstein):  # projections onto it are dear
            deciding.attack(attack.wasserstein, "falsified by the Wasserstein attack")
        else:
            deciding.attack(attack.ensemble, "falsified by the ensemble of attacks")
        deciding.programs(time_limit)
    except KeyboardInterrupt:
        open_ones = len(deciding.left)
        said = f"{len(labels) - open_ones} of {len(labels)} examples are decided"
        raise Interrupted(deciding.verdict(), said) from None
    return deciding.verdict()


class _Deciding:
    """A batch of which ever more is known."""

    def __init__(self, net: Certified, found: Compiled, labels: Tensor, told: Told | None) -> None:
        self.net, self.found, self.labels, self.told = net, found, labels, told
        self.target, self.threat = Target(net, found.inputs), net.threat.around(found.shapes)
        like, nothing = found.x.new_zeros(len(found.x)), torch.zeros_like(labels, dtype=torch.bool)
        self.lower, self.upper, self.seconds = like - math.inf, like + math.inf, like.clone()
        self.verified, self.falsified, self.x = nothing, nothing.clone(), found.x.clone()
        self.reasons = ["not tried"] * len(labels)

    def verdict(self) -> Verdicts:
        """Return what is known now."""
        return Verdicts(
            verified=self.verified.clone(),
            falsified=self.falsified.clone(),
            x=self.x.clone(),
            lower=self.lower.clone(),
            upper=self.upper.clone(),
            labels=self.labels,
            reasons=tuple(self.reasons),
            seconds=self.seconds.clone(),
            threat=str(self.net.threat),
        )

    @property
    def left(self) -> Tensor:
        """The numbers of the examples that are not decided."""
        return (~(self.verified | self.falsified)).nonzero().squeeze(1)

    def rounds(self, at_once: int = AT_ONCE) -> Sequence[Tensor]:
        """Return the numbers of those that are not decided, some at a time."""
        left = self.left
        return left.split(at_once) if len(left) else ()

    def note(self, i: int, why: str) -> None:
        """Note what became of an example, and say it to who listens."""
        self.reasons[i] = why
        if self.told is not None:
            self.told(i, why)

    def seen(self, i: int, point: Tensor, margins: Tensor, why: str) -> None:
        """Note the model's margins at a point of the set."""
        margin = float(margins.index_fill(0, self.labels[i], torch.inf).amin())
        if margin < float(self.upper[i]):
            self.upper[i], self.x[i] = margin, point
            if margin <= 0:
                self.falsified[i] = True
                self.note(i, why)

    def seen_all(self, x: Tensor, why: str, index: Tensor | None = None) -> None:
        """Note what the model says at points, one for each example or those at ``index``."""
        index = torch.arange(len(x), device=x.device) if index is None else index
        z = self.target(x)[index]
        margins = z.gather(1, self.labels[index].unsqueeze(1)) - z
        for i, point, some in zip(index.tolist(), x[index], margins, strict=True):
            self.seen(i, point, some, why)

    def turn(self, net: Certified) -> None:
        """Ask another net of the same model and set from now on."""
        self.net, self.found = net, net.admitted(self.found.inputs)

    def bound(self, why: str) -> None:
        """Verify what a bound can."""
        for index in self.rounds():
            some, around = self.net.part(self.found, index)
            margins = self.net.margins_of(some, self.labels[index], around, goal=0)
            least = margins.scatter(1, self.labels[index].unsqueeze(1), torch.inf).amin(1)
            least = least.masked_fill(~least.isfinite(), -torch.inf)
            self.lower[index] = torch.maximum(self.lower[index], least)
            for i in index[least > 0].tolist():
                self.verified[i] = True
                self.note(i, why)

    def attack(self, run: Run, why: str) -> None:
        """Falsify what an attack can."""
        for index in self.rounds(AT_ONCE if self.target.alone else len(self.labels)):
            points = self.target.attack_some(run, self.labels, index)
            for i, point, margins in zip(index.tolist(), *points, strict=True):
                self.seen(i, point, margins, why)

    def programs(self, limit: float) -> None:
        """Ask a mixed-integer program about each example that is left, and each set around it."""
        index, members = self.left, len(self.threat.members)
        heard: dict[int, list[Outcome]] = {i: [] for i in index.tolist()}
        with working("programs", len(heard) * members) as bar:
            jobs = self._jobs(index, limit)
            for i, member, outcome, took in streamed(jobs):
                bar.advance()
                self.seconds[i] += took
                heard[i].append(outcome)
                if not self.falsified[i]:
                    self._heard(i, member, outcome, limit)
                if len(heard[i]) == members:
                    self._heard_all(i, heard[i])

    def _jobs(self, index: Tensor, limit: float) -> Iterator[Callable[[], Answer]]:
        """Yield for each example and set a program that can be asked in a thread of its own."""
        matrices = Matrices()
        for i in index.tolist():
            some, around = self.net.part(self.found, torch.tensor([i], device=index.device))
            output, label = some.graph.output, self.labels[i : i + 1]
            C, _ = check_classes(output).against(label, some.x)
            for member in around.members:
                network = some.program(some.env, member)
                bound = network.lower({output: C})[0]
                order = bound.argsort(descending=True)  # the cheapest first
                order = order[~(bound[order] > 0)]
                relaxed = network.travelled
                try:
                    whole = Whole(
                        whole_network(relaxed, matrices),
                        radius_of(relaxed.entry.threat, relaxed.entry.x),
                    )
                except InputError as error:  # the others are decided all the same
                    self.note(i, f"unknown: {error}")
                    continue
                costs, values = whole.polytope.question(relaxed, {output: C[0, order]})
                if not whole.polytope.finite_with(costs, values):
                    self.note(i, "unknown: its bounds are not finite")
                    continue
                known = bound[order].double().cpu().numpy()
                ask = partial(whole.decide, costs, values, known, limit)
                yield partial(_timed, i, member, ask)

    def _heard(self, i: int, member: ThreatModel, outcome: Outcome, limit: float) -> None:
        """Note what a program found."""
        if outcome.point is not None:
            x = self.found.x
            index = torch.tensor([i], device=x.device)
            point = member.center(x[index]) + x.new_tensor(outcome.point).reshape(x[index].shape)
            moved = x.index_copy(0, index, member.project(x[index], point))
            self.seen_all(moved, "falsified by programs", index)
            if not self.falsified[i]:
                self.note(i, "unknown: the least margin is 0 but for rounding")
        elif outcome.why is not None:
            why = f"{limit:g} s were over" if outcome.why == OVER else outcome.why
            self.note(i, f"unknown: {why}")

    def _heard_all(self, i: int, outcomes: Sequence[Outcome]) -> None:
        """Note what the programs of all sets around an example say together."""
        if all(outcome.nothing for outcome in outcomes):
            self.verified[i] = True
            self.lower[i] = self.lower[i].clamp(min=0)
            self.note(i, "verified by programs")
        else:
            least = min(outcome.lower for outcome in outcomes)
            self.lower[i] = max(float(self.lower[i]), least)


def _timed(i: int, member: ThreatModel, ask: Callable[[], Outcome]) -> Answer:
    """Return an answer about an example and a set around it."""
    start = time.perf_counter()
    return i, member, ask(), time.perf_counter() - start
