"""Warnings stand at the line of the user's that led to them."""

from __future__ import annotations

import sys
import warnings

PASSED = ("autodual.", "torch.")


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line outside autodual and torch that led here."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and f"{frame.f_globals['__name__']}.".startswith(PASSED):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
