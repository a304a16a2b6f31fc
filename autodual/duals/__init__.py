"""Dual layers, one op family per file; ``registry.REGISTRY`` lists them all."""

from __future__ import annotations

from autodual.duals.base import (
    Affine,
    Bilinear,
    Call,
    DualLayer,
    Elementwise,
    IntervalRule,
)
from autodual.duals.curves import Curve, by_curve, smooth
from autodual.duals.piecewise import Pieces, Piecewise, pieces
from autodual.duals.planes import Lines, Planes
from autodual.duals.registry import REGISTRY, Registry

__all__ = [
    "REGISTRY",
    "Affine",
    "Bilinear",
    "Call",
    "Curve",
    "DualLayer",
    "Elementwise",
    "IntervalRule",
    "Lines",
    "Pieces",
    "Piecewise",
    "Planes",
    "Registry",
    "by_curve",
    "pieces",
    "smooth",
]
