"""Adversarial training for the price of plain training, and what goes wrong with it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from autodual.certified import Certified
from autodual.errors import InputError, TrainingWarning
from autodual.train.adversary import Adversary, evaluating
from autodual.train.losses import Adversarial
from autodual.train.trainer import Hook, State
from autodual.warn import warn


@dataclass
class Free(Hook):
    """Free adversarial training (thesis, Algorithm 6): each backward pass moves x and weights.

    Each batch is taken several times in turn, ``Recipe(loss=free, replays=8)``; the step that the
    points have made when one batch ends is where the next begins. It is also a hook, so that a
    training that goes on does not lose that step: ``fit(…, hooks=[free])``.

    Args:
        rate: the length of a step, in radii of the set.
    """

    rate: float = 1.0
    step: Tensor | None = field(default=None, repr=False)

    def __call__(self, net: Certified, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss at the points, which move when its gradient is found."""
        threat = net.threat
        if self.step is None or self.step.shape[1:] != x.shape[1:]:
            self.step = torch.zeros_like(x)
        if len(self.step) < len(x):
            more = x.new_zeros(len(x) - len(self.step), *x.shape[1:])
            self.step = torch.cat([self.step, more])
        with torch.no_grad():
            point = threat.extend(x, threat.project(x, x), self.step[: len(x)])

        def move(gradient: Tensor) -> None:
            end = threat.advance(x, point.detach(), gradient, self.rate)
            assert self.step is not None
            self.step = torch.cat([end - x, self.step[len(x) :]])

        point = point.requires_grad_()
        point.register_hook(move)
        return F.cross_entropy(net.model(point), y)

    def state_dict(self) -> dict[str, Any]:
        """Return the step."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.step = state["step"]


@dataclass
class Watch(Hook):
    """Notices catastrophic overfitting of fast adversarial training, and undoes it (thesis, 4.3).

    Every so many steps a few steps of PGD attack the batch at hand. Where the error on these
    points is higher than the least so far by more than ``jump``, one step no longer finds what
    several do: the weights go back to those of the last check that was passed, and from then on
    the attack takes one more step than before.

    Args:
        every: how many steps lie between two checks.
        jump: how much the error may rise.
        steps: of PGD.
    """

    every: int = 50
    jump: float = 0.25
    steps: int = 10
    caught: list[int] = field(default_factory=list)
    least: float = 1.0
    _good: dict[str, Any] | None = field(default=None, repr=False)
    _batch: tuple[Tensor, Tensor] | None = field(default=None, repr=False)
    _own: int | None = None
    _count: int = 0
    _added: int = 0

    def before_step(self, state: State, x: Tensor, y: Tensor) -> None:
        """Keep the batch, and let the attack have the steps that were added."""
        loss = state.recipe.loss
        if state.recipe.loss_at is not None or not isinstance(loss, Adversarial):
            raise InputError(f"Watch() is for Recipe(loss=Adversarial(…)), not {loss}")
        self._batch = x, y
        self._own = loss.attack.steps if self._own is None else self._own
        if loss.attack.steps < self._own + self._added:
            attack = replace(loss.attack, steps=self._own + self._added, step_size=None)
            state.recipe = replace(state.recipe, loss=replace(loss, attack=attack))

    def after_step(self, state: State, loss: float) -> None:
        """Attack, from time to time."""
        self._count += 1
        if self._count % self.every:
            return
        assert self._batch is not None
        error = attacked_error(state.net, *self._batch, self.steps)
        if error <= self.least + self.jump or self._good is None:
            self.least = min(self.least, error)
            model, optimizer = state.net.model.state_dict(), state.optimizer.state_dict()
            self._good = copy.deepcopy({"model": model, "optimizer": optimizer})
            return
        state.net.model.load_state_dict(self._good["model"])
        state.optimizer.load_state_dict(copy.deepcopy(self._good["optimizer"]))
        self.caught.append(self._count)
        self._added += 1
        warn(
            f"catastrophic overfitting at step {self._count}: {self.steps} steps of PGD fool "
            f"{100 * error:.0f} % of a batch, {100 * self.least:.0f} % before. The weights go back "
            "to the last check, and the attack takes a step more from now on.",
            TrainingWarning,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what was seen."""
        names = "caught", "least", "_good", "_count", "_added"
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        for name, value in state.items():
            setattr(self, name, value)


def attacked_error(net: Certified, x: Tensor, y: Tensor, steps: int) -> float:
    """Return the share of a batch that a few steps from random starts fool."""
    (point,) = Adversary(steps, union="msd").points(net.model, x, y, net.threat)
    with evaluating(net.model), torch.no_grad():
        return float((net.model(point).argmax(1) != y).float().mean())
