"""One question, many solvers: how much C·z is at least on a set, for as much work as is wanted.

A solver prepares once for a net, a batch and its sets. A question to what is prepared is a
``Search``: it takes steps while there is something to gain, and its best bounds so far hold at any
time, so that it may be stopped by a goal, by the clock, or by Ctrl-C.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import Field, dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from autodual.bound.reading import Bound
from autodual.errors import InputError, Interrupted
from autodual.front.arguments import check_spec
from autodual.front.ir import Value
from autodual.threat import Eps, ThreatModel
from autodual.working import working

if TYPE_CHECKING:
    from autodual.certified import Certified, Compiled

FINISHED, REACHED, LATE = "finished", "the goal is reached", "time is over"
INTERRUPTED = "interrupted"
"""Why a solver did no more for an example."""


@dataclass(frozen=True, eq=False, repr=False)
class Solution:
    """Lower bounds on C·z, and what they took; print it.

    Attributes:
        lower: [N, S]: C·z is at least this on the whole set; −∞ where nothing is known.
        reasons: for each example why no more was done: "finished" (the solver knows no better),
            "the goal is reached" (by all its rows), "time is over", or "interrupted".
        steps: how much was done, in the solver's ``unit``.
        seconds: how long that took, beside what was prepared before.
        solver: which solver it was.
        threat: the set, in words.
    """

    lower: Tensor
    reasons: tuple[str, ...]
    steps: int
    seconds: float
    solver: Solver
    threat: str

    def __len__(self) -> int:
        return len(self.lower)

    def __str__(self) -> str:
        counts = (f"{self.reasons.count(why)} {why}" for why in dict.fromkeys(self.reasons))
        said = f"{len(self)} examples within {self.threat}: {', '.join(counts)}"
        return f"{self.solver}: {self.steps} {self.solver.unit} in {self.seconds:.3g} s, {said}"

    __repr__ = __str__


class Solver(ABC):
    """A way to bound C·z from below; a rung of the ladder."""

    unit: str = "steps"
    """What one step of its work is, in the plural."""

    remarks: tuple[str, ...] = ()
    """What a certificate says of its bounds."""

    rounded: bool = False
    """Whether its bounds hold whatever is rounded, where a net's do."""

    unrounded: str = "it may ask the network anything."
    """Why not, if not."""

    last: bool = True
    """Whether it asks more of the rows of an answer than a bound's own pass does."""

    def __str__(self) -> str:
        """Its name, with what it was told."""
        own: tuple[Field[Any], ...] = fields(self) if is_dataclass(self) else ()
        told: list[tuple[str, object, object]] = [
            (f.name, getattr(self, f.name), f.default) for f in own
        ]
        parts = (f"{k}={v!r}" for k, v, usual in told if v is not None or usual is not None)
        return f"{type(self).__name__}({', '.join(parts)})"

    def of(self, net: Certified) -> Certified:
        """Return the net as this solver bounds it, with what else it was certified with."""
        return net.with_options(**self.options(net)).by_last(self if self.last else None)

    def options(self, net: Certified) -> dict[str, Any]:
        """Return what changes in a net's options."""
        return {}

    @abstractmethod
    def prepare(self, net: Certified, found: Compiled, threat: ThreatModel) -> Prepared:
        """Return what all questions about a batch share.

        Args:
            net: what ``of`` returned.
            found: the batch, let in.
            threat: the set around its perturbed arguments.
        """


Work = Callable[["Search"], Iterator[int]]
"""Tells a question bounds, piece by piece, and yields after each how much was done."""


class Search:
    """A question under way.

    Args:
        C: rows [N, S, K].
        members: how many sets there are around each example; bounds hold on all of them.
        goal: rows that exceed it need no more work.
        time_limit: in seconds.
        work: what works on the question, and gives how much was done in each step.

    Attributes:
        each: bounds so far for every member, [members, N, S].
        steps: how much was done.
        done: nothing is left to do.
    """

    def __init__(self, C: Tensor, members: int, goal: float, time_limit: float, work: Work) -> None:
        self.C, self.goal = C, goal
        self.each = C.new_full((members, *C.shape[:2]), -math.inf)
        self.open = torch.ones(len(C), dtype=torch.bool, device=C.device)
        self.steps, self.done = 0, False
        self.start = time.perf_counter()
        self.end = self.start + time_limit
        self.why, self._work = LATE, work(self)

    @property
    def lower(self) -> Tensor:
        """The bounds so far, [N, S]."""
        return self.each.amin(0)

    @property
    def left(self) -> float:
        """How many seconds are left."""
        return self.end - time.perf_counter()

    def step(self) -> int:
        """Do a piece of work; return how much it was."""
        try:
            amount = next(self._work)
        except StopIteration:
            self.done = True
            return 0
        except BaseException:
            self.stop()
            raise
        self.steps += amount
        return amount

    def stop(self) -> None:
        """Take no more steps: it is interrupted, and what still runs need not go on."""
        self.end, self.why = -math.inf, INTERRUPTED

    def missing(self, member: int, index: Tensor) -> Tensor:
        """Return which rows [R, S] of the examples ``index`` [R] miss the goal within a member."""
        return ~(self.each[member, index] > self.goal)

    def tell(
        self, member: int, examples: Tensor, lower: Tensor, rows: Tensor | None = None
    ) -> None:
        """Hear bounds on all rows [R, S] of some examples [R], or on ``rows`` [R] of them, [R]."""
        known = lower.detach().masked_fill(lower.isnan() | lower.isposinf(), -math.inf)
        place = (member, examples) if rows is None else (member, examples, rows)
        self.each[place] = torch.maximum(self.each[place], known.to(self.each))

    def finished(self, examples: Tensor) -> None:
        """Hear that nothing is left to do for some examples."""
        self.open[examples] = False

    def reasons(self) -> tuple[str, ...]:
        """Return for each example why no more was done."""
        reached = (self.lower > self.goal).all(1).tolist()
        stopped = self.why == INTERRUPTED or not self.done
        said = {True: self.why, False: FINISHED}
        words = (said[stopped and out] for out in self.open.tolist())
        return tuple(REACHED if met else why for met, why in zip(reached, words, strict=True))


