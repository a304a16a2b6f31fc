"""Exact sums, each row by the planes that are best for it: Theorem 1's maximum over its duals.

The two planes around an op may be any means of those that its rule knows (``facets``), other ones
for every row. By the envelope theorem the gradient of a row's bound in the network's own tensors is
that with its best means held fixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from autodual.bound.estimators.base import Setting
from autodual.bound.estimators.exact import Chunks, ExactSums
from autodual.bound.layer import Facet, Layer
from autodual.bound.relaxation import Relaxation
from autodual.bound.rows import Memo, Rows, Seeds, Specs
from autodual.bound.travel import passage, rise
from autodual.front.ir import Value
from autodual.threat.base import wide

RATE, END, WARM = 0.3, 0.012, 0.1
"""How far shares move in the first step, in the last, and in the first from where others ended."""

FEW = 20
"""More steps than so many end the shorter, by the cube: there is time to come nearer."""

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

    def climbs(
        self, value: Value, owner: Tensor, rows: Tensor, goal: float, kept: Kept
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield after every step the rows that took it and their best lower bounds on C·z, [R].

        Rows leave when their bound exceeds the goal.

        Args:
            value: what C·z is about.
            owner: whose the rows are, [R].
            rows: C [R, *].
            kept: where rows start, and where their last shares are written to.
        """
        seeds = Specs({value: rows.reshape(-1, *value.size(1))}, owner, span=None)
        own = self.network.nominal(value)[owner].flatten(1)
        nominal = torch.linalg.vecdot(rows.flatten(1), own)
        rounded = self.network.plan.rounding is not None
        size = torch.linalg.vecdot(rows.flatten(1).abs(), own.abs()) if rounded else None
        for chunk in self.chunks(seeds, both=False).cut(seeds):
            index = torch.arange(chunk.start, chunk.stop, device=owner.device)
            starts = _downwards(seeds.take(index), self.network.x)
            climb = Climb(self.network, starts, self.steps, start=kept.of(index))
            while not climb.done:
                climb.step()
                at = nominal[index], None if size is None else size[index]
                lower = self.network.below([value], *at, climb.best, owner[index])
                yield index, lower
                left = (~(lower > goal)).nonzero().squeeze(1)
                if len(left) == 0:
                    break
                if 2 * len(left) <= len(index):
                    kept.put(index, climb.mixture.shares)
                    index = index[left]
                    climb.reduced(_downwards(seeds.take(index), self.network.x), left)
            kept.put(index, climb.mixture.shares)

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
        found = Climb(network, way, self.steps, keep=wanted).all()
        if not wanted:
            return found.best.unsqueeze(0)
        return rise(network, way, memo, observe=self.observe, through=Mixture(dict(found.kept)))

    @property
    def at_once(self) -> int:
        """How many rows fit."""
        most = self.memory // 8
        room = most if self.network.x.is_cuda else min(most, ROOM)
        return room // (HELD * max(1, self.cost.total_bytes))


