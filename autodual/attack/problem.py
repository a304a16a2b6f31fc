"""What is attacked: a model, the sets around its inputs, what to climb, and what success is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from autodual.attack.finding import Reading
from autodual.attack.losses import Loss, best_other, margin, of_logits, pick
from autodual.errors import InputError
from autodual.threat import ThreatModel

Model = Callable[[Tensor], Any]
Success = Callable[[Any, Tensor], Tensor]


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
        restarts, early_stop: how many paths, and whether a success ends an example's.
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
    restarts: int = 1
    early_stop: bool = False
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
        """Ask the model about ``point`` [N, *]: one pass forward, and one back for the gradient.

        The gradient is the margin's where the loss's is 0 or no number and the margin has one.
        """
        point = point.detach()
        if gradient:
            point.requires_grad_()
        with torch.set_grad_enabled(gradient):
            output = self.model(point)
            z = self._logits(output) if self._scored else output
            aims = (self.y,) if self.targets is None else (self.y, self.targets)
            value = self.loss(z if isinstance(self.loss, of_logits) else output, *aims)
        _check_loss(value, len(point))
        slope = _gradient(value, point) if gradient else point.new_zeros(()).expand_as(point)
        with torch.no_grad():
            judged = self._judge(output, z, value)
        here = Reading(point.detach(), *judged, value.detach(), slope)
        return self._with_slope(here) if gradient else here

    @property
    def _scored(self) -> bool:
        """Whether there are logits."""
        return self.success is None or self.logits is not None

    def _with_slope(self, here: Reading) -> Reading:
        """Put the margin's gradient in place of one that vanished, where the model still holds."""
        if not bool(here.flat.any()):
            return here
        rows = (here.flat & ~here.success).nonzero().squeeze(1)
        gradient = here.gradient
        if self._scored and self.loss is not margin and len(rows) > 0:
            some = replace(self.select(rows), loss=margin)
            steeper = some.read(here.x[rows], gradient=True).gradient
            gradient = gradient.index_copy(0, rows, steeper)
        return replace(here, gradient=gradient.nan_to_num(nan=0.0))

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
    """Return the loss's gradient in the point."""
    found: tuple[Tensor | None, ...] = (None,)
    if value.requires_grad:
        found = torch.autograd.grad(value, point, torch.ones_like(value), allow_unused=True)
    if found[0] is None:
        raise InputError(
            "the model's output has no gradient in x: there is nothing to climb. "
            "ad.attack.square needs none."
        )
    return found[0]
