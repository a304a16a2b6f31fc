"""How the sums over rows are found: one estimator per file, each with its ``Sums``."""

from __future__ import annotations

from autodual.bound.estimators.base import Estimator, Setting, Sums
from autodual.bound.estimators.exact import Exact, ExactSums
from autodual.bound.estimators.forms import FormSums
from autodual.bound.estimators.forward import Forward
from autodual.bound.estimators.noise import CauchyNoise
from autodual.bound.estimators.optimised import Kept, OptimisedSums
from autodual.bound.estimators.projected import Cauchy, Geometric, Median, Normal

__all__ = [
    "Cauchy",
    "CauchyNoise",
    "Estimator",
    "Exact",
    "ExactSums",
    "FormSums",
    "Forward",
    "Geometric",
    "Kept",
    "Median",
    "Normal",
    "OptimisedSums",
    "Setting",
    "Sums",
]
