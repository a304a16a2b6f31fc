"""The support function of a transport ball cut by a domain: a price for each pixel.

No pixel may hold more than u. Duality in that gives, for every p ≥ 0,

    sup {νᵀ(x′ − x) : x′ ∈ B(x), x′ ≤ u} ≤ pᵀ(u − x) + sup {(ν − p)ᵀ(x′ − x) : x′ ∈ B(x)}.

Any p is sound. The last set has no domain, and its support is that of ``threat.support``. Where the
plan that reaches it overfills a pixel, a higher price there makes the bound smaller.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autodual.threat.support import Best, rows_deviation, solve
from autodual.threat.transport import Moves

STEPS = 3
"""How often prices are raised or lowered: each costs as much as the bound without a domain."""

RATE = 0.3
"""How far the price of the most overfull pixel rises at first, in units of the row's range."""


def priced_deviation(
    moves: Moves, nu: Tensor, mass: Tensor, budget: Tensor, high: Tensor
) -> Tensor:
    """Return the bound for R rows, [R], differentiable at the prices and plans found.

    Args:
        moves: where mass may move.
        nu, mass, high: rows [R, D], masses and the most that each pixel holds.
        budget: [R].
    """
    price = find_prices(moves, nu.detach(), mass.detach(), budget.detach(), high)
    room = torch.where(price > 0, high - mass, 0)
    return rows_deviation(moves, nu - price, mass, budget) + (price * room).sum(1)


@torch.no_grad()
def find_prices(moves: Moves, nu: Tensor, mass: Tensor, budget: Tensor, high: Tensor) -> Tensor:
    """Return p [R, D], the best of a few steps of dual ascent from 0.

    Rows whose plans overfill no pixel are exact and left alone.
    """
    found = torch.zeros_like(nu)
    row = torch.arange(len(nu), device=nu.device)
    price, least = found, torch.full_like(budget, torch.inf)
    for step in range(STEPS + 1):
        best = solve(moves, nu - price, mass, budget, False)
        value = best.value + torch.where(price > 0, price * (high - mass), 0).sum(1)
        better = value < least
        found[row[better]], least = price[better], torch.minimum(value, least)
        over = _arrivals(moves, best, mass) - high
        open_ = (over > 0).any(1)
        if step == STEPS or not bool(open_.any()):
            break
        row, nu, mass, budget, high, price, least, over = (
            part[open_] for part in (row, nu, mass, budget, high, price, least, over)
        )
        unit = nu.amax(1, keepdim=True) - nu.amin(1, keepdim=True)
        slope = (over / over.amax(1, keepdim=True)).clamp(min=-1)
        price = (price + RATE / (step + 1) * unit * slope).clamp(min=0)
    return found


def _arrivals(moves: Moves, best: Best, mass: Tensor) -> Tensor:
    """Return where the best mixture of plans leads, [R, D]."""
    image = mass.scatter_add(1, best.source, -best.sent)
    for taken, share in zip(best.plans(), (best.share, 1 - best.share), strict=True):
        image.scatter_add_(1, moves.target[taken, best.source], best.sent * share[:, None])
    return image
