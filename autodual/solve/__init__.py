"""Tighter answers to what a bound is asked: programs over a relaxed network."""

from __future__ import annotations

from autodual.solve.linear import lower

__all__ = ["lower"]
