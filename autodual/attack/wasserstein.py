"""Attacks that move mass: projected Sinkhorn, and Frank–Wolfe with the conjugate step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autodual.attack.problem import Attack
from autodual.errors import InputError
from autodual.threat import Wasserstein

METHODS = "conjugate", "sinkhorn"


@dataclass(frozen=True, eq=False)
class WassersteinAttack(Attack):
    """What an attack found, and the radius it was given.

    Attributes:
        x, margins, success, score, rejected: as for ``Attack``.
        eps: [N], the ε of the ball each point was sought in.
    """

    eps: Tensor


def wasserstein(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float | Tensor | Wasserstein,
    *,
    steps: int = 50,
    method: str = "conjugate",
    step_size: float | None = None,
    growth: float = 1.0,
    every: int = 10,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> WassersteinAttack:
    """Climb the loss inside a Wasserstein ball; every point returned was checked to lie in it.

    ``"conjugate"`` steps towards the point of the ball that maximises the loss's slope (thesis,
    section 5.1.6, without entropy): any part of such a step stays inside. ``"sinkhorn"`` follows
    the gradient's sign and projects by Algorithm 8.

    With ``growth`` above 1 the radius grows as in section 5.2: examples that resist get a larger
    ball every so many steps, those fooled are left as they are. ε 0.3, growth 1.1, every 10 and
    200 steps are the thesis's for MNIST.

    Args:
        model: returns logits [N, K]; its mode and gradients are left alone.
        x, y: inputs [N, *], at least 0, and labels [N].
        eps: the radius, or a ``Wasserstein`` ball, the radius of which is where the growth begins.
        steps: steps of the attack.
        method: one of ``"conjugate"`` and ``"sinkhorn"``.
        step_size: how far a step goes: as a share of the way to the maximizer, 2/(t + 2) in step
            t by default; for ``"sinkhorn"`` in units of the input, 0.1 by default.
        growth: factor of ε.
        every: after how many steps.
        loss: loss(logits, y), one number per example or reduced to a sum or mean.

    Raises:
        InputError: x is empty or negative, there is no such method, steps, growth or every is
            below 1, or the model has no gradient.
    """
    if x.numel() == 0 or steps < 1 or every < 1 or growth < 1:
        raise InputError("give a non-empty batch, and steps, every and growth of at least 1")
    if method not in METHODS:
        raise InputError(f"method={method!r} is none; there are {', '.join(METHODS)}")
    ball = eps if isinstance(eps, Wasserstein) else Wasserstein(eps)
    ball.check(x)
    x, grows = x.detach(), growth > 1
    radius = ball.radius(x).flatten().expand(len(x))
    point = best = ball.center(x)
    least, sought = _gap(model, point, y), radius
    for t in range(steps):
        slope = _gradient(model, point, y, loss)
        around = ball.with_eps(radius)
        if method == "conjugate":
            share = 2 / (t % every + 2 if grows else t + 2) if step_size is None else step_size
            point = point + share * (around.maximizer(x, slope) - point)
        else:
            rate = 0.1 if step_size is None else step_size
            point = around.sinkhorn(x, point + rate * slope.sign())
        gap = _gap(model, point, y)
        better = (gap < least) & ((least > 0) | (not grows))
        best = torch.where(better.reshape(-1, *[1] * (x.dim() - 1)), point, best)
        least, sought = torch.where(better, gap, least), torch.where(better, radius, sought)
        if grows and bool((least <= 0).all()):
            break
        if grows and (t + 1) % every == 0:
            radius = torch.where(least > 0, radius * growth, radius)
    inside = ball.with_eps(sought).contains(x, best)
    best = torch.where(inside.reshape(-1, *[1] * (x.dim() - 1)), best, x)
    margins, rejected = _margins(model, best, y), int((~inside).sum())
    score = -_smallest(margins, y)
    return WassersteinAttack(best, margins, score >= 0, score, rejected, sought)


def _gradient(
    model: nn.Module, point: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Return the loss's slope at ``point``, 0 where it is not finite."""
    point = point.detach().requires_grad_()
    with torch.enable_grad():
        value = loss(model(point), y).sum()
    (gradient,) = torch.autograd.grad(value, point, allow_unused=True)
    if gradient is None:
        raise InputError("the model's output has no gradient in x: there is nothing to climb")
    return gradient.nan_to_num(0.0)


@torch.no_grad()
def _margins(model: nn.Module, point: Tensor, y: Tensor) -> Tensor:
    logits = model(point)
    return logits.gather(1, y.unsqueeze(1)) - logits


def _smallest(margins: Tensor, y: Tensor) -> Tensor:
    """Return the smallest margin [N] over the other classes."""
    return margins.scatter(1, y.unsqueeze(1), torch.inf).amin(1)


def _gap(model: nn.Module, point: Tensor, y: Tensor) -> Tensor:
    return _smallest(_margins(model, point, y), y)
