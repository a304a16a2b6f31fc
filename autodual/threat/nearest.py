"""The nearest point of a convex set that is known by its maximizers alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

PAIRS = 30
"""How often weight moves between two atoms after each step."""


@torch.no_grad()
def nearest(
    aim: Tensor, start: Tensor, maximizer: Callable[[Tensor], Tensor], steps: int
) -> Tensor:
    """Return the point nearest to ``aim`` [N, D] in the set, by Frank–Wolfe with corrections.

    Each step finds the atom of the set that lies farthest in the direction of ``aim``, and then
    moves weight between the atoms found so far, always from the worst to the best of them. Every
    point on the way is a convex combination of points of the set.

    Args:
        aim: [N, D].
        start: [N, D], a point of the set.
        maximizer: direction [N, D] → the point of the set where it is largest.
        steps: how many atoms to find at most.
    """
    point, atoms, weight = start, start.unsqueeze(1), torch.ones_like(start[:, :1])
    tiny, noise = torch.finfo(aim.dtype).tiny, torch.finfo(aim.dtype).eps
    rows = torch.arange(len(aim), device=aim.device)
    for _ in range(steps):
        atom = maximizer(aim - point)
        gain = ((aim - point) * (atom - point)).sum(1)
        if not bool((gain > noise * (aim - point).square().sum(1)).any()):
            break
        atoms = torch.cat([atoms, atom.unsqueeze(1)], dim=1)
        weight = torch.cat([weight, torch.zeros_like(weight[:, :1])], dim=1)
        off = atoms - aim.unsqueeze(1)
        gram = off @ off.mT
        slope = (gram @ weight.unsqueeze(2)).squeeze(2)
        for _ in range(PAIRS):
            best = slope.argmin(1)
            worst = slope.masked_fill(weight <= 0, -torch.inf).argmax(1)
            change = gram[rows, best] - gram[rows, worst]
            curve = change[rows, best] - change[rows, worst]
            fall = slope[rows, worst] - slope[rows, best]
            move = torch.minimum(fall / curve.clamp(min=tiny), weight[rows, worst]).clamp(min=0)
            weight[rows, best] += move
            weight[rows, worst] -= move
            slope = slope + move.unsqueeze(1) * change
        point = (weight.unsqueeze(1) @ atoms).squeeze(1)
    return point
