"""Every sum in full: rows travel back, in chunks, and are recomputed where gradients need them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from autodual.bound.estimators.base import Estimator, Setting, Sums
from autodual.bound.memory import give_back
from autodual.bound.plan import RowCost
from autodual.bound.recompute import Others, Piece, in_pieces, recomputed
from autodual.bound.relaxation import Relaxation
from autodual.bound.rows import Memo, Seeds, Units
from autodual.bound.travel import Observer, deviations, row_cost
from autodual.working import spend

CACHE_BYTES = 2**23
"""How many bytes one form of a chunk's rows may take on a CPU: what stays in its cache is fast."""

KEPT = 4
"""Which part of the budget rows may take that are kept for the backward pass."""

KEPT_BYTES = 2**25
"""How many bytes they may take on a CPU at most: to fetch more costs more than to recompute."""

TRIM = 16
"""After how many chunks freed memory is given back: holes between them grow otherwise."""

MEMO = 64
"""Which part of the budget one table may take that the chunks of a pass share."""


FEW = 1e8
"""The work of so few rows that torch spends about as long on calls, some hundred of them."""


@dataclass(frozen=True)
class Exact(Estimator):
    """Every sum in full, from rows that travel back. Sound."""

    def start(self, network: Relaxation, setting: Setting) -> Sums:
        """Return sums over rows."""
        return ExactSums(network, setting)

    def seed(self) -> int:
        """Draw nothing."""
        return 0


class ExactSums(Sums):
    """Rows travel back, within the budget.

    Rows whose gradient is wanted are kept if they all fit; otherwise, and always for unit rows
    where the host may look for them, those with a gradient that is not zero are computed anew in
    the backward pass.
    """

    parallel = False

    def __init__(self, network: Relaxation, setting: Setting) -> None:
        super().__init__(network)
        self.memory, self.select, self.observe = setting.memory, setting.select, setting.observe

    def deviations(self, seeds: Seeds, both: bool) -> Tensor:
        """Sum exactly."""
        network, memory = self.network, self.memory
        if get_proxy_mode() is not None:  # it is being traced, to be compiled as a whole
            return deviations(network, seeds, Memo(False, memory // MEMO), both)
        if len(seeds) == 0:
            ends = 2 if both and not network.symmetric(seeds.values) else 1
            return network.x.new_zeros(ends, 0)
        rows = self.chunks(seeds, both)
        leaves = self.leaves(seeds) if torch.is_grad_enabled() else []
        if not any(t.requires_grad for t in leaves) or self._keeps(seeds):
            return in_pieces(rows, dim=1)
        rows = replace(rows, network=network.until(seeds.values))
        return recomputed(rows, leaves, dim=1, select=self.select)

    def few(self, seeds: Seeds) -> bool:
        """Return whether rows are computed in about the time that it takes to call for them."""
        return len(seeds) > 0 and len(seeds) * row_cost(self.network, seeds).work <= FEW

    def chunks(self, seeds: Seeds, both: bool) -> Chunks:
        """Return the chunks in which rows are taken."""
        return Chunks(self.network, seeds, both, self.memory, self.observe)

    def leaves(self, seeds: Seeds) -> list[Tensor]:
        """Return what a gradient could be wanted for."""
        return [*self.network.tensors(seeds.values), *seeds.tensors()]

    def _keeps(self, seeds: Seeds) -> bool:
        """Return whether autograd may keep the rows."""
        cuda = self.network.x.is_cuda
        most = self.memory // KEPT if cuda else min(self.memory // KEPT, KEPT_BYTES)
        fits = len(seeds) * row_cost(self.network, seeds).total_bytes <= most
        return fits and (not isinstance(seeds, Units) or not self.select)


@dataclass(frozen=True, eq=False)
class Chunks:
    """Chunks of rows; what they share is computed once per pass."""

    network: Relaxation
    seeds: Seeds
    both: bool
    memory: int
    observe: Observer | None

    @cached_property
    def cost(self) -> RowCost:
        """What a row takes."""
        return row_cost(self.network, self.seeds)

    def __call__(self, others: Others, matter: Tensor | None) -> Iterator[Piece]:
        """Yield them, as ``recompute`` asks for them."""
        network, seeds = self.network, self.seeds
        if others:
            network, seeds = network.replace(others), seeds.replace(others)
        if matter is not None:
            with torch.enable_grad():
                seeds = seeds.take(matter)
        memo = Memo(detach=bool(others), room=self.memory // MEMO)
        for number, chunk in enumerate(self.cut(seeds), start=1):

            def run(chunk: slice = chunk) -> Tensor:
                return self.find(network, seeds.take(chunk), memo)

            yield chunk, run
            spend((chunk.stop - chunk.start) * self.cost.work)
            if number % TRIM == 0:
                give_back()
        memo.finish()

    def find(self, network: Relaxation, seeds: Seeds, memo: Memo) -> Tensor:
        """Return how far rows can fall, and rise, [E, R]."""
        return deviations(network, seeds, memo, self.both, self.observe)

    @property
    def at_once(self) -> int:
        """How many rows fit."""
        cuda = self.network.x.is_cuda
        room = self.memory // 16 if cuda else min(self.memory // 16, CACHE_BYTES)
        return room // self.cost.widest_bytes

    def cut(self, seeds: Seeds) -> Iterator[slice]:
        """Yield slices of the rows, as many at a time as there is room for."""
        if len(seeds) == 0:
            return
        size = max(1, self.at_once // seeds.group) * seeds.group
        for start in range(0, len(seeds), size):
            yield slice(start, min(start + size, len(seeds)))
