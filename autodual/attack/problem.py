"""What is attacked: a model, the sets around its inputs, what to climb, and what success is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from autodual.attack.call import Call, select
from autodual.attack.finding import Reading
from autodual.attack.losses import Loss, best_other, margin, of_logits, pick
from autodual.attack.softmax import Softmax
from autodual.errors import InputError
from autodual.inputs import Inputs
from autodual.labels import NONE, Classes, classes_of
from autodual.threat import ThreatModel
from autodual.threat.base import wide

Model = Callable[..., Any]
Success = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class Problem:
    """A model under attack.

    Attributes:
        model: called with points [N, *]; returns logits [N, K, *], or anything ``loss`` takes.
        threat, x: the set around each x [N, *].
        y: what losses and verdicts of the caller's are given, [N, *]; None for nothing.
        loss: what to climb.
        targets: [N, *], the class that the loss climbs towards.
        targeted: success is to reach the target; else, to leave y.
        logits: takes the model's output to logits [N, K, *].
        success: decides success(output, y), [N] bool, in place of the logits.
        generator: where randomness comes from.
        restarts, early_stop: how many paths, and whether a success ends an example's.
        eot: how often a random model is asked, for the mean; None if it must not be random.
        classes, labels: how the logits are laid out, and the labels [N, *] that fit them, once
            both are known.
        beneath: take what goes into the softmax for the logits, where the model ends in one.
    """

    model: Model
    threat: ThreatModel
    x: Tensor
    y: Tensor | None
    loss: Loss
    targets: Tensor | None = None
    targeted: bool = False
    logits: Callable[[Any], Tensor] | None = None
    success: Success | None = None
    generator: torch.Generator | None = None
    restarts: int = 1
    early_stop: bool = False
    eot: int | None = None
    classes: Classes | None = None
    labels: Tensor | None = None
    beneath: bool = False

    def select(self, index: Tensor) -> Problem:
        """Return the problem of the examples at ``index``."""

        def some(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[index]

        return replace(
            self,
            model=select(self.model, index),
            threat=self.threat.select(self.x, index),
            x=self.x[index],
            y=some(self.y),
            targets=some(self.targets),
            labels=some(self.labels),
        )

    def detached(self) -> Problem:
        """Return the problem with x and y of its own, which nobody else changes."""
        y = None if self.y is None else self.y.clone()
        return replace(self, x=self.x.detach().clone(), y=y)

    def knowing(self, classes: Classes | None) -> Problem:
        """Return the problem with labels and targets that fit logits of this layout.

        Raises:
            InputError: they do not fit.
        """
        if classes is None or classes == self.classes:
            return self
        where = len(self.x), self.x.device
        labels, targets = classes.read(self.y, *where), self.targets
        if targets is not None:
            targets = classes.read(targets, *where, name="targets")
        if targets is not None and self.targeted:
            _check_targets(targets, labels)
        return replace(self, classes=classes, labels=labels, targets=targets)

    def read(self, point: Tensor, gradient: bool) -> Reading:
        """Ask the model about ``point`` [N, *]: one pass forward, and one back for the gradient.

        The gradient is the margin's where the loss's is 0 or no number and the margin has one.
        With ``eot`` all of it is the mean over as many draws, a verdict that of the majority.
        """
        point = point.detach()
        draws = [self._draw(point, gradient) for _ in range(self.eot or 1)]
        z, value, slope, won = (_mean(parts) for parts in zip(*draws, strict=True))
        assert value is not None
        slope = point.new_zeros(()).expand_as(point) if slope is None else slope
        known = self.knowing(None if z is None else classes_of(z, len(z)))
        here = Reading(point, *known._judge(z, value, won), value, slope, known.classes)
        return known._with_slope(here) if gradient else here

    def _draw(
        self, point: Tensor, gradient: bool
    ) -> tuple[Tensor | None, Tensor, Tensor | None, Tensor | None]:
        """Return logits, loss, gradient and the caller's verdict, from one pass of the model."""
        if gradient:
            point = point.clone().requires_grad_()
        with torch.set_grad_enabled(gradient):
            output, z = self._ask(point)
            known = self.knowing(None if z is None else classes_of(z, len(z)))
            aims = () if known.targets is None else (known.targets,)
            if z is not None and isinstance(self.loss, of_logits):
                assert known.classes is not None
                assert known.labels is not None
                value = self.loss(known.classes.logits(z), known.labels, *aims)
            else:
                value = self.loss(output, *self._given, *aims)
        _check_loss(value, len(point))
        slope = _gradient(value, point) if gradient else None
        with torch.no_grad():
            won = None if self.success is None else self._verdict(output)
        return None if z is None else z.detach(), value.detach(), slope, won

    @property
    def _given(self) -> tuple[Tensor, ...]:
        """What functions of the caller's are given beside the output."""
        return () if self.y is None else (self.y,)

    @property
    def _scored(self) -> bool:
        """Whether there are logits."""
        return self.success is None or self.logits is not None

    def _with_slope(self, here: Reading) -> Reading:
        """Put the margin's gradient in place of one that vanished, where the model still holds."""
        if not bool(here.flat.any()):
            return here
        rows = (here.flat & ~here.done).nonzero().squeeze(1)
        gradient = here.gradient
        if self._scored and self.loss is not margin and len(rows) > 0:
            some = replace(self.select(rows), loss=margin)
            steeper = some.read(here.x[rows], gradient=True).gradient
            gradient = gradient.index_copy(0, rows, steeper)
        return replace(here, gradient=gradient.nan_to_num(nan=0.0))

    def inputs(self, point: Tensor) -> Inputs | None:
        """Return all arguments of the model at points [N, *], if it takes several."""
        return self.model.at(point) if isinstance(self.model, Call) else None

    @property
    def labelled(self) -> Tensor:
        """[N] bool: there is something to attack, not no label at all."""
        if self.labels is None:
            return torch.ones(len(self.x), dtype=torch.bool, device=self.x.device)
        return (self.labels != NONE).reshape(len(self.x), -1).any(1)

    def predicted(self) -> Problem:
        """Return the problem with the model's own predictions at x for y."""
        with torch.no_grad():
            z = self._ask(self.x)[1]
        assert z is not None
        classes = classes_of(z, len(z))
        assert classes is not None
        return replace(self, y=classes.predict(z))

    def _logits(self, output: Any) -> Tensor:
        """Return logits [N, K, *], or one logit [N, 1, *] or [N]."""
        z = output if self.logits is None else self.logits(output)
        count = len(self.x)
        if not isinstance(z, Tensor) or classes_of(z, count) is None:
            raise InputError(
                f"the model returns {describe(z)}, not logits [{count}, K] or [{count}, K, *]: "
                "give logits=, a function from its output to them, or success=. "
                "Attack a certified model as net.model."
            )
        return z

    def _ask(self, point: Tensor) -> tuple[Any, Tensor | None]:
        """Return the model's output, and its logits if there are some."""
        with Softmax() if self.beneath else nullcontext() as softmax:
            output = self.model(point)
            z = self._logits(output) if self._scored else None
        return output, z if z is None or softmax is None else softmax.before(z)

    def _verdict(self, output: Any) -> Tensor:
        """Return the caller's verdict, 1 for a success and else 0, [N]."""
        assert self.success is not None
        won, count = self.success(output, *self._given), len(self.x)
        if not isinstance(won, Tensor) or won.shape != (count,) or won.dtype != torch.bool:
            raise InputError(f"success= must return a bool tensor [{count}], not {won!r}")
        return won.to(self.x.dtype)

    def _judge(
        self, z: Tensor | None, value: Tensor, won: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return margins, score and the caller's verdict."""
        if won is not None or z is None:
            score, margins = value.reshape(-1).expand(len(self.x)), self.x.new_zeros(len(self.x), 0)
            return margins, score.nan_to_num(nan=-torch.inf), None if won is None else won >= 0.5
        assert self.classes is not None
        assert self.labels is not None
        z, labelled = self.classes.logits(z), self.labels != NONE
        margins = pick(z, self.labels).unsqueeze(1) - z
        if self.targeted and self.targets is not None:
            gap = pick(z, self.targets) - best_other(z, self.targets)
        else:
            y = self.labels.clamp(min=0).unsqueeze(1)
            gap = -margins.scatter(1, y, torch.inf).amin(1)
        gap = gap.nan_to_num(nan=-torch.inf).masked_fill(~labelled, -torch.inf)
        margins = margins.masked_fill(~labelled.unsqueeze(1), 0)
        if gap.dim() == 1:
            return margins, gap, None
        return margins, _share(gap, labelled), gap >= 0


def _mean(draws: Sequence[Tensor | None]) -> Tensor | None:
    """Return the mean of what each draw gave."""
    given = [each for each in draws if each is not None]
    return given[0] if len(given) == 1 else torch.stack(given).mean(0) if given else None


def unit(gradient: Tensor) -> Tensor:
    """Scale each gradient to a largest entry of 1, so that no norm of it over- or underflows."""
    size = gradient.flatten(1).abs().amax(1).clamp(min=torch.finfo(gradient.dtype).tiny)
    return gradient / wide(size, gradient)


def describe(output: object) -> str:
    """Name the kind of a model's output."""
    return str(list(output.shape)) if isinstance(output, Tensor) else type(output).__name__


def _share(gap: Tensor, labelled: Tensor) -> Tensor:
    """Return which share of the labels [N, *] falls, less 1, [N]; between equals the mean decides.

    At least 0 where all of them fall.
    """
    count = labelled.flatten(1).sum(1).clamp(min=1)
    share = (gap >= 0).flatten(1).sum(1) / count
    mean = gap.masked_fill(~labelled, 0).flatten(1).sum(1) / count
    return share.to(gap.dtype) - 1 + (0.5 + mean.atan() / torch.pi) / (2 * count)


def _check_targets(targets: Tensor, labels: Tensor) -> None:
    """Raise where every target [N, *] of an example is its label: x itself reaches that."""
    known = (labels != NONE).reshape(len(labels), -1)
    same = known.any(1) & ((targets == labels).reshape(known.shape) | ~known).all(1)
    if bool(same.any()):
        own = int(targets[same].flatten()[0])
        raise InputError(
            f"targets are the labels themselves for {int(same.sum())} of {len(labels)} examples, "
            f"such as class {own}: there is nothing to reach. Give other classes, "
            "as (y + 1) % 10 of ten, or leave those examples out."
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
