"""Perturbation sets: one object for the bound, attacks, training and certificates."""

from __future__ import annotations

from autodual.threat.ball import Ball
from autodual.threat.base import ThreatModel
from autodual.threat.box import Box, LinfBall
from autodual.threat.l1 import L1Ball
from autodual.threat.l2 import L2Ball
from autodual.threat.union import Union
from autodual.threat.wasserstein import Wasserstein

__all__ = [
    "Ball",
    "Box",
    "L1Ball",
    "L2Ball",
    "LinfBall",
    "ThreatModel",
    "Union",
    "Wasserstein",
    "as_threat",
]


def as_threat(eps: object) -> ThreatModel:
    """Return a threat model as it is, and read a number or a tensor as ``LinfBall(eps)``."""
    return eps if isinstance(eps, ThreatModel) else LinfBall(eps)  # type: ignore[arg-type]