def between(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Return the mean that lies by a share in [0, 1] of the way from a to b."""
    return torch.lerp(a, b, share)


@dataclass(eq=False)
class Mixture:
    """The means of planes by which each of some rows passes the ops.

    Those for which there is no share yet start at the network's own planes.

    Attributes:
        losses: what each entry of an op last added to each row's sum, [R, *].
    """

    shares: dict[Value, Sequence[Tensor]] = field(default_factory=dict)
    met: dict[Value, Sequence[Facet]] = field(default_factory=dict)
    losses: dict[Value, Tensor] = field(default_factory=dict)

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
            mean = [between(a, b, share) for a, b in zip(mean, other, strict=True)]
        *pulled, far = mean
        self.losses[value] = far.detach()
        return [rows.become(p) for p in pulled], far.flatten(1).sum(1)


@dataclass(eq=False)
class Kept:
    """The last shares of some rows: where these start when they climb again.

    Attributes:
        shares: for each value and plane, [R, *]; 0 for rows of which nothing is known.
    """

    count: int
    shares: dict[Value, list[Tensor]] = field(default_factory=dict)

    def of(self, index: Tensor) -> Shares:
        """Return those of the rows at ``index``."""
        return {v: [share[index] for share in some] for v, some in self.shares.items()}

    def put(self, index: Tensor, found: Shares) -> None:
        """Write down those of the rows at ``index``."""
        for value, some in found.items():
            if value not in self.shares:
                self.shares[value] = [s.new_zeros(self.count, *s.shape[1:]) for s in some]
            for share, own in zip(self.shares[value], some, strict=True):
                share[index] = own.detach()

    def select(self, place: Tensor) -> Kept:
        """Return them for rows that are those at ``place`` [R], or new where that is −1."""
        found = Kept(len(place))
        known = (place >= 0).nonzero().squeeze(1)
        found.put(known, self.of(place[known]))
        return found


class Climb:
    """Rows on their way to their best planes.

    Steps go along the signs of the gradient and get shorter: gradients of rows and of entries
    differ by many orders of magnitude, while all shares lie in [0, 1].

    Args:
        network: what the rows travel through.
        starts: the rows, at the values where they start.
        steps: how many steps there are.
        keep: whether to remember each row's best shares.
        start: the shares to start from, if any are known: the first steps are shorter then.

    Attributes:
        best: the least rise found for each row, [R].
        kept: the shares for it.
    """

    def __init__(
        self,
        network: Relaxation,
        starts: Mapping[Value, Rows],
        steps: int,
        keep: bool = False,
        start: Shares | None = None,
    ) -> None:
        self.network, self.starts, self.steps, self.keep = network, starts, steps, keep
        self.memo, self.rate = Memo(False, 0), WARM if start else RATE
        own = {v: [s.requires_grad_() for s in some] for v, some in (start or {}).items()}
        self.mixture = Mixture(dict(own))
        self.kept: dict[Value, list[Tensor]] = {}
        self.best = network.x.new_full((len(next(iter(starts.values()))),), torch.inf)
        self.taken, self.done = 0, False

    def step(self) -> None:
        """Look how far rows rise with the shares they have, and move these."""
        with torch.enable_grad():
            far = rise(self.network, self.starts, self.memo, through=self.mixture)[0]
        better = far < self.best
        self.best = torch.where(better, far.detach(), self.best)
        shares = self.mixture.shares
        if self.keep:
            self.kept = {v: _chosen(better, now, self.kept.get(v)) for v, now in shares.items()}
        leaves = [share for some in shares.values() for share in some]
        if self.taken == self.steps or not leaves:
            self.done = True
            return
        slopes = torch.autograd.grad(far, leaves, torch.ones_like(far))
        end = END * min(1.0, FEW / self.steps) ** 3
        length = self.rate * (end / self.rate) ** (self.taken / self.steps)
        with torch.no_grad():
            for leaf, slope in zip(leaves, slopes, strict=True):
                leaf.sub_(slope.sign(), alpha=length).clamp_(0, 1)
        self.taken += 1

    def reduced(self, starts: Mapping[Value, Rows], index: Tensor) -> None:
        """Go on with the rows at ``index`` alone, which are ``starts``."""
        self.starts, self.best = starts, self.best[index]
        with torch.no_grad():
            shares: dict[Value, Sequence[Tensor]] = {
                v: [share[index].requires_grad_() for share in some]
                for v, some in self.mixture.shares.items()
            }
        self.mixture = Mixture(shares)

    def all(self) -> Climb:
        """Take all steps."""
        while not self.done:
            self.step()
        return self


def _downwards(seeds: Specs, like: Tensor) -> Mapping[Value, Rows]:
    """Return −C."""
    return {v: -r for v, r in seeds.rows(like).items()}


def _chosen(better: Tensor, now: Sequence[Tensor], before: Sequence[Tensor] | None) -> list[Tensor]:
    """Return the shares of now for the rows that are better with them."""
    if before is None:
        return [share.detach().clone() for share in now]
    return [torch.where(wide(better, a), a.detach(), b) for a, b in zip(now, before, strict=True)]
