"""Tighter answers to what a bound is asked: programs over a relaxed network, and over the whole."""

from __future__ import annotations

from autodual.solve.branching import Outcome, decide, streamed
from autodual.solve.integer import check_whole, whole_network
from autodual.solve.linear import lower, radius_of

__all__ = [
    "Outcome",
    "check_whole",
    "decide",
    "lower",
    "radius_of",
    "streamed",
    "whole_network",
]
