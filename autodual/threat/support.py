"""The support function of a transport ball: a convex minimum over one price.

For rows ν, masses x and a budget b, duality in ⟨Π, C⟩ ≤ b gives, for every price ψ ≥ 0,

    sup {νᵀ(Πᵀ1 − x) : Π ≥ 0, Π1 = x, ⟨Π, C⟩ ≤ b} ≤ ψb + Σᵢ xᵢ maxⱼ(νⱼ − νᵢ − ψCᵢⱼ),

with equality at the best ψ. Two plans are optimal there: for a price just below it the mass spends
at least the budget, just above it at most that, and a mixture of the two spends it exactly. Held
constant, prices and plans give the gradient (envelope theorem).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
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
        source: [R, K], coordinates that may send mass.
        high, low: [R, K], the move each takes where the budget is spent too fast, or not fully.
        share: [R], the share of the mass that takes ``high``.
    """

    value: Tensor
    price: Tensor
    source: Tensor
    high: Tensor
    low: Tensor
    share: Tensor


@torch.no_grad()
def solve(moves: Moves, nu: Tensor, mass: Tensor, budget: Tensor, all_sources: bool) -> Best:
    """Find price and plans for rows nu [R, D], masses [R, D] and budgets [R].

    Coordinates without mass are left out unless ``all_sources``.
    """
    gain, move, cost = _classes(moves, nu)
    active = (gain > 0).any(0)
    if not all_sources:
        active &= mass > 0
    rank = active.cumsum(1)
    width = max(1, int(rank[:, -1].max())) if len(nu) else 1
    source = nu.new_zeros(len(nu), width, dtype=torch.long)
    row, column = active.nonzero(as_tuple=True)
    source[row, rank[row, column] - 1] = column
    real = torch.arange(width, device=nu.device) < rank[:, -1:]
    mass = torch.where(real, mass.gather(1, source), 0)
    gain = torch.stack([torch.where(real, g.gather(1, source), -torch.inf) for g in gain])
    cost = cost[:, source] if cost.shape[1] > 1 else cost.unsqueeze(2)
    value, price, high, low, share = _refine(gain, cost, mass, budget)

    def taken(layer: Tensor) -> Tensor:
        moved = move[
            (layer - 1).clamp(min=0), torch.arange(len(nu), device=nu.device)[:, None], source
        ]
        return torch.where(layer > 0, moved, 0)

    return Best(value, price, source, taken(high), taken(low), share)


def _classes(moves: Moves, nu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Join moves of one cost: best gain [L, R, D], the move it takes, and the cost [L, D or 1]."""
    joined = moves.cost.shape[1] == 1
    gains: list[Tensor] = []
    taken: list[Tensor] = []
    costs: list[Tensor] = []
    padded = torch.nn.functional.pad(nu, (0, 1), value=-torch.inf)
    for j in range(1, len(moves.cost)):
        gain = padded.index_select(1, moves.target[j]) - nu
        if joined and costs and bool(moves.cost[j] == costs[-1]):
            taken[-1] = torch.where(gain > gains[-1], j, taken[-1])
            gains[-1] = torch.maximum(gain, gains[-1])
        else:
            gains.append(gain)
            taken.append(torch.full_like(gain, j, dtype=torch.int16))
            costs.append(moves.cost[j])
    if not gains:
        return (
            nu.new_full((1, *nu.shape), -torch.inf),
            torch.zeros_like(nu).long()[None],
            nu.new_ones(1, 1),
        )
    return torch.stack(gains), torch.stack(taken).long(), torch.stack(costs)


def _refine(
    gain: Tensor, cost: Tensor, mass: Tensor, budget: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Minimise F(ψ) = ψb + Σᵢ xᵢ max(0, max_l gain − ψ·cost) for each row.

    F is convex and piecewise linear. The next price is where the tangents at the ends of the
    bracket meet; where they meet on F itself, F is least.
    """

    def evaluate(price: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        best, spent = torch.zeros_like(mass), torch.zeros_like(mass)
        layer = torch.zeros_like(mass, dtype=torch.long)
        for k in range(len(gain)):
            value = gain[k] - price.unsqueeze(1) * cost[k]
            better = value > best
            best = torch.where(better, value, best)
            spent = torch.where(better, cost[k], spent)
            layer = torch.where(better, k + 1, layer)
        return price * budget + (mass * best).sum(1), budget - (mass * spent).sum(1), layer

    left = torch.zeros_like(budget)
    right = torch.where(cost > 0, gain / cost, 0).clamp(min=0).amax((0, 2)) * (1 + MARGIN)
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
