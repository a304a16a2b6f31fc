"""The least value of a convex function of one price, for many rows at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

STEPS = 60
"""How often a price is refined at most. Any price is sound; these make it exact to rounding."""

TINY = 1e-30
"""What a difference of slopes is at least, to divide by it."""

Priced = Callable[[Tensor], tuple[Tensor, Tensor]]
"""A price for each row → the function's value there and its slope."""


@dataclass(frozen=True, eq=False)
class Least:
    """Where a function is least, each of the shape of the rows.

    Attributes:
        value, price: the least value found and its price.
        left, right: prices between which it is least; the slope is < 0 at the left one unless
            both are 0, and ≥ 0 at the right one.
        share: how much of the slope at ``left``, the rest at ``right``, makes a slope of 0.
    """

    value: Tensor
    price: Tensor
    left: Tensor
    right: Tensor
    share: Tensor


@torch.no_grad()
def least(
    evaluate: Priced,
    right: Tensor,
    guess: Tensor | None = None,
    steps: int = STEPS,
) -> Least:
    """Minimise a convex, piecewise linear F on [0, right], where F is rising at ``right``.

    The next price is where the tangents at the ends of the bracket meet; where they meet on F
    itself, F is least.

    Args:
        evaluate: F and its slope.
        right: the end of the search.
        guess: the price to look at first, if one is known to be close.
        steps: how often to refine at most.
    """
    left = torch.zeros_like(right)
    (f_left, s_left), (f_right, s_right) = evaluate(left), evaluate(right)
    done = s_left >= 0
    right, f_right, s_right = (
        torch.where(done, low, high)
        for low, high in ((left, right), (f_left, f_right), (s_left, s_right))
    )
    best, at = torch.minimum(f_left, f_right), torch.where(f_left < f_right, left, right)
    for step in range(steps):
        if bool(done.all()):
            break
        meet = left + (f_right - f_left + s_right * (left - right)) / (s_left - s_right)
        price = meet if step % 4 < 3 else (left + right) / 2
        price = (price if step > 0 or guess is None else guess).clamp(left, right)
        price = torch.where(done, at, price)
        value, slope = evaluate(price)
        at, best = torch.where(value < best, price, at), torch.minimum(value, best)
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
    share = torch.where(s_left < 0, s_right / (s_right - s_left).clamp(min=TINY), 0)
    return Least(best, at, left, right, share.clamp(0, 1))
