"""Linear programs that start from the basis of the one before, by HiGHS itself (highspy)."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np

from autodual.solve.polytope import Array, Polytope


def installed() -> bool:
    """Return whether highspy is there."""
    return find_spec("highspy") is not None


class Warm:
    """A polytope in the hands of HiGHS, which keeps its basis from cost to cost."""

    def __init__(self, polytope: Polytope) -> None:
        import highspy

        self._ok, columns = highspy.HighsModelStatus.kOptimal, polytope.rows.tocsc()
        model: Any = highspy.HighsLp()
        model.num_col_, model.num_row_ = len(polytope.low), len(polytope.most)
        model.col_cost_ = np.zeros(len(polytope.low))
        model.col_lower_, model.col_upper_ = polytope.low, polytope.high
        model.row_lower_ = np.full(len(polytope.most), -np.inf)
        model.row_upper_ = polytope.most
        model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        model.a_matrix_.start_, model.a_matrix_.index_ = columns.indptr, columns.indices
        model.a_matrix_.value_ = columns.data
        self._columns = np.arange(len(polytope.low), dtype=np.int32)
        self._solver: Any = highspy.Highs()
        self._solver.setOptionValue("output_flag", False)
        self._solver.passModel(model)

    def add(self, polytope: Polytope) -> None:
        """Take over the last constraint of a polytope that has one more."""
        row = polytope.rows[-1]
        count, places = row.nnz, row.indices.astype(np.int32)
        self._solver.addRow(-np.inf, float(polytope.most[-1]), count, places, row.data)

    def solve(self, cost: Array) -> tuple[Array, Array] | None:
        """Return a point that is optimal to the solver's tolerance, and y ≥ 0."""
        self._solver.changeColsCost(len(cost), self._columns, np.asarray(cost, dtype=float))
        self._solver.run()
        if self._solver.getModelStatus() != self._ok:
            return None
        found = self._solver.getSolution()
        return np.asarray(found.col_value), np.maximum(-np.asarray(found.row_dual), 0)
