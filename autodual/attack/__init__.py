"""Attacks: the bound from the other side. Nothing here knows about dual layers."""

from __future__ import annotations

from autodual.attack.pgd import Attack, pgd
from autodual.attack.wasserstein import WassersteinAttack, wasserstein

__all__ = ["Attack", "WassersteinAttack", "pgd", "wasserstein"]
