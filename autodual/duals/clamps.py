"""Clamps, shrinkages and thresholds: linear pieces that bend or jump where the call says.

For a clamp to [−1, 1] and ℓ < −1, 1 < u the narrowest two lines have the slope 2/(1 + m) with
m = max(u, −ℓ), and h = |(1 − slope) ν_out|: Corollary 6 of the thesis, whose equations 3.62–3.63
as printed have slope and intercept swapped and max(u, ℓ), which is unsound. If [ℓ, u] meets one
bend only, the slope is the chord's; if none, the op is linear there.
"""

from __future__ import annotations

from autodual.duals.base import Call
from autodual.duals.piecewise import pieces


def minus_lambda(call: Call) -> float:
    """Return the lower end of what a shrinkage sends to zero."""
    return -float(call["lambd"])


TABLE = {
    "aten.hardtanh.default": pieces("min_val", "max_val", nondecreasing=True),
    "aten.relu6.default": pieces(0.0, 6.0, nondecreasing=True),
    "aten.hardsigmoid.default": pieces(-3.0, 3.0, nondecreasing=True),
    "aten.clamp.default": pieces("min", "max", nondecreasing=True),
    "aten.clamp_min.default": pieces("min", nondecreasing=True),
    "aten.clamp_max.default": pieces("max", nondecreasing=True),
    "aten.softshrink.default": pieces(minus_lambda, "lambd", nondecreasing=True),
    "aten.hardshrink.default": pieces(minus_lambda, "lambd", jumps=True, nondecreasing=True),
    "aten.threshold.default": pieces("threshold", jumps=True),
}
