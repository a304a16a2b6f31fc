"""The largest radius at which something holds, for each example."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

FAR = 1e6
"""Where the search for a radius that is too large ends."""


def largest(holds: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Tensor:
    """Return the largest radius [N] found at which ``holds``; 0 where none is.

    The radius is doubled from ``start`` until it is too large, then bisected. Each that is
    returned was tried, so the result is right whatever ``steps``.

    Args:
        holds: radii [N] → [N] bool.
        start: the first radii [N], positive.
        steps: how often to double, and how often to halve.
    """
    least, most = torch.zeros_like(start), start
    for _ in range(steps):
        grew = holds(most)
        least = torch.where(grew, most, least)
        if not bool(grew.any()) or float(most.max()) > FAR:
            break
        most = torch.where(grew, 2 * most, most)
    for _ in range(steps):
        middle = (least + most) / 2
        inside = holds(middle)
        least, most = torch.where(inside, middle, least), torch.where(inside, most, middle)
    return least
