"""Tighter answers to what a bound is asked: programs over a relaxed network, and over the whole."""

from __future__ import annotations

from autodual.solve.branching import OVER, Outcome, Whole, streamed
from autodual.solve.integer import check_whole, whole_network
from autodual.solve.linear import Linear, check_set, radius_of
from autodual.solve.outward import proved_outward
from autodual.solve.polytope import Array, Matrices, polytope

__all__ = [
    "OVER",
    "Array",
    "Linear",
    "Matrices",
    "Outcome",
    "Whole",
    "check_set",
    "check_whole",
    "polytope",
    "proved_outward",
    "radius_of",
    "streamed",
    "whole_network",
]
