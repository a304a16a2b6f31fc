"""The ladder: solvers of one question, each rung tighter and dearer than the one below."""

from __future__ import annotations

from autodual.ladder.base import Prepared, Search, Solution, Solver
from autodual.ladder.bounds import IBP, Dual, Optimised
from autodual.ladder.programs import LP, MILP

__all__ = ["IBP", "LP", "MILP", "Dual", "Optimised", "Prepared", "Search", "Solution", "Solver"]
