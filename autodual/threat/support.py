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

from autodual.threat.transport import Moves

STEPS = 60
"""How often the price is refined at most. Any price is sound; these make it exact to rounding."""

MARGIN = 1e-6
"""How far above the largest gain per cost the search for the price begins: nothing moves there."""

TINY = 1e-30
"""What a difference of slopes is at least, to divide by it."""


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
    own = nu.gather(1, source)

    def gain(j: int) -> Tensor:
        return torch.where(real, padded.gather(1, moves.target[j][source]) - own, -torch.inf)

    gains = [reduce(torch.maximum, map(gain, group)) for group in classes]
    costs = [_at(moves.cost[group[0]], source) for group in classes]
    value, price, high, low, share = _refine(gains, costs, sent, budget)

    def move(layer: Tensor) -> Tensor:
        """Return the best move of the class taken; 0 where the mass stays."""
        found = torch.zeros_like(layer)
        for k, group in enumerate(classes):
            for j in group:
                found = torch.where((layer == k + 1) & (gain(j) == gains[k]), j, found)
        return found

    return Best(value, price, source, sent, share, lambda: (move(high), move(low)))


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


def _refine(
    gains: list[Tensor], costs: list[Tensor], mass: Tensor, budget: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Minimise F(ψ) = ψb + Σᵢ xᵢ max(0, max_l gain − ψ·cost) for each row.

    F is convex and piecewise linear. The next price is where the tangents at the ends of the
    bracket meet; where they meet on F itself, F is least.
    """

    def evaluate(price: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        best, spent = torch.zeros_like(mass), torch.zeros_like(mass)
        layer = torch.zeros_like(mass, dtype=torch.long)
        for k, (gain, cost) in enumerate(zip(gains, costs, strict=True)):
            value = gain - price.unsqueeze(1) * cost
            better = value > best
            best = torch.where(better, value, best)
            spent = torch.where(better, cost, spent)
            layer = torch.where(better, k + 1, layer)
        return price * budget + (mass * best).sum(1), budget - (mass * spent).sum(1), layer

    left = torch.zeros_like(budget)
    right = torch.zeros_like(budget)
    for gain, cost in zip(gains, costs, strict=True):
        right = torch.maximum(right, torch.where(cost > 0, gain / cost, 0).amax(1))
    right = right * (1 + MARGIN)
    f_left, s_left, high = evaluate(left)
    f_right, s_right, low = evaluate(right)
    free = s_left >= 0  # the budget pays for the best plan there is
    best, at = torch.where(free | (f_left < f_right), f_left, f_right), right
    at = torch.where(free | (f_left < f_right), left, right)
    done = free
    for step in range(STEPS):
        if bool(done.all()):
            break
        meet = left + (f_right - f_left + s_right * (left - right)) / (s_left - s_right)
        middle = (left + right) / 2
        price = (meet if step % 4 < 3 else middle).clamp(left, right)
        price = torch.where(done, at, price)
        value, slope, layer = evaluate(price)
        better = value < best
        best, at = torch.where(better, value, best), torch.where(better, price, at)
        floor = torch.maximum(f_left + s_left * (price - left), f_right + s_right * (price - right))
        met = (value - floor <= value.abs() * torch.finfo(value.dtype).eps) & (price == meet)
        done = done | met | (price <= left) | (price >= right)
        up, down = ~done & (slope < 0), ~done & (slope >= 0)
        left, f_left, s_left = (
            torch.where(up, new, old)
            for new, old in ((price, left), (value, f_left), (slope, s_left))
        )
        right, f_right, s_right = (
            torch.where(down, new, old)
            for new, old in ((price, right), (value, f_right), (slope, s_right))
        )
        high = torch.where(up.unsqueeze(1), layer, high)
        low = torch.where(down.unsqueeze(1), layer, low)
    low = torch.where(free.unsqueeze(1), high, low)
    share = torch.where(free, 0, s_right / (s_right - s_left).clamp(min=TINY))
    return best, at, high, low, share.clamp(0, 1)
