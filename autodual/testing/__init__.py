"""Prove a dual layer by its properties. Needs hypothesis: ``pip install 'autodual[testing]'``.

``check_dual_layer(rule, op)`` tries to break a rule, and shows the smallest example that does.
``check_threat_model(threat, x)`` tries a set. Both return what was tried, and what was not and why.
"""

from __future__ import annotations

from autodual.testing.case import Case, T, Z
from autodual.testing.check import check_dual_layer
from autodual.testing.mutants import mutants
from autodual.testing.report import Checked
from autodual.testing.strategies import intervals, nets, specs
from autodual.testing.threats import check_threat_model

__all__ = [
    "Case",
    "Checked",
    "T",
    "Z",
    "check_dual_layer",
    "check_threat_model",
    "intervals",
    "mutants",
    "nets",
    "specs",
]
