"""One readable training loop. Copy ``fit`` out and change it: there is nothing behind it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from autodual.certified import Certified
from autodual.errors import InputError, TrainingError
from autodual.files import load, save
from autodual.train.augment import Augment
from autodual.train.batches import Batches, Data, own_rank
from autodual.train.losses import Loss, Robust
from autodual.train.objective import Objective
from autodual.train.schedules import Rate, Schedule, constant
from autodual.working import working

LAST, BEST = "last.pt", "best.pt"
"""The files of a run: all that it needs to go on, and the weights with the least error."""

Validation = Callable[[Certified], Mapping[str, float]]
"""A net in evaluation mode → its numbers; the least ``error`` is the best."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a net is trained.

    Args:
        loss: what is descended. ``loss_at`` makes one for each moment instead, given how many
            epochs have passed.
        epochs, batch: how long, and how many examples make a step.
        eps: by which factor the net's set is scaled, given how many epochs have passed.
        optimizer: makes one of the parameters.
        rate: makes a scheduler of the optimizer and the number of all steps; asked after each.
        clip: how long a gradient may be.
        l1: what multiplies Σ|w| over all weights of two dimensions or more.
        replays: how often each batch is taken in turn.
        augment: what takes each batch's inputs to others; see ``train.shifted``.
        average: the decay of a running mean of the weights, which is then what is validated; 1
            for the plain mean (SWA).
        average_from: after how many epochs the mean begins.
        patience: training ends when so many epochs have not lowered validation's ``error``.
        seed: of the order, and of all noise of each step.
    """

    loss: Loss = field(default_factory=Robust)
    loss_at: Callable[[float], Loss] | None = None
    epochs: int = 20
    batch: int = 100
    eps: Schedule = field(default_factory=lambda: constant(1.0))
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = torch.optim.Adam
    rate: Rate | None = None
    clip: float | None = None
    l1: float = 0.0
    replays: int = 1
    augment: Augment | None = None
    average: float | None = None
    average_from: float = 0.0
    patience: int | None = None
    seed: int = 0


@dataclass(eq=False)
class State:
    """All that training has at some moment; hooks may change it.

    Attributes:
        net, recipe: what is trained, and how.
        optimizer, scheduler, averaged: as the recipe says.
        steps: how many an epoch has.
        epoch, step: how many epochs are finished, and how many steps of the next.
        total, seen: the sum of this epoch's losses, and over how many examples.
        seconds: how long it has run.
        history: a row of numbers for each finished epoch.
        best: the least error that validation has given.
    """

    net: Certified
    recipe: Recipe
    optimizer: Optimizer
    scheduler: LRScheduler | None
    averaged: AveragedModel | None
    steps: int
    epoch: int = 0
    step: int = 0
    total: float = 0.0
    seen: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    best: float = math.inf

    @property
    def now(self) -> float:
        """How many epochs have passed."""
        return self.epoch + self.step / self.steps

    @property
    def model(self) -> nn.Module:
        """What the training is for: the mean of the weights if there is one, or the model."""
        if self.averaged is None or int(self.averaged.n_averaged) == 0:
            return self.net.model
        return self.averaged.module

    @property
    def stale(self) -> bool:
        """Whether validation's error has not fallen for as long as the recipe has patience."""
        if self.recipe.patience is None or not self.history:
            return False
        errors = [row["error"] for row in self.history]
        return len(errors) - errors.index(min(errors)) > self.recipe.patience

    def loss(self) -> Loss:
        """Return the loss of this moment."""
        recipe = self.recipe
        return recipe.loss if recipe.loss_at is None else recipe.loss_at(self.now)


