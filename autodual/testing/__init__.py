"""Prove a dual layer by its properties. Needs hypothesis: ``pip install 'autodual[testing]'``.

``check_dual_layer(rule, op)`` tries to break a rule, and shows the smallest example that does.
"""

from __future__ import annotations

from autodual.testing.case import Case, T, Z
from autodual.testing.check import check_dual_layer
from autodual.testing.mutants import mutants
from autodual.testing.strategies import intervals, nets, specs

__all__ = ["Case", "T", "Z", "check_dual_layer", "intervals", "mutants", "nets", "specs"]
