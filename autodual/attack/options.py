"""What all attacks can be told, and the problem that it makes of a model."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, TypedDict

import torch
from torch import Tensor

from autodual.attack import losses
from autodual.attack.call import Call
from autodual.attack.losses import Loss
from autodual.attack.problem import Model, Problem, Success
from autodual.attack.steady import refuse_training
from autodual.brief import brief
from autodual.calls import check_count
from autodual.errors import InputError
from autodual.inputs import Inputs, Key, as_inputs
from autodual.labels import Labels, as_tensor
from autodual.threat import Eps, as_threat, keys


class Options(TypedDict, total=False):
    """Keyword arguments that attacks share; each attack says which of them it does not take.

    Attributes:
        loss: what gradient attacks climb: loss(output, y), one number per example or, for
            ``pgd`` and ``fgsm``, reduced to a sum or mean; with targets loss(output, y, targets),
            larger where the target is nearer. ``ad.attack.losses.log_odds`` by default, which is
            cross-entropy that cannot underflow, for searches ``margin``. Where an example's loss
            has no slope or is no number, gradient attacks climb the margin of the logits instead.
            Where a model ends in a softmax, the losses of ``ad.attack.losses`` read what goes in.
        targets: classes, as y and others than y, to reach. Success is then the target, not just
            any other class.
        restarts: number of starts, 1 by default. The first is x itself, the others are random.
        early_stop: leave an example at its first success. Same successes, less time; the point
            is then the first found, not the worst.
        logits: takes the model's output to logits [N, K, *], for margins, success and the losses
            of ``ad.attack.losses``.
        success: decides success(output, y), [N] bool, instead of the logits; the worst point is
            then the one with the largest loss. Where y is None it is success(output), and
            loss(output). Without it, y None stands for the model's own predictions.
        perturb: which argument of the model is attacked, by position or name, if x is ``Inputs``.
        generator: randomness of the starts and of random steps, the caller's to seed.
        eot: how often to ask a model that draws random numbers, such as one with Dropout in
            training mode; refused if not given. Losses, gradients and logits are means over as
            many draws (expectation over transformation, Athalye et al. 2018), and the points
            found are judged on as many fresh ones.
    """

    loss: Loss
    targets: Tensor | None
    restarts: int
    early_stop: bool
    logits: Callable[[Any], Tensor] | None
    success: Success | None
    perturb: Key | None
    generator: torch.Generator | None
    eot: int | None


def pose(
    attack: Callable[..., object],
    model: Model,
    x: Tensor | Inputs,
    y: Labels | None,
    eps: Eps,
    options: Options,
    without: tuple[str, ...] = (),
) -> Problem:
    """Return the problem, its inputs checked.

    Args:
        attack: the function that was called, for what it says of options it does not take.
        model, x, y, eps, options: what it was given.
        without: the shared options that make no sense for it.

    Raises:
        InputError: x is no batch of finite numbers; y or targets do not fit it; ``attack`` has no
            such option.
        ModelError: the model holds Dropout, BatchNorm or their like in training mode.
    """
    _check_names(attack, options, without)
    given = {"loss": losses.log_odds, **options}
    for name in ("loss", "success", "logits"):
        if not (given.get(name) is None or callable(given[name])):
            raise InputError(f"{name}= is a function of the output, not {brief(given[name])}")
    inputs, threat = as_inputs(x), as_threat(eps)
    named, perturb = keys(threat), given.pop("perturb", None)
    if named is not None and perturb is not None:
        raise InputError(f"the sets say what is attacked, {threat}: leave perturb= out")
    key = inputs.key(named or (0 if perturb is None else perturb), model)  # type: ignore[arg-type]
    alone, x = isinstance(x, Tensor) and named is None, inputs.get(key)
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2 or x.numel() == 0:
        kind = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"an attack needs a non-empty batch of numbers [N, *], not {kind}")
    finite = x.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        raise InputError(f"x holds NaN or infinity, first in example {int((~finite).nonzero()[0])}")
    if y is None and "success" in options and isinstance(given["loss"], losses.of_logits):
        raise InputError("success= without labels y needs a loss= of the output alone")
    labels, targets = _tensor("y", y, x), options.get("targets")
    given["targets"] = _tensor("targets", targets, x)
    eot = options.get("eot")
    check_count("restarts", options.get("restarts", 1))
    check_count("eot", 1 if eot is None else eot)
    refuse_training(model, averaged=eot is not None)
    whole, aimed = model if alone else Call(model, inputs, key), targets is not None
    around = threat.around(inputs.shapes(key))
    problem = Problem(whole, around, x, labels, targeted=aimed, **given)  # type: ignore[arg-type]
    return problem if y is not None or problem.success is not None else problem.predicted()


def rate_of(step_size: float | None, default: float) -> float:
    """Return how far steps go: as given, or the default.

    Raises:
        InputError: it is no finite number above 0.
    """
    if step_size is None:
        return default
    if not 0 < step_size < math.inf:
        raise InputError(f"step_size={step_size}: give a finite number above 0")
    return step_size


def _check_names(
    attack: Callable[..., object], options: Mapping[str, object], without: tuple[str, ...]
) -> None:
    """Raise for an option that there is not, or not here."""
    shared = [name for name in Options.__annotations__ if name not in without]
    unknown = [name for name in options if name not in shared]
    if not unknown:
        return
    parameters = inspect.signature(attack).parameters.values()
    own = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    near = get_close_matches(unknown[0], [*own, *shared], 1)
    hint = f": did you mean {near[0]}=?" if near else "."
    raise InputError(
        f"{attack.__name__} takes no {unknown[0]}={hint} It takes {', '.join([*own, *shared])}"
    )


def _tensor(name: str, labels: Labels | None, x: Tensor) -> Tensor | None:
    """Return labels as a tensor with a row for each example of x."""
    if labels is None:
        return None
    tensor = as_tensor(labels, name, x.device)
    if tensor.dim() < 1 or len(tensor) != len(x):
        raise InputError(f"{name} must have one label for each of {len(x)} examples")
    return tensor
