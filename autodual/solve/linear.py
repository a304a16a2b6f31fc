"""The linear program over the convex outer polytope (thesis, 3.1.1), solved by HiGHS.

What is returned is no solver's optimum but what the dual point that it found proves: for the costs
c, any y ≥ 0 and the reduced costs ν = −c − rowsᵀy, weak duality gives

    c·d ≥ −y·most − sup over the set of ν·d − Σ over other variables of max(νⱼlowⱼ, νⱼhighⱼ).

The set may be taken for the box around it where rows say the rest, which helps where the supremum
is only known from above.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from autodual.bound.layer import Entry
from autodual.bound.relaxation import Relaxation
from autodual.errors import InputError
from autodual.front.ir import Value
from autodual.solve.polyhedron import polyhedron_of
from autodual.solve.polytope import Array, Polytope, polytope
from autodual.threat import L2Ball
from autodual.threat.base import inner

CUTS = 20
"""How many tangents at most cut an ℓ2 ball out of the box around it."""


def lower(network: Relaxation, specs: Mapping[Value, Tensor]) -> Tensor:
    """Return lower bounds [N, S] on Σ C·z over some values z, each with rows C [N or 1, S, *].

    Args:
        network: a relaxed network; to the program each of a layer's ``facets`` is a constraint.
        specs: the rows; those of the same number at several values belong together.

    Raises:
        InputError: the set is neither a box, an ℓ2 ball nor a ``polyhedron``.
    """
    check_set(network.entry)
    found = []
    for i in range(network.batch):
        one = network.select(torch.tensor([i], device=network.x.device))
        rows = {v: c[i if len(c) > 1 else 0] for v, c in specs.items()}
        nominal = sum(
            inner(c.unsqueeze(0).double(), one.nominal(v).double()) for v, c in rows.items()
        )
        assert isinstance(nominal, Tensor)
        whole = polytope(one)
        falls = [least(whole, cost, radius_of(one.entry)) for cost in whole.cost(rows)]
        found.append(nominal + nominal.new_tensor(falls))
    bound = torch.cat(found)
    return bound.masked_fill(~bound.isfinite(), -torch.inf).to(network.x.dtype)


def least(polytope: Polytope, cost: Array, radius: float | None = None) -> float:
    """Return a lower bound on c·d over a polytope, the minimum but for rounding.

    With a radius the input's ‖d‖₂ is no larger: tangents at the points that lie outside are added
    until none does, or ``CUTS`` are there.
    """
    best = -np.inf
    for _ in range(CUTS):
        point, y = _solved(polytope, cost)
        best = max(best, polytope.proved(cost, y))
        trimmed = None if point is None else polytope.trimmed(point, radius)
        if trimmed is None:
            break
        polytope = trimmed
    return best


def _solved(polytope: Polytope, cost: Array) -> tuple[Array | None, Array]:
    """Return a point that is optimal to the solver's tolerance, and y ≥ 0; 0 if it finds none."""
    zeros = np.zeros(len(polytope.most))
    if not len(zeros) or not (polytope.finite and np.isfinite(cost).all()):
        return None, zeros
    bounds = np.stack([polytope.low, polytope.high], 1)
    found = linprog(cost, A_ub=polytope.rows, b_ub=polytope.most, bounds=bounds, method="highs")
    if found.x is None:
        return None, zeros
    return found.x, np.maximum(-found.ineqlin.marginals, 0)


def radius_of(entry: Entry) -> float | None:
    """Return ε of an ℓ2 ball around an example; None for other sets."""
    threat = entry.threat
    own = type(threat).deviation is L2Ball.deviation
    return float(threat.radius(entry.x).max()) if isinstance(threat, L2Ball) and own else None


def check_set(entry: Entry) -> None:
    """Raise unless a program can say what the set is."""
    if entry.weights is not None or radius_of(entry) is not None:
        return
    if polyhedron_of(entry.threat, entry.x) is None:
        raise InputError(
            "programs take boxes, ℓ1, ℓ2 and Wasserstein balls, and sets that answer polyhedron(), "
            f"not {entry.threat}: certify(..., optimize=20) bounds every set"
        )
