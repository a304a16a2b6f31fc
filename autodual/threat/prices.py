"""The support function of a transport ball cut by a domain: a price for each pixel.

No pixel may hold more than u. Duality in that gives, for every p ≥ 0,

    sup {νᵀ(x′ − x) : x′ ∈ B(x), x′ ≤ u} ≤ pᵀ(u − x) + sup {(ν − p)ᵀ(x′ − x) : x′ ∈ B(x)}.

Any p is sound. The last set has no domain, and its support is that of ``threat.support``. Where the
plan that reaches it overfills a pixel, a higher price there makes the bound smaller.

Rounding makes another row of ν − p, off by eᵢ, a roundoff of νᵢ − pᵢ, where p is not 0: its price
is p + e. Where that is at least 0 it costs up to (p + |e|)ᵀ(u − x), elsewhere, as x′ ≥ 0, |e|ᵀx.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.linalg import vecdot

from autodual.rounding import gamma, roundoff
from autodual.rounding import least as smallest
from autodual.threat.convex import TINY
from autodual.threat.support import Problem

STEPS = 3
"""How often prices are raised or lowered."""

RATE = 0.3
"""How far the price of the most overfull pixel rises at first, in units of the row's range."""

REFINED = 6
"""How often the price of cost is refined when those of pixels have changed."""


@torch.no_grad()
def find_prices(problem: Problem, high: Tensor, rounded: bool = False) -> tuple[Tensor, Tensor]:
    """Return p [R, S, P], the best of a few steps of dual ascent from 0, and the bound [R, S].

    Args:
        problem: that without a domain.
        high: the most that each cell holds, [R, 1, P].
        rounded: whether to add what rounding may take from the bound.
    """
    nu, room = problem.nu, high - problem.mass
    unit = nu.amax(2, keepdim=True) - nu.amin(2, keepdim=True)
    price = found = torch.zeros_like(nu)
    at, best = problem, problem.least()
    least = best.value
    for step in range(STEPS):
        over = at.arrivals(best) - high
        most = over.amax(2, keepdim=True)
        if not bool((most > 0).any()):
            break
        rise = (over / most.clamp(min=TINY)).clamp(min=-1) * (RATE / (step + 1) * unit)
        price = (price + rise * (most > 0)).clamp(min=0)
        at = replace(problem, nu=nu - price)
        best = at.least(best.price, REFINED)
        value = best.value + vecdot(price, room)
        if rounded:
            off = 4 * roundoff(value.dtype) * vecdot(at.nu.abs() * (price > 0), high)
            value = summed_up(value + off, price.shape[2])
        found = torch.where((value < least).unsqueeze(2), price, found)
        least = torch.minimum(value, least)
    return found, least


def summed_up(total: Tensor, count: int) -> Tensor:
    """Return what a computed sum of so many terms, none below 0, may at most be."""
    return total * (1 + gamma(2 * count, total.dtype)) + count * smallest(total.dtype)
