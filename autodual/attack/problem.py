"""What is attacked: a model, the sets around its inputs, what to climb, and what success is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from autodual.attack.losses import Loss, best_other, of_logits, pick
from autodual.errors import InputError
from autodual.threat import ThreatModel, as_threat

Model = Callable[[Tensor], Any]
Success = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Finding:
    """Points, one per example, and how bad they are for a model.

    Attributes:
        x: [N, *].
        margins: [N, K], z_y − z_k there: an upper bound on what any bound can guarantee.
            [N, 0] where the caller decides on success.
        score: [N], by how much another class's logit exceeds that of y, or with targets the
            target's that of every other; the loss where the caller decides on success.
        verdict: [N] bool, what the caller decided; None where the score decides.
    """

    x: Tensor
    margins: Tensor
    score: Tensor
    verdict: Tensor | None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """All of it."""
        return self.x, self.margins, self.score, self.verdict

    @property
    def success(self) -> Tensor:
        """[N] bool: the caller decided so, or the score is at least 0."""
        return self.score >= 0 if self.verdict is None else self.verdict

    def select(self, index: Tensor) -> Finding:
        """Return what was found for the examples at ``index``."""
        return self._join(self, lambda part, _: part.index_select(0, index))

    def put(self, index: Tensor, other: Finding) -> Finding:
        """Return the same with ``other`` for the examples at ``index``."""
        return self._join(other, lambda mine, theirs: mine.index_copy(0, index, theirs))

    def worse_of(self, other: Finding) -> Finding:
        """Return the worse of both for each example."""
        worse = other.score > self.score
        if self.verdict is not None and other.verdict is not None:
            worse = torch.where(self.verdict == other.verdict, worse, other.verdict)
        rows = worse.nonzero().squeeze(1)
        return self.put(rows, other.select(rows))

    def _join(self, other: Finding, f: Callable[[Tensor, Tensor], Tensor]) -> Finding:
        verdict = None
        if self.verdict is not None and other.verdict is not None:
            verdict = f(self.verdict, other.verdict)
        return Finding(
            f(self.x, other.x), f(self.margins, other.margins), f(self.score, other.score), verdict
        )


@dataclass(frozen=True, eq=False)
class Attack(Finding):
    """The worst point found in each example's set; every one lies in it. See ``Finding``.

    Attributes:
        rejected: how many points found lay outside their set; x stands in their place.
    """

    rejected: int

    def __str__(self) -> str:
        return f"{int(self.success.sum())} of {len(self)} attacks succeed"


@dataclass(frozen=True, eq=False)
class Reading(Finding):
    """What a model says at one point of each example's set.

    Attributes:
        value: what the loss returned.
        gradient: [N, *], of the loss in the point; 0 if it was not asked for.
    """

    value: Tensor
    gradient: Tensor

    @property
    def loss(self) -> Tensor:
        """The loss of each example, [N]."""
        if self.value.numel() != len(self):
            raise InputError(
                f"the loss gave shape {list(self.value.shape)} for {len(self)} examples; "
                "this attack compares the loss of each: give one with reduction='none'"
            )
        return self.value.reshape(-1)

    def narrow(self, index: Tensor) -> Reading:
        """Return the reading of the examples at ``index``."""
        value = self.value if self.value.numel() == 1 else self.value[index]
        return Reading(*self.select(index).parts, value, self.gradient[index])


@dataclass(frozen=True, eq=False)
class Problem:
    """A model under attack.

    Attributes:
        model: called with points [N, *]; returns logits [N, K], or anything ``loss`` takes.
        threat, x, y: the set around each x [N, *], and the labels [N].
        loss: what to climb.
        targets: [N], the class that the loss climbs towards.
        targeted: success is to reach the target; else, to leave y.
        logits: takes the model's output to logits [N, K].
        success: decides success(output, y), [N] bool, in place of the logits.
        generator: where randomness comes from.
        classes: K, once the labels are known to fit it.
    """

    model: Model
    threat: ThreatModel
    x: Tensor
    y: Tensor
    loss: Loss
    targets: Tensor | None = None
    targeted: bool = False
    logits: Callable[[Any], Tensor] | None = None
    success: Success | None = None
    generator: torch.Generator | None = None
    classes: int | None = None

    def select(self, index: Tensor) -> Problem:
        """Return the problem of the examples at ``index``."""
        return replace(
            self,
            threat=self.threat.select(self.x, index),
            x=self.x[index],
            y=self.y[index],
            targets=None if self.targets is None else self.targets[index],
        )

    def read(self, point: Tensor, gradient: bool) -> Reading:
        """Ask the model about ``point`` [N, *]: one pass forward, and one back for the gradient."""
        point = point.detach()
        if gradient:
            point.requires_grad_()
        with torch.set_grad_enabled(gradient):
            output = self.model(point)
            scored = self.success is None or self.logits is not None
            z = self._logits(output) if scored else output
            aims = (self.y,) if self.targets is None else (self.y, self.targets)
            value = self.loss(z if isinstance(self.loss, of_logits) else output, *aims)
        _check_loss(value, len(point))
        slope = _gradient(value, point) if gradient else point.new_zeros(()).expand_as(point)
        with torch.no_grad():
            judged = self._judge(output, z, value)
        return Reading(point.detach(), *judged, value.detach(), slope)

    def _logits(self, output: Any) -> Tensor:
        """Return [N, K], once sure that the labels fit."""
        z = output if self.logits is None else self.logits(output)
        count = len(self.x)
        if not isinstance(z, Tensor) or z.dim() != 2 or len(z) != count or z.shape[1] < 2:
            raise InputError(
                f"the model returns {describe(z)}, not logits [{count}, K] of two classes or more: "
                "give logits=, a function from its output to them, or success=. "
                "Attack a certified model as net.model."
            )
        if self.classes != z.shape[1]:
            for labels in (self.y,) if self.targets is None else (self.y, self.targets):
                _check_labels(labels, z.shape[1])
        return z

    def _judge(self, output: Any, z: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return margins, score and the caller's verdict."""
        count = len(self.x)
        if self.success is not None:
            won = self.success(output, self.y)
            if not isinstance(won, Tensor) or won.shape != (count,) or won.dtype != torch.bool:
                raise InputError(f"success= must return a bool tensor [{count}], not {won!r}")
            score, margins = value.reshape(-1).expand(count), self.x.new_zeros(count, 0)
            return margins, score.nan_to_num(nan=-torch.inf), won
        margins = pick(z, self.y).unsqueeze(1) - z
        if self.targeted and self.targets is not None:
            score = pick(z, self.targets) - best_other(z, self.targets)
        else:
            score = -margins.scatter(1, self.y.unsqueeze(1), torch.inf).amin(1)
        return margins, score.nan_to_num(nan=-torch.inf), None


