"""The Euclidean ball, alone or cut by the domain."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.linalg import vecdot

from autodual.threat.ball import Ball
from autodual.threat.base import wide
from autodual.threat.cut import Local, corner

STEPS = 30
"""Newton steps for the multiplier. Any multiplier is sound; these make it exact to rounding."""


PLAIN = 1e-10, 1e18
"""Between these, a sum of squares holds all digits that a float32 has."""


class L2Ball(Ball):
    """{x′ : ‖x′ − x‖₂ ≤ ε} ∩ domain. See ``Ball`` for the arguments."""

    def deviation(self, x: Tensor, nu: Tensor) -> Tensor:
        """Return ε‖ν‖₂, or the ball's support cut by the domain."""
        return self.steps(x, _norm, _far).deviation(nu)

    def outward(self, x: Tensor) -> Ball:
        """Return the ball with its numbers rounded outward."""
        return self.rounded_up(x)

    def local(self, x: Tensor) -> Local:
        """Return the ball as rows see it."""
        return self.steps(x, _norm, _far)

    def project(self, x: Tensor, point: Tensor) -> Tensor:
        """Return the nearest point, c + min(s|δ|, w) with the sign of δ, for the step δ to it.

        s = 1/(1 + μ), with μ the multiplier of ‖·‖ ≤ ε; s is the largest number up to 1 that
        keeps the length within ε.
        """
        return self.step_to(x, point, _shorten)

    def random_start(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return a point of the ball, uniform by volume, moved into the domain."""
        noise = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        return self.clamp(
            self.center(x) + noise / _length(noise) * self.random_radius(x, generator)
        )

    def distance(self, x: Tensor, point: Tensor) -> Tensor:
        """Return ‖x′ − x‖₂."""
        return norm((point - x).flatten(1)).squeeze(1)

    def steepest(
        self,
        x: Tensor,
        gradient: Tensor,
        generator: torch.Generator | None = None,
        point: Tensor | None = None,
    ) -> Tensor:
        """Return the gradient scaled to length ε."""
        return gradient / _length(gradient) * self.radius(x)


def norm(x: Tensor) -> Tensor:
    """Return ‖x‖₂ over the last dimension, which is kept at size 1.

    In units of the largest entry where squares could over- or underflow; a GPU does not wait to
    find out, and nor does a trace.
    """
    if x.device.type == "cpu" and get_proxy_mode() is None:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        least, most = torch.aminmax(length.detach()) if length.numel() else (length, length)
        if bool((least > PLAIN[0]).all() & (most < PLAIN[1]).all()):
            return length
    largest = x.detach().abs().amax(-1, keepdim=True)
    unit = largest.clamp(torch.finfo(x.dtype).tiny, torch.finfo(x.dtype).max)
    return unit * torch.linalg.vector_norm(x / unit, dim=-1, keepdim=True)


def _length(x: Tensor) -> Tensor:
    """Return ‖x‖₂ per example, at least tiny, shaped to broadcast with x [N, *]."""
    return wide(norm(x.flatten(1)).clamp(min=torch.finfo(x.dtype).tiny), x)


def _shorten(size: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    """Return min(s·size, room) [N, D] of length at most ε, with the largest s ≤ 1."""
    step = _step(size.unsqueeze(1), room.unsqueeze(1), eps.unsqueeze(1)).clamp(max=1)
    delta = torch.minimum(size * step, room)
    return delta * (eps / _length(delta)).clamp(max=1)


def _norm(nu: Tensor) -> Tensor:
    return norm(nu).squeeze(2)


def _far(nu: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Return sup {νᵀδ : ‖δ‖ ≤ 1, −down ≤ δ ≤ up}, to rounding.

    Lagrangian duality in ‖δ‖² ≤ 1 gives, for every λ > 0,

        sup ≤ λ/2 + Σᵢ νᵢδᵢ − λδᵢ²/2,    δᵢ = νᵢ/λ, cut to [−downᵢ, upᵢ].

    The best λ makes ‖δ‖ = 1. It is found by water-filling and held constant for gradients, as the
    envelope theorem allows.
    """
    fixed = nu.detach()
    size, room = fixed.abs(), corner(nu, down.detach(), up.detach()).abs()
    step = _step(size, room, torch.ones_like(size[..., :1])).unsqueeze(2)
    delta, lam = torch.clamp(fixed * step, -down, up), step.squeeze(2).reciprocal()
    return vecdot(delta, nu) + (1 - vecdot(delta, delta)) * lam / 2


@torch.no_grad()
def _step(size: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    """Return 1/λ [N, S] with ‖min(|ν|/λ, w)‖ = ε, or the largest useful one if the box is inside.

    Water-filling from below: coordinates that reach their room stay there, the others share
    what is left of ε². Each round can only add coordinates, so the sequence is increasing.

    Args:
        size, room: |ν| and w, [N, S, D]; w is 0 where ν is.
        eps: [N or 1, S or 1, 1].
    """
    tiny, most = torch.finfo(size.dtype).tiny, torch.finfo(size.dtype).eps ** -2
    full_at, budget = room / size, eps.square().squeeze(2)
    size2, room2 = size.square(), room.square()
    step = eps.squeeze(2) / torch.linalg.vector_norm(size, dim=2).clamp(min=tiny)
    for _ in range(STEPS):
        free = full_at.clone().gt_(step.unsqueeze(2))  # 1 or 0; masks of bool are slow
        left = (budget - vecdot(1 - free, room2)).clamp(min=0)
        grown = torch.maximum((left / vecdot(free, size2).clamp(min=tiny)).sqrt(), step)
        if get_proxy_mode() is None and bool((grown == step).all()):
            break
        step = grown
    return step.clamp(min=1 / most, max=most)
