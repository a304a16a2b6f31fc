"""Exact sums, each row by the planes that are best for it: Theorem 1's maximum over its duals.

The two planes around an op may be any means of those that its rule knows (``facets``), other ones
for every row. By the envelope theorem the gradient of a row's bound in the network's own tensors is
that with its best means held fixed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from autodual.bound.estimators.base import Setting
from autodual.bound.estimators.exact import Chunks, ExactSums
from autodual.bound.layer import Facet, Layer
from autodual.bound.relaxation import Relaxation
from autodual.bound.rows import Memo, Rows, Seeds
from autodual.bound.travel import passage, rise
from autodual.front.ir import Value
from autodual.threat.base import wide

RATE, END = 0.3, 0.012
"""How far shares move in the first step, and in the last."""

HELD = 16
"""How many tensors of each form of a row autograd keeps in a step."""

ROOM = 2**26
"""How many bytes these may take on a CPU: what is fetched from afar is slow."""

Shares = Mapping[Value, Sequence[Tensor]]
"""For the value that an op computes and each of its planes after the first, how far the mean of
those before it is moved towards it, in [0, 1], in the rows' own form."""


class OptimisedSums(ExactSums):
    """Exact sums over rows that seek their own planes in ``steps`` steps from the network's."""

    def __init__(self, network: Relaxation, setting: Setting, steps: int) -> None:
        super().__init__(network, setting)
        self.steps = steps

    def chunks(self, seeds: Seeds, both: bool) -> Chunks:
        """Return the chunks in which rows are taken."""
        return _Climbs(self.network, seeds, both, self.memory, self.observe, self.steps)

    def leaves(self, seeds: Seeds) -> list[Tensor]:
        """Return what a gradient could be wanted for: other planes too."""
        facets = (f for layer in self.network.path(seeds.values) for f in layer.facets)
        return [*super().leaves(seeds), *(t for facet in facets for t in facet.tensors)]


@dataclass(frozen=True, eq=False)
class _Climbs(Chunks):
    """Chunks of rows that find their planes."""

    steps: int = 0

    def find(self, network: Relaxation, seeds: Seeds, memo: Memo) -> Tensor:
        """Return how far rows can fall, and rise, [E, R]."""
        rows = seeds.rows(network.x)
        ways = [{v: -r for v, r in rows.items()}, *([rows] if self.both else [])]
        return torch.cat([self._best(network, way, memo) for way in ways])

    def _best(self, network: Relaxation, way: Mapping[Value, Rows], memo: Memo) -> Tensor:
        wanted = torch.is_grad_enabled()
        fall, shares = climb(network, way, self.steps, keep=wanted)
        if not wanted:
            return fall.unsqueeze(0)
        return rise(network, way, memo, observe=self.observe, through=Mixture(dict(shares)))

    @property
    def at_once(self) -> int:
        """How many rows fit."""
        most = self.memory // 8
        room = most if self.network.x.is_cuda else min(most, ROOM)
        return room // (HELD * self.cost.total_bytes)


@dataclass(eq=False)
class Mixture:
    """The means of planes by which each of some rows passes the ops.

    Those for which there is no share yet start at the network's own planes.
    """

    shares: dict[Value, Sequence[Tensor]] = field(default_factory=dict)
    met: dict[Value, Sequence[Facet]] = field(default_factory=dict)

    def __call__(
        self, layer: Layer, rows: Rows, memo: Memo
    ) -> tuple[Sequence[Rows], Tensor | None]:
        """Lead rows through a layer."""
        if not layer.facets:
            return passage(layer, rows, memo)
        nu, value = rows.full(), layer.value
        if value not in self.met:
            self.met[value] = [f.map(lambda t: rows.own(t, memo)) for f in layer.facets]
        if value not in self.shares:
            self.shares[value] = [
                torch.zeros_like(nu, requires_grad=True) for _ in layer.facets[1:]
            ]
        up, down = nu.clamp(min=0), nu.clamp(max=0)
        mean, *others = (facet.lead(up, down) for facet in self.met[value])
        for other, share in zip(others, self.shares[value], strict=True):
            mean = [torch.lerp(a, b, share) for a, b in zip(mean, other, strict=True)]
        *pulled, far = mean
        return [rows.become(p) for p in pulled], far.flatten(1).sum(1)


def climb(
    network: Relaxation, starts: Mapping[Value, Rows], steps: int, keep: bool
) -> tuple[Tensor, Shares]:
    """Return the least rise [R] that is found for each row, and, if ``keep``, the shares for it.

    Steps go along the signs of the gradient and get shorter: gradients of rows and of entries
    differ by many orders of magnitude, while all shares lie in [0, 1].
    """
    mixture, memo = Mixture(), Memo(False, 0)
    count, kept = len(next(iter(starts.values()))), dict[Value, list[Tensor]]()
    best = network.x.new_full((count,), torch.inf)
    for step in range(steps + 1):
        with torch.enable_grad():
            far = rise(network, starts, memo, through=mixture)[0]
        better = far < best
        best = torch.where(better, far.detach(), best)
        if keep:
            kept = {v: _chosen(better, now, kept.get(v)) for v, now in mixture.shares.items()}
        leaves = [share for shares in mixture.shares.values() for share in shares]
        if step == steps or not leaves:
            break
        slopes = torch.autograd.grad(far, leaves, torch.ones_like(far))
        length = RATE * (END / RATE) ** (step / steps)
        with torch.no_grad():
            for leaf, slope in zip(leaves, slopes, strict=True):
                leaf.sub_(slope.sign(), alpha=length).clamp_(0, 1)
    return best, kept


def _chosen(better: Tensor, now: Sequence[Tensor], before: Sequence[Tensor] | None) -> list[Tensor]:
    """Return the shares of now for the rows that are better with them."""
    if before is None:
        return [share.detach().clone() for share in now]
    return [torch.where(wide(better, a), a.detach(), b) for a, b in zip(now, before, strict=True)]