def pose(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float | Tensor | ThreatModel,
    loss: Loss,
    targets: Tensor | None,
    logits: Callable[[Any], Tensor] | None,
    success: Success | None,
    generator: torch.Generator | None,
) -> Problem:
    """Return the problem, its inputs checked.

    Raises:
        InputError: x is no batch of finite numbers; y or targets do not fit it.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2 or x.numel() == 0:
        kind = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"an attack needs a non-empty batch of numbers [N, *], not {kind}")
    finite = x.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        raise InputError(f"x holds NaN or infinity, first in example {int((~finite).nonzero()[0])}")
    for name, labels in (("y", y), ("targets", targets)):
        if labels is None and name == "targets":
            continue
        if not isinstance(labels, Tensor) or labels.dim() < 1 or len(labels) != len(x):
            raise InputError(
                f"{name} must be a tensor with one label for each of {len(x)} examples"
            )
    return Problem(
        model, as_threat(eps), x, y, loss, targets, targets is not None, logits, success, generator
    )


def unit(gradient: Tensor) -> Tensor:
    """Scale each gradient to a largest entry of 1, so that no norm of it over- or underflows."""
    size = gradient.flatten(1).abs().amax(1).clamp(min=torch.finfo(gradient.dtype).tiny)
    return gradient / wide(size, gradient)


def wide(values: Tensor, x: Tensor) -> Tensor:
    """Shape values [N] to broadcast with x [N, *]."""
    return values.reshape(-1, *[1] * (x.dim() - 1))


def describe(output: object) -> str:
    """Name the kind of a model's output."""
    return str(list(output.shape)) if isinstance(output, Tensor) else type(output).__name__


def _check_labels(labels: Tensor, classes: int) -> None:
    if labels.dtype != torch.int64 or labels.dim() != 1:
        raise InputError(f"labels must be int64 [N], not {labels.dtype} {list(labels.shape)}")
    if bool(((labels < 0) | (labels >= classes)).any()):
        raise InputError(
            f"labels span [{int(labels.min())}, {int(labels.max())}]; the model has classes 0 to "
            f"{classes - 1}"
        )


def _check_loss(value: object, count: int) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise InputError(f"the loss must return a tensor of numbers, not {describe(value)}")
    if value.numel() not in (1, count):
        raise InputError(
            f"the loss must return one number, or one for each of {count} examples, not "
            f"{list(value.shape)}"
        )


def _gradient(value: Tensor, point: Tensor) -> Tensor:
    """Return the loss's gradient in the point, with 0 where it is no number."""
    found: tuple[Tensor | None, ...] = (None,)
    if value.requires_grad:
        found = torch.autograd.grad(value, point, torch.ones_like(value), allow_unused=True)
    if found[0] is None:
        raise InputError(
            "the model's output has no gradient in x: there is nothing to climb. "
            "ad.attack.square needs none."
        )
    gradient = found[0]
    return gradient if bool(gradient.sum().isfinite()) else gradient.nan_to_num(nan=0.0)
