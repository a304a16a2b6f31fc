"""Points at which all rows of a case are 0 or less: sought by projected gradient descent."""

from __future__ import annotations

import torch
from torch import Tensor

from autodual.verifier.system import System
from autodual.working import check_time

STARTS, STEPS = 32, 40
"""How many points of each case's box are tried before any bound, and in how many steps."""

FIRST, LAST = 0.25, 0.005
"""How far the first and the last step go, as parts of the box."""


def descend(
    system: System, x: Tensor, case: Tensor, steps: int, goal: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return the best points [N, n] on ways that begin at some, and their largest rows [N].

    Args:
        system: what is verified.
        x: where ways begin, [N, n].
        case: whose rows are to fall, [N], and in whose box, or set, ways stay.
        steps: how many steps; none once all rows of some point are at the goal or below.
    """
    lower, upper = (end[case] for end in system.ends)
    width, best, least = upper - lower, x, torch.full_like(x[:, 0], torch.inf)
    for step in range(steps + 1):
        check_time()
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            rows = system.excess(at, case)
            worst = rows.amax(1)
            hinge = torch.where(worst > 0, rows.clamp(min=0).sum(1), worst)
            total = hinge.sum() + 0.0 * at.sum()  # outputs may jump between constants
            (slope,) = torch.autograd.grad(total, at)
        worst = worst.detach().nan_to_num(torch.inf)
        better = worst < least
        best = torch.where(better.unsqueeze(1), x, best)
        least = torch.where(better, worst, least)
        if bool((least <= goal).any()) or step == steps:
            break
        length = FIRST * (LAST / FIRST) ** (step / max(steps, 1))
        slope = slope.nan_to_num(0, 0, 0)
        if system.around is not None:
            x = system.around.moved(x, slope, 2 * length)
        else:
            x = torch.clamp(x - length * width * slope.sign(), lower, upper)
    return best, least


def random_starts(system: System, case: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return the middle of the region of each of some cases [B] and random points, [B·count, n]."""
    if system.around is not None:
        return torch.cat([system.around.starts(count, generator) for _ in case])
    lower, upper = (end[case] for end in system.ends)
    share = torch.rand(len(lower), count, lower.shape[1], generator=generator, dtype=lower.dtype)
    share[:, 0] = 0.5
    share = share.to(lower.device)
    return torch.lerp(lower.unsqueeze(1), upper.unsqueeze(1), share).flatten(0, 1)
