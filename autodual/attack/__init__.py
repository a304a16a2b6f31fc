"""Attacks: the bound from the other side. Nothing here knows about dual layers."""

from __future__ import annotations

from autodual.attack import losses
from autodual.attack.apgd import apgd, multi_targeted
from autodual.attack.ascent import Path, Strategy, run
from autodual.attack.closest import MinimumNorm, minimum_norm
from autodual.attack.ensemble import Ensemble, ensemble
from autodual.attack.finding import Attack
from autodual.attack.options import Options
from autodual.attack.pgd import fgsm, pgd
from autodual.attack.search import search
from autodual.attack.square import square
from autodual.attack.union import msd, worst_of
from autodual.attack.wasserstein import WassersteinAttack, wasserstein

__all__ = [
    "Attack",
    "Ensemble",
    "MinimumNorm",
    "Options",
    "Path",
    "Strategy",
    "WassersteinAttack",
    "apgd",
    "ensemble",
    "fgsm",
    "losses",
    "minimum_norm",
    "msd",
    "multi_targeted",
    "pgd",
    "run",
    "search",
    "square",
    "wasserstein",
    "worst_of",
]
