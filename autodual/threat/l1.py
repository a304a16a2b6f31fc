"""The ℓ1 ball, alone or cut by the domain."""

from __future__ import annotations

import torch
from torch import Tensor

from autodual.threat.base import Ball


class L1Ball(Ball):
    """{x′ : ‖x′ − x‖₁ ≤ ε} ∩ domain. See ``Ball`` for the arguments."""

    def deviation(self, x: Tensor, nu: Tensor) -> Tensor:
        """Return ε‖ν‖∞, or the ball's support cut by the domain.

        With room wᵢ for coordinate i, duality in ‖δ‖₁ ≤ ε gives, for every ψ ≥ 0,

            sup {|ν|ᵀδ : 0 ≤ δ ≤ w, Σδ ≤ ε} ≤ ψε + Σᵢ wᵢ[|νᵢ| − ψ]₊,

        with equality when ψ is the |νᵢ| at which the budget ε runs out, spending it on the
        largest first.
        """
        eps = self.radius(x).reshape(-1, 1)
        flat = nu.flatten(2)
        if self.domain is None:
            return flat.abs().amax(2) * eps
        room = self.room(x, nu).flatten(2)
        size, order = flat.abs().expand(room.shape).sort(dim=2, descending=True)
        room = room.gather(2, order)
        spent = room.cumsum(2)
        last = (spent < eps.unsqueeze(2)).sum(2, keepdim=True)
        padded = torch.cat([size, torch.zeros_like(size[..., :1])], dim=2)
        price = padded.gather(2, last)
        return (price * eps.unsqueeze(2)).squeeze(2) + (room * (size - price).clamp(min=0)).sum(2)

    def project(self, x: Tensor, point: Tensor) -> Tensor:
        """Soft-threshold the difference to length ε (Duchi et al. 2008), then clamp."""
        center = self.center(x)
        delta = (point - center).flatten(1)
        size, _ = delta.abs().sort(dim=1, descending=True)
        eps = self.radius(x).reshape(-1, 1)
        ranks = torch.arange(1, size.shape[1] + 1, device=x.device, dtype=x.dtype)
        excess = (size.cumsum(1) - eps) / ranks
        count = (size > excess).sum(1, keepdim=True).clamp(min=1)
        threshold = excess.gather(1, count - 1).clamp(min=0)
        shrunk = delta.sign() * (delta.abs() - threshold).clamp(min=0)
        return self.clamp(center + shrunk.reshape(x.shape))

    def distance(self, x: Tensor, point: Tensor) -> Tensor:
        """Return ‖x′ − x‖₁."""
        return (point - x).flatten(1).abs().sum(1)

    def steepest(
        self,
        x: Tensor,
        gradient: Tensor,
        generator: torch.Generator | None = None,
        point: Tensor | None = None,
    ) -> Tensor:
        """Return a step of length ε along the largest coordinate of the gradient."""
        flat = gradient.flatten(1)
        index = flat.abs().argmax(1, keepdim=True)
        step = torch.zeros_like(flat).scatter(1, index, flat.gather(1, index).sign())
        return step.reshape(x.shape) * self.radius(x)