def check_time(time_limit: object) -> None:
    """Raise unless it is a number above 0."""
    if not (_is_number(time_limit) and time_limit > 0):  # type: ignore[operator]
        raise InputError(f"time_limit is a number of seconds above 0, not {time_limit!r}")


def _is_number(limit: object) -> bool:
    known = isinstance(limit, int | float) and not isinstance(limit, bool)
    return known and not math.isnan(limit)  # type: ignore[arg-type]


class Prepared(ABC):
    """A net, a batch and its sets, ready for questions."""

    def __init__(
        self, solver: Solver, net: Certified, found: Compiled, threat: ThreatModel
    ) -> None:
        self.solver, self.net, self.found, self.threat = solver, net, found, threat
        self.parts: Sequence[Tensor] = found.program.parts(found.x)
        self._kept: dict[object, Bound] = {}

    @property
    def output(self) -> Value:
        """The value that C is about."""
        return self.found.graph.output

    def at(self, eps: Eps) -> Prepared:
        """Return the same batch within another set, as ``net.at`` takes it.

        Steps of ``Optimised`` start from the planes that were found here for the same rows: a few
        do what many did before.

        Raises:
            InputError: as for ``net.at``.
        """
        net = self.net.at(eps)
        threat = net.around(self.found)
        threat.check(self.found.x)
        return self.solver.prepare(net, self.found, threat)

    def init(self, C: Tensor, goal: float = math.inf, time_limit: float = math.inf) -> Search:
        """Return a question that is about to be worked on.

        Args:
            C: rows [S, *] or [N, S, *], with * the shape of one example's output.
            goal, time_limit: as for ``solve``.

        Raises:
            InputError: C does not fit the output; a goal or a limit that is no number.
        """
        check_time(time_limit)
        if not _is_number(goal):
            raise InputError(f"goal is a number, not {goal!r}")
        return self.begin(check_spec(C, self.found.x, self.output), goal, time_limit)

    def begin(self, spec: Tensor, goal: float, time_limit: float = math.inf) -> Search:
        """Return a question about rows [N or 1, S, K] that fit."""
        spec = spec.expand(len(self.found.x), *spec.shape[1:])
        return Search(spec, len(self.threat.members), goal, time_limit, self.work)

    def solve(self, C: Tensor, goal: float = math.inf, time_limit: float = math.inf) -> Solution:
        """Return the best lower bounds on C·z that the solver finds.

        Args:
            C: rows [S, *] or [N, S, *], with * the shape of one example's output.
            goal: nothing more is done for rows that exceed it.
            time_limit: in seconds, for all. What is begun when it ends is finished first, but for
                mixed-integer programs, which stop.

        Raises:
            InputError: C does not fit the output; a limit that is no time.
            Interrupted: Ctrl-C; ``partial`` is the solution so far.
        """
        return self.run(self.init(C, goal, time_limit))

    @torch.no_grad()
    def run(self, search: Search) -> Solution:
        """Work on a question until nothing is left to do, or time is over."""
        try:
            with working(str(self.solver), self.total(search)) as bar:
                while not search.done and search.left > 0:
                    bar.advance(search.step())
        except KeyboardInterrupt:
            search.stop()
            count = len(search.open) - int(search.open.sum())
            said = f"{count} of {len(search.open)} examples are finished"
            raise Interrupted(self.solution(search), said) from None
        return self.solution(search)

    def solution(self, search: Search) -> Solution:
        """Return what is known now."""
        seconds = time.perf_counter() - search.start
        said = (search.reasons(), search.steps, seconds, self.solver, str(self.net.threat))
        return Solution(self.found.known(search.lower), *said)

    def total(self, search: Search) -> float:
        """Return about how many steps there are."""
        return len(self.threat.members) * len(self.parts)

    @abstractmethod
    def work(self, search: Search) -> Iterator[int]:
        """Work on a question step by step: tell it bounds, and yield how much was done."""

    def relaxed(self, member: int, part: int) -> Bound:
        """Return the net's bound on a part of the batch; it is kept if there are no others."""
        if (member, part) in self._kept:
            return self._kept[member, part]
        some, around = self.net.part(self.found, self.parts[part], self.threat)
        bound = self.relax(some, around.members[member])
        if len(self.parts) == 1:
            self._kept[member, part] = bound
        return bound

    def relax(self, some: Compiled, member: ThreatModel) -> Bound:
        """Return the net's bound on some examples."""
        return some.program(some.env, member)

    def passed(self, search: Search, member: int, part: int) -> Tensor:
        """Tell what one pass of a part's rows says; return which examples it is made of."""
        index = self.parts[part]
        rows = {self.output: search.C[index]}
        search.tell(member, index, self.relaxed(member, part).lower(rows))
        return index

    def last(self, member: int) -> bool:
        """Return whether no other set around the examples comes after this one."""
        return member == len(self.threat.members) - 1

    def each(self) -> Iterator[tuple[int, int]]:
        """Yield every member with every part of the batch."""
        for part in range(len(self.parts)):
            for member in range(len(self.threat.members)):
                yield member, part