class Hook:
    """What is told of a training as it goes on."""

    def before_step(self, state: State, x: Tensor, y: Tensor) -> None:
        """Hear of a batch before its loss is known."""

    def after_step(self, state: State, loss: float) -> None:
        """Hear of its loss, when the parameters have moved."""

    def after_epoch(self, state: State) -> None:
        """Hear that an epoch is finished: ``state.history[-1]`` is its row."""

    def state_dict(self) -> dict[str, Any]:
        """Return what must survive a kill, in tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""


def fit(
    net: Certified,
    data: Data,
    recipe: Recipe | None = None,
    *,
    validate: Validation | None = None,
    out: Path | str | None = None,
    every: int | None = None,
    hooks: Sequence[Hook] = (),
    about: Mapping[str, Any] | None = None,
) -> State:
    """Train the model inside a certified net, in place.

    Under ``torchrun``, with a process group, each process takes its share of every batch and
    gradients are means over all. The caller's random numbers are left as they were.

    Args:
        net: the model and the set that it is trained for.
        data: all inputs and labels, or a DataLoader.
        recipe: how.
        validate: asked after each epoch, by the first process.
        out: a folder for ``last.pt`` and ``best.pt``. Where there is a ``last.pt``, training goes
            on from there, to the same bits on a CPU.
        every: how many steps lie between two ``last.pt``; an epoch if not given.
        hooks: told of steps and epochs, in order.
        about: plain values that ``best.pt`` keeps beside the weights.

    Raises:
        InputError: the data does not fit; ``out`` is of another training.
        TrainingError: the loss is no number any more.
    """
    recipe = recipe or Recipe()
    if recipe.patience is not None and validate is None:
        raise InputError("patience= waits for the error that validate= gives, and there is none")
    rank, ranks = own_rank()
    batches = Batches(data, recipe.batch, recipe.seed, rank=rank, ranks=ranks)
    state, folder = start(net, recipe, len(batches)), None if out is None else Path(out)
    if folder is not None and (folder / LAST).exists():
        resume(state, hooks, folder / LAST)
    objective: nn.Module = Objective(net, recipe.loss)
    if ranks > 1:
        objective = DistributedDataParallel(objective)
    weights = [p for p in net.model.parameters() if p.dim() > 1]

    with torch.random.fork_rng(), working("training", recipe.epochs * len(batches)) as bar:
        bar.reach(state.epoch * len(batches) + state.step)
        while state.epoch < recipe.epochs and not state.stale:
            seed(recipe, state.epoch, rank)
            for x, y in batches.of(state.epoch, state.step):
                began = time.perf_counter()
                scale = recipe.eps(state.now)
                _inside(objective).loss = state.loss()
                if recipe.augment is not None:
                    seed(recipe, state.epoch, rank, state.step)
                    x = recipe.augment(x)
                for hook in hooks:
                    hook.before_step(state, x, y)
                for replay in range(recipe.replays):
                    seed(recipe, state.epoch, rank, state.step, replay)
                    loss = objective(x, y, scale)
                    value = finite(loss, state)
                    if recipe.l1:
                        loss = loss + recipe.l1 * sum(w.abs().sum() for w in weights)
                    state.optimizer.zero_grad()
                    loss.backward()
                    if recipe.clip is not None:
                        nn.utils.clip_grad_norm_(net.model.parameters(), recipe.clip)
                    state.optimizer.step()
                if state.scheduler is not None:
                    state.scheduler.step()
                if state.averaged is not None and state.now >= recipe.average_from:
                    state.averaged.update_parameters(net.model)
                state.step, state.seen = state.step + 1, state.seen + len(x)
                state.total += value * len(x)
                state.seconds += time.perf_counter() - began
                for hook in hooks:
                    hook.after_step(state, value)
                bar.what = f"epoch {state.epoch + 1}, loss {state.total / state.seen:.4g}"
                bar.advance()
                if folder is not None and rank == 0 and every and state.step % every == 0:
                    checkpoint(state, hooks, folder / LAST)
            close(state, validate if rank == 0 else None, folder, about or {})
            if ranks > 1:
                told = [(state.history[-1], state.best)]
                dist.broadcast_object_list(told)
                state.history[-1], state.best = told[0]
            for hook in hooks:
                hook.after_epoch(state)
            if folder is not None and rank == 0:
                checkpoint(state, hooks, folder / LAST)
    return state


def start(net: Certified, recipe: Recipe, steps: int) -> State:
    """Return the state before the first step of a training with so many steps in each epoch."""
    optimizer = recipe.optimizer(net.model.parameters())
    scheduler = recipe.rate and recipe.rate(optimizer, recipe.epochs * steps)
    averaged = None
    if recipe.average is not None:
        mean = None if recipe.average == 1 else get_ema_multi_avg_fn(recipe.average)
        averaged = AveragedModel(net.model, multi_avg_fn=mean, use_buffers=True)
    return State(net, recipe, optimizer, scheduler, averaged, steps)


def seed(recipe: Recipe, *place: int) -> None:
    """Make the noise from here on depend on nothing but the seed and where in training this is."""
    number = recipe.seed
    for part in place:
        number = (number * 1_000_003 + part + 1) % 2**63
    torch.manual_seed(number)


def finite(loss: Tensor, state: State) -> float:
    """Return a loss as a number.

    Raises:
        TrainingError: it is none.
    """
    value = float(loss.detach())
    if not math.isfinite(value):
        raise TrainingError(
            f"the loss is {value} at step {state.step + 1} of epoch {state.epoch + 1}: nothing can "
            "be learned from it. A smaller step (optimizer=), a shorter gradient (clip=) or a "
            "slower ramp of ε (eps=) may keep it finite; the last checkpoint is as it was."
        )
    return value


def close(
    state: State, validate: Validation | None, folder: Path | None, about: Mapping[str, Any]
) -> None:
    """Write the row of an epoch that is finished, and keep the best weights."""
    scale = state.recipe.eps(state.epoch + (state.steps - 1) / state.steps)  # of its last step
    state.epoch, state.step = state.epoch + 1, 0
    row = {"epoch": float(state.epoch), "loss": state.total / state.seen, "scale": scale}
    state.total, state.seen = 0.0, 0
    if validate is not None:
        row |= validated(state, validate)
        if state.recipe.patience is not None and "error" not in row:
            raise InputError(f"patience= waits for an error, and validate gives {[*row]}")
    state.history.append(row | {"seconds": state.seconds})
    if row.get("error", math.inf) >= state.best:
        return
    state.best = row["error"]
    if folder is not None:
        kept = {"model": state.model.state_dict(), "row": row, "about": dict(about)}
        save(kept, folder / BEST)


def validated(state: State, validate: Validation) -> Mapping[str, float]:
    """Return what validation says of the model in evaluation mode."""
    model, training = state.model, state.model.training
    model.eval()
    try:
        net = Certified(model, state.net.threat, state.net.options, state.net.last_by)
        return validate(net)
    finally:
        model.train(training)


def checkpoint(state: State, hooks: Sequence[Hook], path: Path) -> None:
    """Write all that training needs to go on as if nothing had happened."""
    parts: dict[str, Any] = {"model": state.net.model, "optimizer": state.optimizer}
    parts |= {"scheduler": state.scheduler, "averaged": state.averaged}
    kept: dict[str, Any] = {k: None if v is None else v.state_dict() for k, v in parts.items()}
    kept["plain"] = {name: getattr(state, name) for name in PLAIN}
    kept["hooks"] = [hook.state_dict() for hook in hooks]
    kept["order"] = order_of(state)
    save(kept, path)


PLAIN = "epoch", "step", "total", "seen", "seconds", "history", "best"
"""What of a state are plain values."""


def order_of(state: State) -> dict[str, int]:
    """Return what a training that goes on must share with the one that was begun."""
    recipe = state.recipe
    order = {
        "batch": recipe.batch,
        "seed": recipe.seed,
        "replays": recipe.replays,
        "steps": state.steps,
    }
    return order if recipe.rate is None else {**order, "epochs": recipe.epochs}


def resume(state: State, hooks: Sequence[Hook], path: Path) -> None:
    """Go back to where a checkpoint was written.

    Raises:
        InputError: it is of another model or of another order of batches; a learning rate was
            planned for other epochs.
    """
    kept = load(path)
    if kept.get("order") != order_of(state) or len(kept["hooks"]) != len(hooks):
        raise InputError(
            f"{path} is of a training with {kept.get('order')} and this one has "
            f"{order_of(state)}: give another out=, or remove it"
        )
    try:
        state.net.model.load_state_dict(kept["model"])
    except RuntimeError as error:
        raise InputError(f"{path} holds another model: {error}") from error
    for name in ("optimizer", "scheduler", "averaged"):
        part = getattr(state, name)
        if part is not None and kept[name] is not None:
            part.load_state_dict(kept[name])
    for name in PLAIN:
        setattr(state, name, kept["plain"][name])
    for hook, own in zip(hooks, kept["hooks"], strict=True):
        hook.load_state_dict(own)


def _inside(objective: nn.Module) -> Objective:
    """Return the objective inside what averages gradients."""
    inner = objective.module if isinstance(objective, DistributedDataParallel) else objective
    assert isinstance(inner, Objective)
    return inner
