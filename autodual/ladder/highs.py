"""Questions to HiGHS: a program for each example, asked about row after row."""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from autodual.bound.layer import Entry
from autodual.bound.relaxation import Relaxation
from autodual.ladder.base import Prepared, Search, Solver
from autodual.solve import (
    Array,
    Linear,
    Matrices,
    check_set,
    check_whole,
    polytope,
    radius_of,
    sought,
    streamed,
    whole_network,
)
from autodual.threat import ThreatModel
from autodual.threat.base import inner

if TYPE_CHECKING:
    from autodual.certified import Certified, Compiled

KEPT = 64
"""Of how many examples the programs are kept for further questions."""

Found = tuple[int, list[int], list[float]]
"""An example's number, some of its rows, and lower bounds on these."""


class Programs(Prepared):
    """Relaxed networks, and programs over them: rows that miss the goal, example by example."""

    def __init__(
        self, solver: Solver, net: Certified, found: Compiled, threat: ThreatModel
    ) -> None:
        super().__init__(solver, net, found, threat)
        for member in threat.members:
            self.check(Entry(found.graph.perturbed, found.x, member))
        self.matrices = Matrices()
        self._made: dict[tuple[int, int], Any] = {}

    def total(self, search: Search) -> float:
        """Return how many programs there are at most."""
        return len(self.threat.members) * search.C.shape[0] * search.C.shape[1]

    def work(self, search: Search) -> Iterator[int]:
        """Bound part after part, then ask programs about what misses the goal."""
        for member, part in self.each():
            index = self.parts[part]
            bound = self.relaxed(member, part)
            search.tell(member, index, bound.lower({self.output: search.C[index]}))
            yield 0
        yield from self.ask_all(search)

    def ask_all(self, search: Search, final: bool = True) -> Iterator[int]:
        """Ask programs, as many at a time as there are cores; ``final`` if no others come after."""
        threads = max(1, os.cpu_count() or 1)
        for member, part in self.each():
            index = self.parts[part]
            last = final and member == len(self.threat.members) - 1
            missing = search.missing(member, index)
            if last:
                search.finished(index[~missing.any(1)])
            network = self.relaxed(member, part).travelled
            jobs = self.jobs(search, member, index, network, missing)
            for i, rows, lower in streamed(jobs, threads):
                example = torch.tensor([i], device=index.device)
                place = torch.tensor(rows, device=index.device)
                owner = example.expand(len(rows))
                search.tell(member, owner, search.C.new_tensor(lower), place)
                if last and search.left > 0:
                    search.finished(example)
                yield len(rows)

    def jobs(
        self,
        search: Search,
        member: int,
        index: Tensor,
        network: Relaxation,
        missing: Tensor,
    ) -> Iterator[Callable[[], Found]]:
        """Yield for each example the programs of its rows that miss the goal."""
        for k in missing.any(1).nonzero().squeeze(1).tolist():
            i, rows = int(index[k]), missing[k].nonzero().squeeze(1)
            one = network.select(torch.tensor([k], device=index.device))
            program = self._program(member, i, one)
            C = search.C[i, rows].double()
            costs = program.polytope.cost({self.output: C})
            nominal = inner(C.unsqueeze(0), one.nominal(self.output).double())[0]
            values = nominal.detach().cpu().numpy()
            yield partial(self._asked, i, rows.tolist(), program, costs, values, search)

    @torch.no_grad()  # it is called in a thread of its own
    def _asked(
        self, i: int, rows: list[int], program: Any, costs: Array, values: Array, search: Search
    ) -> Found:
        """Return what programs say of some rows of an example."""
        return i, rows, self.ask(program, costs, values, search)

    def _program(self, member: int, i: int, one: Relaxation) -> Any:
        """Return the program of an example."""
        key = member, i
        if key in self._made:
            return self._made[key]
        program = self.make(one)
        if len(self._made) < KEPT:
            self._made[key] = program
        return program

    @abstractmethod
    def check(self, entry: Entry) -> None:
        """Raise unless programs can say the set and the ops."""

    @abstractmethod
    def make(self, one: Relaxation) -> Any:
        """Return the program over a network of one example."""

    @abstractmethod
    def ask(self, program: Any, costs: Array, values: Array, search: Search) -> list[float]:
        """Return lower bounds on value + c·d for each of some costs."""


class Linears(Programs):
    """Linear programs."""

    def check(self, entry: Entry) -> None:
        """Raise unless programs can say the set."""
        check_set(entry)

    def make(self, one: Relaxation) -> Linear:
        """Return the programs over the outer polytope of one example."""
        return Linear(polytope(one, self.matrices), radius_of(one.entry))

    def ask(self, program: Linear, costs: Array, values: Array, search: Search) -> list[float]:
        """Solve them while there is time, each from where the last one ended."""
        pairs = zip(costs, values, strict=True)
        return [float(v + program.least(c)) if search.left > 0 else -math.inf for c, v in pairs]


class Wholes(Programs):
    """Mixed-integer programs, after the linear ones."""

    def __init__(
        self, solver: Solver, net: Certified, found: Compiled, threat: ThreatModel
    ) -> None:
        super().__init__(solver, net, found, threat)
        self.linear = Linears(solver, net, found, threat)
        self.linear.matrices, self.linear._kept = self.matrices, self._kept

    def total(self, search: Search) -> float:
        """Return how many programs there are at most."""
        return 2 * super().total(search)

    def ask_all(self, search: Search, final: bool = True) -> Iterator[int]:
        """Ask the linear programs of all examples, then what still misses the goal."""
        yield from self.linear.ask_all(search, final=False)
        yield from super().ask_all(search, final)

    def check(self, entry: Entry) -> None:
        """Raise unless all ops have pieces and programs can say the set."""
        check_whole(self.found.program.plan, entry)

    def make(self, one: Relaxation) -> Whole:
        """Return the network of one example itself."""
        return Whole(whole_network(one, self.matrices), radius_of(one.entry))

    def ask(self, program: Whole, costs: Array, values: Array, search: Search) -> list[float]:
        """Solve them while there is time."""
        whole = program.polytope
        if not (whole.finite and np.isfinite(costs).all() and np.isfinite(values).all()):
            return [-math.inf] * len(values)
        pairs = zip(costs, values, strict=True)
        found = (sought(whole, c, v, search.goal, search.end, program.radius) for c, v in pairs)
        return [each.lower for each in found]


@dataclass(frozen=True)
class Whole:
    """A whole network and the radius of its ball, if it is one of ℓ2."""

    polytope: Any
    radius: float | None
