"""The Euclidean ball, alone or cut by the domain."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from autodual.threat.ball import Ball

STEPS = 30
"""Newton steps for the multiplier. Any multiplier is sound; these make it exact to rounding."""


PLAIN = 1e-10, 1e18
"""Between these, a sum of squares holds all digits that a float32 has."""


class L2Ball(Ball):
    """{x′ : ‖x′ − x‖₂ ≤ ε} ∩ domain. See ``Ball`` for the arguments."""

    def deviation(self, x: Tensor, nu: Tensor) -> Tensor:
        """Return ε‖ν‖₂, or the ball's support cut by the domain.

        With room wᵢ for coordinate i, Lagrangian duality in the constraint ‖δ‖² ≤ ε² gives,
        for every λ > 0,

            sup {|ν|ᵀδ : 0 ≤ δ ≤ w, ‖δ‖ ≤ ε} ≤ λε²/2 + Σᵢ |νᵢ|δᵢ − λδᵢ²/2,
            δᵢ = min(|νᵢ|/λ, wᵢ).

        The best λ makes ‖δ‖ = ε. It is found by water-filling and held constant for gradients,
        as the envelope theorem allows. All of this is done in units of the largest |νᵢ| and of ε,
        so that no square over- or underflows.
        """
        eps = self.radius(x).reshape(-1, 1)
        flat = nu.flatten(2)
        if self.domain is None:
            return norm(flat).squeeze(2) * eps
        tiny, size = torch.finfo(x.dtype).tiny, flat.abs()
        eps, unit = eps.clamp(min=tiny), size.detach().amax(2, keepdim=True).clamp(min=tiny)
        room = self.room(x, nu).flatten(2) / eps.unsqueeze(2)
        size = (size / unit).expand(room.shape)
        step = _step(size.detach(), room.detach(), torch.ones_like(eps)).unsqueeze(2)
        delta = torch.minimum(size * step, room)
        lam = step.reciprocal()
        gain = (delta * (size - delta * lam / 2)).sum(2) + lam.squeeze(2) / 2
        corner = (size * room).sum(2)
        return torch.minimum(gain, corner) * eps * unit.squeeze(2)

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
    length = norm(x.flatten(1)).clamp(min=torch.finfo(x.dtype).tiny)
    return length.reshape(-1, *[1] * (x.dim() - 1))


def _shorten(size: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    """Return min(s·size, room) [N, D] of length at most ε, with the largest s ≤ 1."""
    step = _step(size.unsqueeze(1), room.unsqueeze(1), eps).clamp(max=1)
    delta = torch.minimum(size * step, room)
    return delta * (eps / _length(delta)).clamp(max=1)


def _step(size: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    """Return 1/λ [N, S] with ‖min(|ν|/λ, w)‖ = ε, or the largest useful one if the box is inside.

    Water-filling from below: coordinates that reach their room stay there, the others share
    what is left of ε². Each round can only add coordinates, so the sequence is increasing.
    """
    tiny = torch.finfo(size.dtype).tiny
    budget = eps.square().expand(size.shape[:2])
    step = budget.sqrt() / torch.linalg.vector_norm(size, dim=2).clamp(min=tiny)
    for _ in range(STEPS):
        full = size * step.unsqueeze(2) >= room
        left = budget - torch.where(full, room, torch.zeros_like(room)).square().sum(2)
        free = torch.where(full, torch.zeros_like(size), size).square().sum(2)
        grown = torch.where(
            (left > 0) & (free > 0), (left / free.clamp(min=tiny)).clamp(min=0).sqrt(), step
        )
        grown = torch.maximum(grown, step)
        if get_proxy_mode() is None and bool((grown == step).all()):
            break
        step = grown
    return step.clamp(min=torch.finfo(size.dtype).eps ** 2, max=torch.finfo(size.dtype).eps ** -2)
