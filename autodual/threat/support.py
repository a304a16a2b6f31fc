"""The support function of a transport ball: a convex minimum over one price.

For rows ν, masses x and a budget b, duality in ⟨Π, C⟩ ≤ b gives, for every price ψ ≥ 0,

    sup {νᵀ(Πᵀ1 − x) : Π ≥ 0, Π1 = x, ⟨Π, C⟩ ≤ b} ≤ ψb + Σᵢ xᵢ maxⱼ(νⱼ − νᵢ − ψCᵢⱼ),

with equality at the best ψ. Two plans are optimal there: for a price just below it the mass spends
at least the budget, just above it at most that, and a mixture of the two spends it exactly. Held
constant, prices and plans give the gradient (envelope theorem).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from autodual.threat.convex import Least, least
from autodual.threat.transport import Moves

MARGIN = 1e-6
"""How far above the largest gain per cost the search for the price begins: nothing moves there."""


@dataclass(frozen=True, eq=False)
class Best:
    """What solves the problem for R rows, with K sources each.

    Attributes:
        value: [R], the bound at ``price`` [R].
        source, sent: [R, K], coordinates that may send mass, and their mass.
        share: [R], the share of the mass that follows the dearer plan.
        plans: finds the dearer and the cheaper plan: the move each source takes, [R, K] twice.
    """

    value: Tensor
    price: Tensor
    source: Tensor
    sent: Tensor
    share: Tensor
    plans: Callable[[], tuple[Tensor, Tensor]]


@torch.no_grad()
def solve(moves: Moves, nu: Tensor, mass: Tensor, budget: Tensor, all_sources: bool) -> Best:
    """Find price and plans for rows nu [R, D], masses [R, D] and budgets [R].

    Coordinates without mass are left out unless ``all_sources``, and those in whose reach ν is 0.
    """
    active = moves.near(nu != 0)
    if not all_sources:
        active &= mass > 0
    count = active.sum(1)
    row, column = active.nonzero(as_tuple=True)
    rank = torch.arange(len(row), device=nu.device) - (count.cumsum(0) - count)[row]
    width = int(count.amax()) if len(nu) > 0 else 0
    source = nu.new_zeros(len(nu), max(1, width), dtype=torch.long)
    source[row, rank] = column
    real = torch.arange(source.shape[1], device=nu.device) < count.unsqueeze(1)
    sent = torch.where(real, mass.gather(1, source), 0)
    classes = _classes(moves)
    padded = F.pad(nu, (0, 1), value=-torch.inf)
    own = torch.where(real, nu.gather(1, source), torch.inf)

    def gain(j: int) -> Tensor:
        return padded.gather(1, moves.target[j][source]) - own

    gains = [reduce(torch.maximum, map(gain, group)) for group in classes]
    costs = [_at(moves.cost[group[0]], source) for group in classes]
    best = _refine(gains, costs, sent, budget)

    def plans() -> tuple[Tensor, Tensor]:
        moved = [
            (gain(j), cost, j) for group, cost in zip(classes, costs, strict=True) for j in group
        ]
        return _plan(moved, best.left, source), _plan(moved, best.right, source)

    return Best(best.value, best.price, source, sent, best.share, plans)


def _plan(moved: list[tuple[Tensor, Tensor, int]], price: Tensor, source: Tensor) -> Tensor:
    """Return the best move of each source at a price [R]; 0, to stay, if there is no better one."""
    best, found = torch.zeros_like(source, dtype=price.dtype), torch.zeros_like(source)
    for gain, cost, j in moved:
        value = gain - price.unsqueeze(1) * cost
        found = torch.where(value > best, j, found)
        best = torch.maximum(value, best)
    return found


def rows_deviation(moves: Moves, nu: Tensor, mass: Tensor, budget: Tensor) -> Tensor:
    """Return the bound for R rows, [R], differentiable at the price and the plans found."""
    best = solve(moves, nu.detach(), mass.detach(), budget.detach(), mass.requires_grad)
    value = best.value + (0 * nu.detach()).sum(1)  # NaN where ν is not finite
    if not torch.is_grad_enabled():
        return value
    sent = mass.gather(1, best.source)
    padded = F.pad(nu, (0, 1))
    own = nu.gather(1, best.source)
    total = best.price * budget
    for taken, share in zip(best.plans(), (best.share, 1 - best.share), strict=True):
        cost = moves.cost[taken, best.source if moves.cost.shape[1] > 1 else 0]
        gain = padded.gather(1, moves.target[taken, best.source]) - own - best.price[:, None] * cost
        total = total + share * (sent * gain * (taken > 0)).sum(1)
    return total + (value - total).detach()


def best_plan(moves: Moves, nu: Tensor, mass: Tensor, budget: Tensor) -> Tensor:
    """Return the plan [N, J, D] that reaches the support of one row per example, nu [N, D]."""
    best = solve(moves, nu, mass, budget, False)
    plan = mass.new_zeros(len(mass), moves.target.numel())
    for taken, share in zip(best.plans(), (best.share, 1 - best.share), strict=True):
        place = taken * mass.shape[1] + best.source
        plan.scatter_add_(1, place, best.sent * share[:, None] * (taken > 0))
    plan = plan.unflatten(1, moves.target.shape)
    plan[:, 0] = (mass - plan.sum(1)).clamp(min=0)
    return plan


def _classes(moves: Moves) -> list[list[int]]:
    """Group the moves, but for that to stay, by their cost if all coordinates share it."""
    if moves.cost.shape[1] > 1:
        return [[j] for j in range(1, len(moves.cost))]
    by_cost: dict[float, list[int]] = {}
    for j, cost in enumerate(moves.cost.squeeze(1).tolist()):
        if j > 0:
            by_cost.setdefault(cost, []).append(j)
    return list(by_cost.values())


def _at(cost: Tensor, source: Tensor) -> Tensor:
    """Return the cost [1 or D] of a move at its sources."""
    return cost if len(cost) == 1 else cost[source]


def _refine(gains: list[Tensor], costs: list[Tensor], mass: Tensor, budget: Tensor) -> Least:
    """Minimise F(ψ) = ψb + Σᵢ xᵢ max(0, max_l gain − ψ·cost) for each row."""

    def evaluate(price: Tensor) -> tuple[Tensor, Tensor]:
        best, spent = torch.zeros_like(mass), torch.zeros_like(mass)
        for gain, cost in zip(gains, costs, strict=True):
            value = gain - price.unsqueeze(1) * cost
            spent = torch.where(value > best, cost, spent)
            best = torch.maximum(value, best)
        return price * budget + (mass * best).sum(1), budget - (mass * spent).sum(1)

    right = torch.zeros_like(budget)
    for gain, cost in zip(gains, costs, strict=True):
        right = torch.maximum(right, torch.where(cost > 0, gain / cost, 0).amax(1))
    return least(evaluate, right * (1 + MARGIN))
