"""How attacks warn of the ways in which their answer can mislead."""

from __future__ import annotations

import sys
import warnings

from autodual.errors import AttackWarning


def warn(message: str) -> None:
    """Warn at the line outside autodual that led here."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and _within(frame.f_globals["__name__"]):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, AttackWarning, stacklevel=level)


def _within(module: str) -> bool:
    return module == "autodual" or module.startswith("autodual.")
