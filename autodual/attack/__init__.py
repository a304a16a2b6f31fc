"""Attacks: the bound from the other side. Nothing here knows about dual layers."""

from __future__ import annotations

from autodual.attack import losses
from autodual.attack.apgd import apgd, multi_targeted
from autodual.attack.pgd import fgsm, pgd
from autodual.attack.problem import Attack

__all__ = ["Attack", "apgd", "fgsm", "losses", "multi_targeted", "pgd"]
