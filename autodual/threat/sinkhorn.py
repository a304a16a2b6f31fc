"""Projected Sinkhorn iteration (thesis, Algorithm 8) in the log domain."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from autodual.threat.transport import Moves

FAR = 1e6
"""How far a point may lie from an image of mass 1 and still be told from one even farther."""

TINY = 1e-300

NEWTON = 6
"""Steps for Lambert's W."""

LAST = 5
"""Steps of ψ alone at the end, so that the plan spends the budget."""

ENTROPY = 1000.0
"""λ of equation 5.4 for images of mass 1: the larger, the closer and the slower."""

ITERATIONS = 50
"""Rounds of steps; the thesis counts 30 to 40."""


@torch.no_grad()
def projected_sinkhorn(
    moves: Moves,
    x: Tensor,
    point: Tensor,
    budget: Tensor,
    lam: float,
    iterations: int,
) -> Tensor:
    """Return a plan [N, J, D] within the budget that leads from x close to ``point``.

    Block ascent in the dual of

        min ½‖w − z‖² + (1/λ) Σᵢⱼ Πᵢⱼ log Πᵢⱼ  over  Π1 = x, Πᵀ1 = z, ⟨Π, C⟩ ≤ b.

    α is eliminated: its step makes row i of Π equal to xᵢ softmaxⱼ(βⱼ − ψCᵢⱼ). Steps of β and ψ
    take turns. The last plan has the right row sums; if it costs more than b, it is mixed with
    the plan that moves nothing. So the result is feasible whatever λ and ``iterations``.

    Args:
        moves: where mass may move.
        x, point: [N, D], x at least 0.
        budget: b [N].
        lam: λ, for images of mass 1.
        iterations: how many steps of β and ψ.
    """
    total = x.double().sum(1).clamp(min=torch.finfo(torch.float32).tiny)
    start, w = x.double() / total[:, None], (point.double() / total[:, None]).clamp(-FAR, FAR)
    limit = budget.double() / total
    cost = moves.cost.double()
    beta, psi = torch.zeros_like(w), torch.ones_like(total)

    def respond() -> Tensor:
        """Take the step of α, then of ψ; return the plan."""
        nonlocal psi
        plan = _plan(moves, cost, start, beta, psi)
        curve = (plan * cost.square()).flatten(1).sum(1).clamp(min=TINY)
        spent = (plan * cost).flatten(1).sum(1)
        psi = (psi + (spent - limit) / curve).clamp(0, FAR * lam)
        return _plan(moves, cost, start, beta, psi)

    for _ in range(iterations):
        arrived = moves.land(respond())
        beta = lam * w - _omega(lam * w - beta + (lam * arrived).log())
    for _ in range(LAST):
        plan = respond()
    spent = (plan * cost).flatten(1).sum(1)
    share = (limit / spent.clamp(min=TINY)).clamp(max=1)[:, None, None]
    stay = torch.zeros_like(plan)
    stay[:, 0] = start
    return (total[:, None, None] * (share * plan + (1 - share) * stay)).to(x.dtype)


def _plan(moves: Moves, cost: Tensor, start: Tensor, beta: Tensor, psi: Tensor) -> Tensor:
    """Return xᵢ softmaxⱼ(βⱼ − ψCᵢⱼ), [N, J, D]."""
    return start[:, None] * (moves.reach(beta, -torch.inf) - psi[:, None, None] * cost).softmax(1)


def _omega(u: Tensor) -> Tensor:
    """Return W(eᵘ): the ω with ω + log ω = u, by Newton's method from above or close by."""
    u = u.clamp(min=math.log(TINY))
    omega = torch.where(u > 1, u - u.clamp(min=1).log(), u.clamp(max=1).exp())
    for _ in range(NEWTON):
        omega = omega * (1 + u - omega.log()) / (1 + omega)
    return omega
