"""Whether a box has no point on which some rows hold, proved by weak duality."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.optimize import linprog

Array = np.ndarray


def proved_empty(rows: Array | sp.csr_matrix, most: Array, low: Array, high: Array) -> bool:
    """Return whether it is proved that no x in [low, high] has rows x ≤ most.

    HiGHS finds the least s with rows x − most ≤ s, in units of each row and variable. Its dual
    point y ≥ 0 proves it if y (rows x − most) is positive all over the box, by more than rounding.
    """
    far = np.maximum(abs(low), abs(high))
    unit, size = np.where(far > 0, far, 1), abs(rows) @ far + abs(most) + np.finfo(float).tiny
    scaled, most = sp.csr_matrix(sp.diags(1 / size) @ sp.csr_matrix(rows)), most / size
    count, n = scaled.shape
    found = linprog(
        np.append(np.zeros(n), 1.0),
        A_ub=sp.hstack([scaled @ sp.diags(unit), -np.ones((count, 1))], format="csr"),
        b_ub=most,
        bounds=[*zip(low / unit, high / unit, strict=True), (None, None)],
        method="highs",
    )
    if found.x is None:
        return False
    y = np.maximum(-found.ineqlin.marginals, 0)
    reduced = scaled.T @ y
    least = np.minimum(reduced * low, reduced * high).sum() - y @ most
    return bool(least > 4 * np.finfo(float).eps * (count + n + 8) * y.sum())
