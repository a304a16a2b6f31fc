"""Perturbation sets: one object for the bound, attacks, training and certificates."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from autodual.threat.ball import Ball
from autodual.threat.base import ThreatModel
from autodual.threat.box import Box, LinfBall
from autodual.threat.l1 import L1Ball
from autodual.threat.l2 import L2Ball
from autodual.threat.polyhedron import Polyhedron
from autodual.threat.product import Product
from autodual.threat.union import Union
from autodual.threat.wasserstein import Wasserstein

__all__ = [
    "Ball",
    "Box",
    "Eps",
    "L1Ball",
    "L2Ball",
    "LinfBall",
    "Polyhedron",
    "Product",
    "ThreatModel",
    "Union",
    "Wasserstein",
    "as_threat",
    "keys",
]

Eps = float | Tensor | ThreatModel | Mapping[int | str, float | Tensor | ThreatModel]
"""What sets are given as."""


def as_threat(eps: object) -> ThreatModel:
    """Return a threat model as it is, and read a number or a tensor as ``LinfBall(eps)``.

    A mapping is a set for each of several arguments.
    """
    if isinstance(eps, Mapping):
        return Product({key: as_threat(each) for key, each in eps.items()})
    return eps if isinstance(eps, ThreatModel) else LinfBall(eps)  # type: ignore[arg-type]


def keys(threat: ThreatModel) -> tuple[int | str, ...] | None:
    """Return the arguments that a set names, if it is one for several."""
    return threat.keys if isinstance(threat, Product) else None
