"""The sandwich: attacks of every kind against a bound. They must not cross."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from autodual import attack
from autodual.attack import Attack, losses
from autodual.certificate import Certificate
from autodual.certified import Certified
from autodual.errors import CrossingError, ModelError, UnsoundError
from autodual.inputs import Inputs, as_inputs
from autodual.labels import NONE, Labels
from autodual.target import Run, Target
from autodual.threat import L2Ball, ThreatModel, Wasserstein
from autodual.working import track

ROUNDING = 1000
"""How many units in the last place of 1 + |z| + |bound| a margin may lie below its bound."""

Track = Callable[[list[str]], Iterable[str]]
Fits = Callable[[ThreatModel, Tensor], bool]

ATTACKING: Track = partial(track, what="attacking")
"""Shows progress where it is always shown."""


@dataclass(frozen=True)
class Gap:
    """How near one kind of attack came to the bound.

    Attributes:
        attack: its name.
        tightest: the smallest margin found − bound, over all examples and classes.
        example, other: where: the example's place in the batch and the class k of z_y − z_k.
        crossings: how many margins lie below their bound by more than rounding.
    """

    attack: str
    tightest: float
    example: int
    other: int
    crossings: int


@dataclass(frozen=True)
class SelfCheck:
    """What attacks say about a bound; print it.

    Attributes:
        gaps: one per kind of attack.
        threat: the set, in words.
        examples: how many there were.
    """

    gaps: tuple[Gap, ...]
    threat: str
    examples: int

    @property
    def passed(self) -> bool:
        """No attack crosses the bound by more than rounding."""
        return not any(gap.crossings for gap in self.gaps)

    def __str__(self) -> str:
        lines = [f"{'attack':24}{'margin − bound':>16}{'example':>9}{'class':>7}{'crossings':>11}"]
        lines += [
            f"{g.attack:24}{g.tightest:16.3g}{g.example:9d}{g.other:7d}{g.crossings:11d}"
            for g in self.gaps
        ]
        said = "no attack crosses the bound" if self.passed else "THE BOUND IS WRONG"
        return "\n".join([*lines, f"{self.examples} examples within {self.threat}: {said}"])

    __repr__ = __str__


def self_check(
    net: Certified,
    x: Tensor | Inputs,
    y: Labels | None = None,
    *,
    steps: int = 20,
    classes: int = 9,
    generator: torch.Generator | None = None,
    track: Track = ATTACKING,
) -> SelfCheck:
    """Attack a certified model in every way there is, and compare each margin with its bound.

    PGD, APGD, Square, random points and corners minimise z_y − z_k for one class k after the
    other, where they fit the set. APGD with cross-entropy, with the ratio of logits and towards
    every class attacks the model as a whole. Every member of a union is attacked. No attack
    proves a bound right; one can prove it wrong.

    Args:
        net: what ``certify`` returned.
        x: inputs [N, *], or ``Inputs``.
        y: labels [N, *]; the model's own predictions if not given. Of many labels the one that is
            nearest to falling is attacked alone, too.
        steps: steps of the gradient attacks; searches take five times as many.
        classes: how many classes to attack for each example, the likeliest first.
        generator: where randomness comes from.
        track: wraps the list of attacks while it is worked through, for another progress bar.

    Warns:
        AttackWarning: an attack could not work, see ``pgd``; the others count all the same.

    Raises:
        CrossingError: a margin lies below its bound by more than rounding.
        ModelError: ``net`` is not certified.
        UnsoundError: the bound guarantees nothing, so there is nothing to check.
    """
    if not isinstance(net, Certified):
        raise ModelError(
            f"self_check needs certify(model, eps), not {type(net).__name__} without a bound"
        )
    certificate = net(x) if y is None else net(x, y)
    if not isinstance(certificate, Certificate):
        raise UnsoundError(f"nothing to check: {'; '.join(certificate.caveats)}")
    labels = certificate.labels
    assert labels is not None
    target = Target(net, as_inputs(x))
    aims = [labels, _nearest(certificate)] if labels.dim() > 1 else [labels]
    kinds = _kinds(steps, generator)
    gaps = []
    for name in track(list(kinds)):
        attacks = (each for y in aims for each in kinds[name](target, y, target.threat, classes))
        found = [each.x for each in attacks]
        if found:
            gaps.append(_gap(name, target, certificate.margins, labels, found))
    report = SelfCheck(tuple(gaps), str(net.threat), len(certificate))
    if not report.passed:
        raise CrossingError(f"an attack found a point below its bound.\n{report}")
    return report


def _nearest(certificate: Certificate) -> Tensor:
    """Return each example's label with the smallest margin, and none elsewhere."""
    labels = certificate.labels
    assert labels is not None
    least = certificate.margins.scatter(1, labels.clamp(min=0).unsqueeze(1), torch.inf).amin(1)
    place = least.masked_fill(labels == NONE, torch.inf).flatten(1).argmin(1, keepdim=True)
    flat = labels.flatten(1)
    return torch.full_like(flat, NONE).scatter(1, place, flat.gather(1, place)).reshape_as(labels)


