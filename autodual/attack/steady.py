"""Whether a model answers the same whenever it is asked, and each example for itself."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from autodual.attack.finding import Finding, Reading
from autodual.attack.problem import Problem
from autodual.attack.softmax import Softmax
from autodual.errors import ModelError

DROPS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)


def refuse_training(model: object, averaged: bool) -> None:
    """Raise if a model holds modules in training mode that answer differently there.

    Args:
        model: any; only a module's parts are looked at.
        averaged: those that draw random numbers are allowed.

    Raises:
        ModelError: it does.
    """
    parts = model.named_modules() if isinstance(model, nn.Module) else ()
    found = [name or "itself" for name, part in parts if _differs(part, averaged)]
    if not found:
        return
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    remedy = "" if averaged else ", or eot= averages over the draws of Dropout and its like"
    raise ModelError(
        f"the model is in training mode, and {', '.join(found[:3])}{more} (Dropout, BatchNorm and "
        "their like) answer otherwise there: points found may fool it by chance, or only in this "
        f"batch. Call model.eval() for the attack, and model.train() after it{remedy}."
    )


def examined(problem: Problem, point: Tensor, gradient: bool) -> tuple[Problem, Reading]:
    """Return the problem, and what the model says at ``point`` [N, *], once it has said so twice.

    The second time half of the examples are in other company. A model that takes a softmax is
    attacked before it, if it ends in one: behind it gradients vanish.

    Raises:
        ModelError: the two answers differ, and there is no ``eot``.
    """
    here = problem.read(point, gradient)
    one = _answer(here)
    kept = (len(point) + 1) // 2 if len(one) == len(point) else len(point)
    index = torch.arange(len(point), device=point.device) % kept
    with Softmax() as softmax:
        two = _answer(problem.read(point[index], gradient=False))
    if problem.eot is None and not _same(one[:kept], two[:kept]):
        raise ModelError(
            "the model gave two answers to one question: it draws random numbers, keeps state, or "
            "mixes the examples of a batch (BatchNorm without running statistics). What fools it "
            "once may not fool it twice. eot=20, say, averages gradients and successes over so "
            "many draws; examples that are mixed can be attacked one at a time."
        )
    problem = problem.knowing(here.classes)
    if softmax.last is None:
        return problem, here
    problem = replace(problem, beneath=True)
    return problem, problem.read(point, gradient)


def settled(problem: Problem, found: Finding) -> Finding:
    """Return what was found as the model's own output has it, a random one's on fresh draws."""
    if problem.beneath or problem.eot is not None:
        return replace(problem, beneath=False).read(found.x, gradient=False)
    return found


def _answer(here: Reading) -> Tensor:
    """Return margins [N, K], or losses [N] or [1] where there are none."""
    return here.margins if here.margins.shape[1] > 0 else here.value.reshape(-1)


def _same(one: Tensor, two: Tensor) -> bool:
    """Return whether two answers are equal but for rounding; NaN equals NaN."""
    size = one.nan_to_num(posinf=0.0, neginf=0.0).abs().amax() if one.numel() else 0.0
    slack = torch.finfo(one.dtype).eps ** 0.5 * float(size)
    return torch.allclose(one, two, rtol=0.0, atol=slack, equal_nan=True)


def _differs(part: nn.Module, averaged: bool) -> bool:
    """Return whether a module itself answers otherwise in training mode."""
    if not part.training:
        return False
    if isinstance(part, nn.modules.batchnorm._NormBase):
        return part.track_running_stats
    if averaged:
        return False
    if isinstance(part, DROPS):
        return part.p > 0
    if isinstance(part, (nn.MultiheadAttention, nn.RNNBase)):
        return float(part.dropout) > 0
    return isinstance(part, nn.RReLU) and part.lower < part.upper
