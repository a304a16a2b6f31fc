"""The linear program over the convex outer polytope (thesis, 3.1.1), solved by HiGHS.

What is returned is no solver's optimum but what the dual point that it found proves: for the costs
c, any y ≥ 0 and the reduced costs ν = −c − rowsᵀy, weak duality gives

    c·d ≥ −y·most − sup over the set of ν·d − Σ over other variables of max(νⱼlowⱼ, νⱼhighⱼ).

The set may be taken for the box around it where rows say the rest, which helps where the supremum
is only known from above.
"""

from __future__ import annotations

from threading import Lock

import numpy as np
from scipy.optimize import linprog
from torch import Tensor

from autodual.bound.layer import Entry
from autodual.errors import InputError
from autodual.solve.polyhedron import polyhedron_of
from autodual.solve.polytope import Array, Polytope
from autodual.solve.warm import Warm, installed
from autodual.threat import L2Ball, ThreatModel

CUTS = 20
"""How many tangents at most cut an ℓ2 ball out of the box around it."""


class Linear:
    """The linear programs over a polytope, one for each cost.

    Where highspy is installed each starts from the basis of the one before, which takes a quarter
    of the time; otherwise scipy solves each anew.

    Args:
        polytope: what it is over.
        radius: the input's ‖d‖₂ is no larger: tangents at points that lie outside are added until
            none does, or ``CUTS`` are there for a cost.
    """

    def __init__(self, polytope: Polytope, radius: float | None = None) -> None:
        self.polytope, self.radius = polytope, radius
        self._lock = Lock()  # another question may still be at it
        self._warm = Warm(polytope) if installed() and len(polytope.most) else None

    def least(self, cost: Array) -> float:
        """Return a lower bound on c·d, the minimum but for rounding."""
        return self.proof(cost)[0]

    def proof(self, cost: Array) -> tuple[float, Array]:
        """Return that bound with the y ≥ 0 that proves it, for the constraints there are now."""
        with self._lock:
            return self._proof(cost)

    def _proof(self, cost: Array) -> tuple[float, Array]:
        best, dual = -np.inf, np.zeros(len(self.polytope.most))
        for _ in range(CUTS):
            point, y = self._solved(cost)
            value = self.polytope.proved(cost, y)
            if value > best:
                best, dual = value, y
            trimmed = None if point is None else self.polytope.trimmed(point, self.radius)
            if trimmed is None:
                break
            if self._warm is not None:
                self._warm.add(trimmed)
            self.polytope = trimmed
        return best, dual

    def _solved(self, cost: Array) -> tuple[Array | None, Array]:
        """Return a point that is optimal to the solver's tolerance, and y ≥ 0; 0 if none."""
        polytope = self.polytope
        zeros = np.zeros(len(polytope.most))
        if not len(zeros) or not (polytope.finite and np.isfinite(cost).all()):
            return None, zeros
        found = _cold(polytope, cost) if self._warm is None else self._warm.solve(cost)
        return (None, zeros) if found is None else found


def _cold(polytope: Polytope, cost: Array) -> tuple[Array, Array] | None:
    """Return a point and y by scipy."""
    bounds = np.stack([polytope.low, polytope.high], 1)
    found = linprog(cost, A_ub=polytope.rows, b_ub=polytope.most, bounds=bounds, method="highs")
    if found.x is None:
        return None
    return found.x, np.maximum(-found.ineqlin.marginals, 0)


def radius_of(threat: ThreatModel, x: Tensor) -> float | None:
    """Return ε of an ℓ2 ball around an example; None for other sets."""
    own = type(threat).deviation is L2Ball.deviation
    return float(threat.radius(x).max()) if isinstance(threat, L2Ball) and own else None


def sayable(threat: ThreatModel, x: Tensor) -> bool:
    """Return whether a program can say what the set around an example is."""
    known = threat.weights(x) is not None or radius_of(threat, x) is not None
    return known or polyhedron_of(threat, x) is not None


def check_set(entry: Entry) -> None:
    """Raise unless a program can say what the set is."""
    if not sayable(entry.threat, entry.x):
        raise InputError(
            "programs take boxes, ℓ1, ℓ2 and Wasserstein balls, and sets that answer polyhedron(), "
            f"not {entry.threat}: certify(..., optimize=20) bounds every set"
        )
