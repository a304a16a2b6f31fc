"""The rungs that rows climb: interval arithmetic, the dual network, and its optimised planes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from autodual.bound.estimators import Kept
from autodual.bound.options import Steps
from autodual.bound.plan import METHODS, Method
from autodual.bound.reading import Bound
from autodual.errors import InputError
from autodual.ladder.base import Prepared, Search, Solver
from autodual.threat import Eps, ThreatModel

if TYPE_CHECKING:
    from autodual.certified import Certified, Compiled


@dataclass(frozen=True)
class IBP(Solver):
    """Interval arithmetic; the last affine layers are merged with C."""

    unit = "passes"
    rounded = True
    last = False

    def options(self, net: Certified) -> dict[str, Any]:
        """Take intervals alone."""
        return {"method": METHODS["ibp"], "optimize": None}

    def prepare(self, net: Certified, found: Compiled, threat: ThreatModel) -> Prepared:
        """Relax the network."""
        return Passes(self, net, found, threat)


@dataclass(frozen=True)
class Dual(Solver):
    """One pass through the dual network (Wong & Kolter; thesis, 3.2), by fixed planes.

    Args:
        bounds: the method for intermediate bounds, as for ``certify``; the net's own if not given,
            ``"ibp&dual"`` where that has no dual network.
    """

    bounds: str | None = None

    unit = "passes"
    rounded = True
    last = False

    def options(self, net: Certified) -> dict[str, Any]:
        """Take no steps."""
        return {"optimize": None, "method": dual_method(net, self.bounds)}

    def prepare(self, net: Certified, found: Compiled, threat: ThreatModel) -> Prepared:
        """Relax the network."""
        return Passes(self, net, found, threat)


@dataclass(frozen=True)
class Optimised(Solver):
    """The best planes for every row, in steps (Theorem 1's maximum): ``certify(optimize=)``.

    Args:
        steps: for the rows of the answer.
        inside: for entries inside the network that are still open after one pass; half of
            ``steps`` if not given.
    """

    steps: int = 20
    inside: int | None = None

    rounded = True
    last = False

    def __post_init__(self) -> None:
        Steps(self.steps, self.inside)

    def options(self, net: Certified) -> dict[str, Any]:
        """Take steps."""
        return {"optimize": Steps(self.steps, self.inside), "method": dual_method(net)}

    def prepare(self, net: Certified, found: Compiled, threat: ThreatModel) -> Prepared:
        """Relax the network by fixed planes."""
        return Climbing(self, net, found, threat)


def dual_method(net: Certified, name: str | None = None) -> Method:
    """Return the method called so, or the net's own, if it has a dual network."""
    if name is None:
        own = net.options.method
        return own if "dual" in own.last else METHODS["ibp&dual"]
    if name not in METHODS or "dual" not in METHODS[name].last:
        raise InputError(f"bounds={name!r} has no dual network")
    return METHODS[name]


class Passes(Prepared):
    """Relaxed networks, through which rows take one pass each."""

    def work(self, search: Search) -> Iterator[int]:
        """Bound part after part, on one set around each example after the other."""
        for member, part in self.each():
            index = self.passed(search, member, part)
            if self.last(member):
                search.finished(index)
            yield 1


class Climbing(Prepared):
    """Relaxed networks; where they miss the goal, better ones whose rows seek their planes."""

    def __init__(
        self, solver: Solver, net: Certified, found: Compiled, threat: ThreatModel
    ) -> None:
        super().__init__(solver, net, found, threat)
        self._better: dict[object, tuple[Tensor, Bound]] = {}
        self._planes: dict[object, tuple[Tensor, Kept]] = {}
        self._before: dict[object, tuple[Tensor, Kept]] = {}

    def at(self, eps: Eps) -> Prepared:
        """Return the same batch within another set, with the planes that its rows start from."""
        other = super().at(eps)
        assert isinstance(other, Climbing)
        other._before = {**self._before, **self._planes}
        return other

    def total(self, search: Search) -> float:
        """Return about how many steps there are: all chunks have about as many."""
        steps = self.net.options.optimize
        assert steps is not None
        return super().total(search) * (2 + steps.last)

    def relax(self, some: Compiled, member: ThreatModel) -> Bound:
        """Return the bound without steps."""
        return some.program.plain(some.env, member)

    def work(self, search: Search) -> Iterator[int]:
        """Bound part after part by fixed planes, then step by step what misses the goal."""
        for member, part in self.each():
            index = self.passed(search, member, part)
            yield 1
            missing = search.missing(member, index)
            if bool(missing.any()):
                yield from self.climb(search, member, part, missing)
            if self.last(member):
                search.finished(index)

    def climb(self, search: Search, member: int, part: int, missing: Tensor) -> Iterator[int]:
        """Seek the best planes for the rows [R, S] of a part that miss the goal."""
        index = self.parts[part]
        some = missing.any(1).nonzero().squeeze(1)
        place, bound = self.better(member, part, some)
        yield 1
        owner, row = missing.nonzero(as_tuple=True)
        rows = search.C[index[owner], row]
        still = Bound(bound.boxes, tuple(s for s in bound.sums if s not in bound.climbing))
        if still.sums:
            held = index[(place >= 0).nonzero().squeeze(1)]
            search.tell(member, held, still.lower({self.output: search.C[held]}))
        for sums in bound.climbing:
            kept = self.known(member, part, missing)
            for chunk, lower in sums.climbs(self.output, place[owner], rows, search.goal, kept):
                search.tell(member, index[owner[chunk]], lower, row[chunk])
                yield 1
            if len(self.parts) == 1:
                self._planes[member, part] = missing, kept

    def known(self, member: int, part: int, missing: Tensor) -> Kept:
        """Return the planes from which the rows [R, S] start: those found for them before."""
        before, kept = self._before.get((member, part), (missing, None))
        if kept is None or before.shape != missing.shape:
            return Kept(int(missing.sum()))
        place = torch.full(missing.shape, -1, device=missing.device)
        place[before] = torch.arange(kept.count, device=missing.device)
        return kept.select(place[missing])

    def better(self, member: int, part: int, some: Tensor) -> tuple[Tensor, Bound]:
        """Return a bound with steps inside for some examples of a part, and where these stand."""
        key = member, part
        if key in self._better and bool((self._better[key][0][some] >= 0).all()):
            return self._better[key]
        index = self.parts[part]
        chosen, around = self.net.part(self.found, index, self.threat)
        before = self.relaxed(member, part)
        bound = chosen.program.improved(chosen.env, around.members[member], before, some)
        place = torch.full((len(index),), -1, device=some.device)
        place[some] = torch.arange(len(some), device=some.device)
        if len(self.parts) == 1:
            self._better[key] = place, bound
        return place, bound
