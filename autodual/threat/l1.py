"""The ℓ1 ball, alone or cut by the domain."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.linalg import vecdot

from autodual.threat.ball import Ball
from autodual.threat.base import wide
from autodual.threat.convex import least
from autodual.threat.cut import Local, corner
from autodual.threat.polyhedron import Polyhedron, sparse

MOST = 20
"""How many coordinates a steepest step changes at most (thesis, section 5.4.1)."""

PER_COORDINATE = 39
"""One more for so many coordinates: 20 for an image of MNIST."""


class L1Ball(Ball):
    """{x′ : ‖x′ − x‖₁ ≤ ε} ∩ domain. See ``Ball`` for the arguments."""

    def deviation(self, x: Tensor, nu: Tensor) -> Tensor:
        """Return ε‖ν‖∞, or the ball's support cut by the domain."""
        return self.steps(x, _norm, _far).deviation(nu)

    def outward(self, x: Tensor) -> Ball:
        """Return the ball with its numbers rounded outward."""
        return self.rounded_up(x)

    def local(self, x: Tensor) -> Local:
        """Return the ball as rows see it."""
        return self.steps(x, _norm, _far)

    def polyhedron(self, x: Tensor) -> Polyhedron:
        """Return δ = p − q with p, q ≥ 0 and Σ(p + q) ≤ ε."""
        size, eps = x[0].numel(), self.radius(x).flatten()
        both = eps.new_ones(2 * size)
        signs, number = both.clone(), torch.arange(2 * size, device=x.device)
        signs[size:] = -1
        steps = sparse(number % size, number, signs, (size, 2 * size))
        return Polyhedron(steps, 0 * both, eps * both, both.unsqueeze(0), eps)

    def project(self, x: Tensor, point: Tensor) -> Tensor:
        """Return the nearest point, c + min([|δ| − θ]₊, w) with the sign of δ, for the step δ.

        θ ≥ 0 is the multiplier of ‖·‖₁ ≤ ε; without a domain this is Algorithm 10 of the thesis.
        """
        return self.step_to(x, point, _shorten)

    def random_start(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return a point of the ball, uniform by volume, moved into the domain."""
        noise = torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        noise = (noise - 0.5).sign() * -torch.log1p(-(2 * noise - 1).abs().clamp(max=1 - 1e-7))
        length = noise.flatten(1).abs().sum(1).clamp(min=torch.finfo(x.dtype).tiny)
        noise = noise / wide(length, x)
        return self.clamp(self.center(x) + noise * self.random_radius(x, generator))

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
        """Return ε/k along each of the k coordinates with the largest gradient.

        k is random (thesis, section 5.3.4): 5 to 20 for images of MNIST's size or larger, fewer
        for smaller ones. Coordinates that the domain stops at ``point`` are left out.
        """
        point = x if point is None else point
        lo, hi = self.domain_of(x)
        free = torch.where(gradient > 0, point < hi, point > lo)
        flat = (gradient * free).flatten(1)
        size, order = flat.abs().sort(dim=1, descending=True)
        most = max(1, min(MOST, flat.shape[1] // PER_COORDINATE))
        least = max(1, most // 4)
        count = torch.randint(least, most + 1, (len(x), 1), device=x.device, generator=generator)
        rank = torch.arange(flat.shape[1], device=x.device)
        taken = torch.where((rank < count) & (size > 0), 1 / count.to(x.dtype), 0)
        step = torch.zeros_like(flat).scatter(1, order, taken) * flat.sign()
        return step.reshape(x.shape) * self.radius(x)


def _norm(nu: Tensor) -> Tensor:
    return nu.abs().amax(2)


def _far(nu: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Return sup {νᵀδ : ‖δ‖₁ ≤ 1, −down ≤ δ ≤ up}, to rounding.

    With room wᵢ for coordinate i, duality in ‖δ‖₁ ≤ 1 gives, for every ψ ≥ 0,

        sup {|ν|ᵀδ : 0 ≤ δ ≤ w, Σδ ≤ 1} ≤ ψ + Σᵢ wᵢ[|νᵢ| − ψ]₊,

    with equality when ψ is the |νᵢ| at which the budget runs out, spending it on the largest
    first. For gradients ψ is held constant, and with it what is spent: all of the budget.
    """
    target = corner(nu, down, up)
    size, room = nu.detach().abs(), target.abs()
    best = least(partial(_priced, size, room.detach()), size.amax(2))
    if not torch.is_grad_enabled():
        return best.value
    ends = ((best.left, best.share), (best.right, 1 - best.share))
    spent = sum(size.clone().gt_(end.unsqueeze(2)) * part.unsqueeze(2) for end, part in ends)
    over = (size - best.price.unsqueeze(2)).clamp(min=0)
    total = vecdot(target.detach() * spent, nu) + vecdot(room, over)
    return total + (best.value - total).detach()


def _priced(size: Tensor, room: Tensor, price: Tensor) -> tuple[Tensor, Tensor]:
    """Return ψ + Σᵢ wᵢ[|νᵢ| − ψ]₊ and its slope in ψ."""
    over = (size - price.unsqueeze(2)).clamp_(min=0)
    value = price + vecdot(room, over)
    return value, 1 - vecdot(room, over.sign_())


def _shorten(size: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    """Return min([size − θ]₊, room) [N, D] of sum at most ε, with the smallest θ ≥ 0.

    The sum is piecewise linear in θ: coordinate i begins to shrink at sizeᵢ − roomᵢ and is 0
    from sizeᵢ on. In the piece where it meets ε it is solved for.
    """
    bends, order = torch.cat([(size - room).clamp(min=0), size], dim=1).sort(dim=1)
    change = torch.cat([torch.ones_like(size), -torch.ones_like(size)], dim=1)
    shrinking = change.gather(1, order).cumsum(1)[:, :-1]
    start = torch.minimum(size, room).sum(1, keepdim=True)
    total = start - (shrinking * bends.diff(dim=1)).cumsum(1)
    piece = (total > eps).sum(1, keepdim=True).clamp(max=total.shape[1] - 1)
    middle = (bends.gather(1, piece) + bends.gather(1, piece + 1)) / 2
    full, free = size - room >= middle, (size - room < middle) & (size > middle)
    kept = torch.where(full, room, size * free).sum(1, keepdim=True)
    theta = ((kept - eps) / free.sum(1, keepdim=True).clamp(min=1)).clamp(min=0)
    theta = torch.where(start <= eps, 0, theta)
    delta = torch.minimum((size - theta).clamp(min=0), room)
    return delta * (eps / delta.sum(1, keepdim=True).clamp(min=torch.finfo(size.dtype).tiny)).clamp(
        max=1
    )
