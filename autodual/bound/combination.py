"""Bounds on the largest of several linear functions, by the best of their convex combinations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autodual.bound.reading import Bound
from autodual.front.ir import Value
from autodual.rounding import down

RATE = 2.0
"""How far the weights' logarithms move in the first step."""


def of_each(bound: Bound, output: Value, rows: Tensor, sizes: Sequence[int], steps: int) -> Tensor:
    """Return lower bounds [N, clauses] on the largest of each clause's rows.

    Where no clause has several rows to combine, one pass takes all of them.
    """
    if max(sizes) == 1:
        return _lower(bound, output, rows)
    found = [at_least_one(bound, output, some, steps) for some in rows.split([*sizes], 1)]
    return torch.stack(found, 1)


def at_least_one(bound: Bound, output: Value, rows: Tensor, steps: int) -> Tensor:
    """Return lower bounds [N] on max_s (c_s·z − d_s), for rows [N, S, K + 1] of c and d.

    Whatever the weights λ ≥ 0 with Σλ = 1, max_s (c_s·z − d_s) ≥ Σ λ_s (c_s·z − d_s). The best of
    the rows alone, of their mean and of ``steps`` steps of exponentiated gradient ascent in λ.
    Sound, since each weighting is.
    """
    if bound.networks[0].plan.rounding is not None:  # weights that add up to 1 are no floats
        return _lower(bound, output, rows).amax(1)
    mean = rows.mean(1, keepdim=True)
    bounds = _lower(bound, output, torch.cat([rows, mean], 1))
    best = bounds.amax(1)
    if rows.shape[1] == 1:
        return best
    logs = torch.zeros_like(bounds[:, :-1])
    for step in range(steps):
        if bool((best > 0).all()):
            break
        weights = logs.softmax(1).detach().requires_grad_()
        with torch.enable_grad():
            value = _lower(bound, output, (weights.unsqueeze(2) * rows).sum(1, keepdim=True))
            (slope,) = torch.autograd.grad(value.sum(), weights)
        best = torch.maximum(best, value.detach().squeeze(1))
        spread = (slope.amax(1, keepdim=True) - slope.amin(1, keepdim=True)).clamp(min=1e-12)
        logs = logs + RATE / (1 + step) ** 0.5 * slope.nan_to_num(0, 0, 0) / spread
    return best


def _lower(bound: Bound, output: Value, rows: Tensor) -> Tensor:
    """Return lower bounds [N, S] on c·z − d."""
    found = bound.lower({output: rows[..., :-1]}) - rows[..., -1]
    return found if bound.networks[0].plan.rounding is None else down(found)
