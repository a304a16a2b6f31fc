"""What an attack finds, and what a model says at one point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from autodual.errors import InputError
from autodual.inputs import Inputs
from autodual.labels import Classes


@dataclass(frozen=True, eq=False)
class Finding:
    """Points, one per example, and how bad they are for a model.

    Attributes:
        x: [N, *].
        margins: [N, K, *], z_y − z_k there: an upper bound on what any bound can guarantee.
            [N, 0] where the caller decides on success.
        score: [N], by how much another class's logit exceeds that of y, or with targets the
            target's that of every other; the loss where the caller decides on success. Of labels
            [N, *], which share of them falls, less 1.
        verdict: [N] bool, what the caller decided; of labels [N, *], which fall. None where the
            score decides.
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
        """[N, *] bool, as the labels: another class wins, or the caller decided so."""
        return self.score >= 0 if self.verdict is None else self.verdict

    @property
    def done(self) -> Tensor:
        """[N] bool: there is nothing left to attack; all labels of an example fall, or its one."""
        return self.success if self._decided else self.score >= 0

    @property
    def _decided(self) -> bool:
        """Whether the caller decides."""
        return self.verdict is not None and self.verdict.dim() == 1

    def select(self, index: Tensor) -> Finding:
        """Return what was found for the examples at ``index``."""
        return self._join(self, lambda part, _: part.index_select(0, index))

    def put(self, index: Tensor, other: Finding) -> Finding:
        """Return the same with ``other`` for the examples at ``index``."""
        return self._join(other, lambda mine, theirs: mine.index_copy(0, index, theirs))

    def worse_of(self, other: Finding) -> Finding:
        """Return the worse of both for each example."""
        worse = other.score > self.score
        if self._decided and self.verdict is not None and other.verdict is not None:
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
        inputs: all arguments of the model there, where it was attacked with ``Inputs``. Several
            that were attacked at once lie side by side in x [N, D].
    """

    rejected: int
    inputs: Inputs | None = field(default=None, kw_only=True)

    def __str__(self) -> str:
        what = "attacks succeed" if self.success.dim() == 1 else "labels fall"
        return f"{int(self.success.sum())} of {self.success.numel()} {what}"

    def __repr__(self) -> str:
        return f"<Attack: {self}>"


@dataclass(frozen=True, eq=False)
class Reading(Finding):
    """What a model says at one point of each example's set.

    Attributes:
        value: what the loss returned.
        gradient: [N, *], of the loss in the point; 0 if it was not asked for, or is no number.
        classes: how the logits are laid out, if there are some.
    """

    value: Tensor
    gradient: Tensor
    classes: Classes | None

    @property
    def loss(self) -> Tensor:
        """The loss of each example, [N]."""
        if self.value.numel() != len(self):
            raise InputError(
                f"the loss gave shape {list(self.value.shape)} for {len(self)} examples; "
                "this attack compares the loss of each: give one with reduction='none'"
            )
        return self.value.reshape(-1)

    @property
    def flat(self) -> Tensor:
        """[N] bool: the gradient is all 0 or somewhere no number, or what is climbed is none."""
        steepest = self.gradient.flatten(1).abs().amax(1)
        return ~((steepest > 0) & steepest.isfinite() & (self.score > -torch.inf))

    def narrow(self, index: Tensor) -> Reading:
        """Return the reading of the examples at ``index``."""
        value = self.value if self.value.numel() == 1 else self.value[index]
        return Reading(*self.select(index).parts, value, self.gradient[index], self.classes)
