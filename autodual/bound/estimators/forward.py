"""Forward order: columns travel along with the network (thesis, Algorithm 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from autodual.bound.estimators.base import Estimator, Setting, Sums
from autodual.bound.estimators.projected import estimate_sums
from autodual.bound.layer import Layer
from autodual.bound.projection import Sources
from autodual.bound.relaxation import Relaxation
from autodual.bound.rows import Seeds, Units
from autodual.errors import InputError
from autodual.front.ir import Value


@dataclass(frozen=True)
class Forward(Estimator):
    """Every sum in full, from columns that are pushed on. Sound, for sets that are boxes."""

    def start(self, network: Relaxation, setting: Setting) -> Sums:
        """Return sums over columns."""
        return ForwardSums(network, setting)


class ForwardSums(Sums):
    """Columns travel as far as some target needs them."""

    def __init__(self, network: Relaxation, setting: Setting) -> None:
        super().__init__(network)
        if network.entry.weights is None:
            raise InputError(
                f"forward order needs a set that is a box (ℓ∞), not {network.entry.threat}"
            )
        self.sources = Sources(network)
        self.path = {step.out for step in network.plan.path(frozenset(setting.targets))}

    def extend(self, network: Relaxation, layer: Layer) -> None:
        """Push the columns one layer on."""
        super().extend(network, layer)
        if layer.value in self.path:
            self.sources.extend(layer)

    def columns(self, value: Value) -> int:
        """Count them."""
        return self.sources.count_at(value)

    def deviations(self, seeds: Seeds, both: bool) -> Tensor:
        """Sum |columns| at the rows' values."""
        known = {v: c for v in seeds.values if (c := self.sources.at[v]) is not None}
        if not known:
            return self.network.x.new_zeros(1, len(seeds))
        if isinstance(seeds, Units):
            (columns,) = known.values()
            sums = columns.abs().sum(1).flatten(1)
            owner = seeds.owner if len(sums) > 1 else torch.zeros_like(seeds.owner)
            return sums[owner, seeds.unit].unsqueeze(0)
        filled = {v: self.sources.filled(columns) for v, columns in known.items()}
        return estimate_sums(seeds, filled, lambda rows: rows.abs().sum(1)).unsqueeze(0)