Kind = Callable[[Target, Tensor, ThreatModel, int], Iterator[Attack]]


def _kinds(steps: int, generator: torch.Generator | None) -> dict[str, Kind]:
    """Return the kinds of attack by name. Each yields what it finds, nothing if it does not fit."""
    g: dict[str, Any] = {"generator": generator}
    many: dict[str, Any] = {"generator": generator, "steps": 5 * steps}

    def boxes(threat: ThreatModel, x: Tensor) -> bool:
        return threat.weights(x) is not None

    def squares(threat: ThreatModel, x: Tensor) -> bool:
        return isinstance(threat, L2Ball) or boxes(threat, x)

    def moves(threat: ThreatModel, x: Tensor) -> bool:
        return isinstance(threat, Wasserstein)

    pgd = partial(attack.pgd, steps=steps, restarts=2, loss=losses.margin, **g)
    apgd = partial(attack.apgd, steps=steps, restarts=2, **g)
    return {
        "PGD": _each_class(pgd),
        "APGD": _each_class(partial(apgd, loss=losses.margin)),
        "APGD, cross-entropy": _whole(apgd),
        "APGD, logit ratio": _whole(partial(apgd, loss=losses.dlr), least=3),
        "APGD, every class": _whole(partial(attack.multi_targeted, steps=steps, **g)),
        "Square": _each_class(partial(attack.square, **many), squares),
        "random points": _each_class(partial(attack.search, **many), lambda t, x: not moves(t, x)),
        "corners": _each_class(partial(attack.search, corners=True, **many), boxes),
        "conjugate Sinkhorn": _whole(partial(attack.wasserstein, steps=steps), fits=moves),
        "multi steepest descent": _union(partial(attack.msd, steps=steps, **g)),
    }


def _each_class(run: Run, fits: Fits = lambda threat, x: True) -> Kind:
    """Minimise z_y − z_k over every member that fits, for one class k after the other."""

    def kind(target: Target, labels: Tensor, threat: ThreatModel, classes: int) -> Iterator[Attack]:
        z, y = target(target.x), labels.clamp(min=0)
        likely = z.scatter(1, y.unsqueeze(1), -torch.inf).argsort(1, descending=True)
        for other in likely[:, : min(classes, z.shape[1] - 1)].unbind(1):
            towards: dict[str, Any] = {"targets": other, "loss": losses.margin}
            for member in threat.members:
                if fits(member, target.x):
                    judged = {"logits": _same, "success": _never}  # the largest loss is the worst
                    yield target.attack(run, labels, member, **towards, **judged)

    return kind


def _same(z: Tensor) -> Tensor:
    return z


def _never(z: Tensor, y: Tensor) -> Tensor:
    return torch.zeros(len(z), dtype=torch.bool, device=z.device)


def _whole(run: Run, least: int = 2, fits: Fits = lambda threat, x: True) -> Kind:
    """Attack the model as it is over every member that fits, if it has ``least`` classes."""

    def kind(target: Target, labels: Tensor, threat: ThreatModel, classes: int) -> Iterator[Attack]:
        enough = target(target.x).shape[1] >= least
        for member in threat.members:
            if enough and fits(member, target.x):
                yield target.attack(run, labels, member)

    return kind


def _union(run: Run) -> Kind:
    """Attack a union as one set."""

    def kind(target: Target, labels: Tensor, threat: ThreatModel, classes: int) -> Iterator[Attack]:
        if len(threat.members) > 1:
            yield target.attack(run, labels, threat)

    return kind


def _gap(name: str, target: Target, bound: Tensor, labels: Tensor, found: list[Tensor]) -> Gap:
    """Compare the margins at all points found with the bound."""
    y, unlabelled = labels.clamp(min=0).unsqueeze(1), (labels == NONE).unsqueeze(1)
    least, slack = torch.full_like(bound, torch.inf), torch.zeros_like(bound)
    for point in found:
        z = target(point)
        margins = (z.gather(1, y) - z).nan_to_num(nan=-torch.inf)
        least = torch.minimum(least, margins)
        slack = torch.maximum(slack, 1 + z.abs().amax(1, keepdim=True) + bound.abs())
    gap = (least - bound).scatter(1, y, torch.inf)
    gap = torch.where(bound.isfinite() & ~unlabelled, gap, torch.inf)
    crossed = gap < -ROUNDING * torch.finfo(bound.dtype).eps * slack
    example, other, *_ = map(int, torch.unravel_index(gap.argmin(), gap.shape))
    return Gap(name, float(gap.min()), example, other, int(crossed.sum()))
