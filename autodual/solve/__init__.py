"""Tighter answers to what a bound is asked: programs over a relaxed network, and over the whole."""

from __future__ import annotations

from autodual.solve.branching import LATE, Outcome, decide, sought, streamed
from autodual.solve.integer import check_whole, whole_network
from autodual.solve.linear import Linear, check_set, radius_of
from autodual.solve.polytope import Array, Matrices, Polytope, polytope

__all__ = [
    "LATE",
    "Array",
    "Linear",
    "Matrices",
    "Outcome",
    "Polytope",
    "check_set",
    "check_whole",
    "decide",
    "polytope",
    "radius_of",
    "sought",
    "streamed",
    "whole_network",
]
