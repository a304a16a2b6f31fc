"""Steps and choices on one side of an edge and the other: ``passes/conditions.py`` writes them."""

from __future__ import annotations

from autodual.duals.piecewise import pieces

TABLE = {
    "autodual.step": pieces("edge", jumps=True, argument="input"),
    "autodual.split": pieces("edge", jumps=True, argument="input"),
}
