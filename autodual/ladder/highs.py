"""Questions to HiGHS: a program for each example, asked about row after row."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from torch import Tensor

from autodual.bound.layer import Entry
from autodual.bound.relaxation import Relaxation
from autodual.ladder.base import Prepared, Search, Solver
from autodual.solve import (
    Array,
    Linear,
    Matrices,
    Whole,
    check_set,
    check_whole,
    polytope,
    proved_outward,
    radius_of,
    streamed,
    whole_network,
)
from autodual.threat import ThreatModel

if TYPE_CHECKING:
    from autodual.certified import Certified, Compiled

KEPT = 64
"""Of how many examples the programs are kept for further questions."""

Asked = TypeVar("Asked", Linear, Whole)

Found = tuple[int, list[int], list[float]]
"""An example's number, some of its rows, and lower bounds on these."""


@dataclass(frozen=True, eq=False)
class Question:
    """Some rows of an example, for its program.

    Attributes:
        network: of the example alone.
        C: [R, *].
        costs: the same over the program's variables.
        values: of the rows where all these are 0.
    """

    network: Relaxation
    C: Tensor
    costs: Array
    values: Array


class Programs(Prepared, Generic[Asked]):
    """Relaxed networks, and programs over them: rows that miss the goal, example by example."""

    def __init__(
        self, solver: Solver, net: Certified, found: Compiled, threat: ThreatModel
    ) -> None:
        super().__init__(solver, net, found, threat)
        for member in threat.members:
            self.check(Entry(found.graph.perturbed, found.x, member))
        self.matrices = Matrices()
        self._made: dict[tuple[int, int], Asked] = {}

    def total(self, search: Search) -> float:
        """Return how many programs there are at most."""
        return len(self.threat.members) * search.C.shape[0] * search.C.shape[1]

    def work(self, search: Search) -> Iterator[int]:
        """Bound part after part, then ask programs about what misses the goal."""
        for member, part in self.each():
            self.passed(search, member, part)
            yield 0
        yield from self.ask_all(search)

    def ask_all(self, search: Search, final: bool = True) -> Iterator[int]:
        """Ask programs; ``final`` if no others come after."""
        for member, part in self.each():
            index = self.parts[part]
            last = final and self.last(member)
            missing = search.missing(member, index)
            if last:
                search.finished(index[~missing.any(1)])
            network = self.relaxed(member, part).travelled
            jobs = self.jobs(search, member, index, network, missing)
            for i, rows, lower in streamed(jobs):
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
            C = search.C[i, rows]
            asked = Question(one, C, *program.polytope.question(one, {self.output: C}))
            yield partial(self._asked, i, rows.tolist(), program, asked, search)

    @torch.no_grad()  # it is called in a thread of its own
    def _asked(
        self, i: int, rows: list[int], program: Asked, question: Question, search: Search
    ) -> Found:
        """Return what programs say of some rows of an example."""
        return i, rows, self.ask(program, question, search)

    def _program(self, member: int, i: int, one: Relaxation) -> Asked:
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
    def make(self, one: Relaxation) -> Asked:
        """Return the program over a network of one example."""

    @abstractmethod
    def ask(self, program: Asked, question: Question, search: Search) -> list[float]:
        """Return lower bounds on each of some rows."""


class Linears(Programs[Linear]):
    """Linear programs."""

    def check(self, entry: Entry) -> None:
        """Raise unless programs can say the set."""
        check_set(entry)

    def make(self, one: Relaxation) -> Linear:
        """Return the programs over the outer polytope of one example."""
        made = polytope(one, self.matrices)
        made = made if self.net.options.rounding is None else made.roomy()
        return Linear(made, radius_of(one.entry.threat, one.entry.x))

    def ask(self, program: Linear, question: Question, search: Search) -> list[float]:
        """Solve them while there is time, each from where the last one ended."""
        made, network = program.polytope, question.network
        values, duals = list[float](), list[Array]()
        for cost, nominal in zip(question.costs, question.values, strict=True):
            if search.left <= 0:
                break
            least, dual = program.proof(cost)
            values.append(float(nominal + least))
            duals.append(dual[: len(made.most)])
        if duals and self.net.options.rounding is not None:
            C = question.C[: len(duals)]
            values = proved_outward(network, made, self.output, C, duals).tolist()
        return values + [-math.inf] * (len(question.values) - len(values))


class Wholes(Programs[Whole]):
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
        return Whole(whole_network(one, self.matrices), radius_of(one.entry.threat, one.entry.x))

    def ask(self, program: Whole, question: Question, search: Search) -> list[float]:
        """Solve them while there is time."""
        costs, values = question.costs, question.values
        if not program.polytope.finite_with(costs, values):
            return [-math.inf] * len(values)
        pairs = zip(costs, values, strict=True)
        return [program.sought(c, v, search.goal, search.end).lower for c, v in pairs]
