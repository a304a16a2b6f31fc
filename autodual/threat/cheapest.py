"""The cheapest plan between two images, by linear programming."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from autodual.threat.transport import Moves

MASS = 1e-6
"""Which share of an image's mass may be missing or too much: what rounding leaves."""


def least_cost(moves: Moves, x: Tensor, point: Tensor) -> float:
    """Return the cost of the cheapest plan from x [D] to ``point`` [D], per unit of mass.

    An exact linear program; infinite if there is no plan. A share ``MASS`` of the mass may
    appear or vanish on the way.
    """
    from scipy.optimize import linprog
    from scipy.sparse import coo_array, vstack

    start = x.detach().double().cpu().numpy().clip(min=0)
    end = point.detach().double().cpu().numpy()
    total = start.sum()
    if not np.isfinite(end).all() or abs(end.sum() - total) + -end.clip(max=0).sum() > MASS * total:
        return np.inf if np.abs(end).sum() > 0 or not np.isfinite(end).all() else 0.0
    if total == 0:
        return 0.0
    start, end = start / total, end.clip(min=0) / total
    target = moves.target.cpu().numpy()
    cost = np.broadcast_to(moves.cost.double().cpu().numpy(), target.shape)
    move, source = np.nonzero((target < len(start)) & (start > 0))
    sink, price = target[move, source], cost[move, source]
    variables, n = np.arange(len(move)), len(start)
    leaves = coo_array((np.ones(len(move)), (source, variables)), (n, len(move) + 2 * n))
    slack = np.arange(n)
    arrives = coo_array(
        (
            np.concatenate([np.ones(len(move) + n), -np.ones(n)]),
            (
                np.concatenate([sink, slack, slack]),
                np.concatenate([variables, len(move) + slack, len(move) + n + slack]),
            ),
        ),
        (n, len(move) + 2 * n),
    )
    missing = np.concatenate([np.zeros(len(move)), np.ones(2 * n)])
    result = linprog(
        np.concatenate([price, np.zeros(2 * n)]),
        A_ub=missing[None],
        b_ub=[MASS],
        A_eq=vstack([leaves, arrives]).tocsr(),
        b_eq=np.concatenate([start, end]),
        method="highs",
    )
    return float(result.fun) if result.status == 0 else np.inf
