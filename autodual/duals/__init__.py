"""Dual layers, one op family per file; ``registry.REGISTRY`` lists them all."""

from __future__ import annotations

from autodual.duals.affine import Affine
from autodual.duals.base import TIGHTNESS, Call, DualLayer, Either
from autodual.duals.curves import Curve, by_curve, smooth
from autodual.duals.elementwise import Elementwise
from autodual.duals.intervals import IntervalRule
from autodual.duals.maximum import Extreme
from autodual.duals.piecewise import Pieces, Piecewise, pieces
from autodual.duals.products import MatrixProduct
from autodual.duals.registry import REGISTRY, Registry
from autodual.duals.relaxed import Choice, Exact, Lines, Planes, Product, Relaxed, Sides

__all__ = [
    "REGISTRY",
    "TIGHTNESS",
    "Affine",
    "Call",
    "Choice",
    "Curve",
    "DualLayer",
    "Either",
    "Elementwise",
    "Exact",
    "Extreme",
    "IntervalRule",
    "Lines",
    "MatrixProduct",
    "Pieces",
    "Piecewise",
    "Planes",
    "Product",
    "Registry",
    "Relaxed",
    "Sides",
    "by_curve",
    "pieces",
    "smooth",
]
