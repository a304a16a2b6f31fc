"""The support function of a transport ball cut by a domain: a price for each pixel.

No pixel may hold more than u. Duality in that gives, for every p ≥ 0,

    sup {νᵀ(x′ − x) : x′ ∈ B(x), x′ ≤ u} ≤ pᵀ(u − x) + sup {(ν − p)ᵀ(x′ − x) : x′ ∈ B(x)}.

Any p is sound. The last set has no domain, and its support is that of ``threat.support``. Where the
plan that reaches it overfills a pixel, a higher price there makes the bound smaller.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.linalg import vecdot

from autodual.threat.support import Problem

STEPS = 3
"""How often prices are raised or lowered."""

RATE = 0.3
"""How far the price of the most overfull pixel rises at first, in units of the row's range."""


@torch.no_grad()
def find_prices(problem: Problem, high: Tensor) -> Tensor:
    """Return p [R, S, P], the best of a few steps of dual ascent from 0.

    Args:
        problem: that without a domain.
        high: the most that each cell holds, [R, 1, P].
    """
    high = high.clamp(max=torch.finfo(high.dtype).max)
    nu, room = problem.nu, high - problem.mass
    unit = nu.amax(2, keepdim=True) - nu.amin(2, keepdim=True)
    price = found = torch.zeros_like(nu)
    least = torch.full_like(nu[..., 0], torch.inf)
    for step in range(STEPS + 1):
        at = problem if step == 0 else replace(problem, nu=nu - price)
        best = at.least()
        value = best.value + vecdot(price, room)
        better = (value < least).unsqueeze(2)
        found, least = torch.where(better, price, found), torch.minimum(value, least)
        if step == STEPS:
            break
        over = at.arrivals(best) - high
        most = over.amax(2, keepdim=True)
        if not bool((most > 0).any()):
            break
        rise = (over / most.clamp(min=1e-30)).clamp(min=-1) * (RATE / (step + 1) * unit)
        price = torch.where(most > 0, (price + rise).clamp(min=0), price)
    return found
