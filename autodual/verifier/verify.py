"""``verify`` decides a property over a region: it holds everywhere, or here is a violation."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autodual.bound.memory import default_memory, parse_memory
from autodual.errors import InputError, Interrupted
from autodual.files import load, save
from autodual.formats.onnx import OnnxModel
from autodual.proof import QueryOrigin
from autodual.query import Case, Query
from autodual.verifier.falsify import STARTS, STEPS, descend, random_starts
from autodual.verifier.inputs import InputSplits
from autodual.verifier.problem import Problem, admitted, has_points, stated
from autodual.verifier.search import Branching, Search, Told
from autodual.verifier.statements import Region
from autodual.verifier.system import System
from autodual.verifier.threads import Threads
from autodual.verifier.units import UnitSplits
from autodual.verifier.verdict import FALSIFIED, UNKNOWN, VERIFIED, Moment, Verdict
from autodual.working import PATIENCE, Report, listener

BRANCH = "auto", "inputs", "units", "programs"
"""What sub-problems are made by."""

Replay = Callable[[Tensor], Tensor]
"""Inputs [1, *] → outputs, of the model as it is deployed."""

TRIED = 0.01
"""Seconds for each open unit, after which a small network goes to mixed-integer programs."""

FEW = 20
"""How many inputs may vary where they are cut, and not units of the network."""

AT_ONCE = 1024
"""How many points are tried together."""


def verify(
    model: nn.Module,
    region: Region | tuple[Tensor, Tensor] | None,
    property: object,
    timeout: float = math.inf,
    *,
    branch: str = "auto",
    memory: int | str | None = None,
    attack: bool = True,
    resume: str | Path | None = None,
    replay: Replay | None = None,
    told: Told | None = None,
    trace: list[tuple[Tensor, Tensor]] | None = None,
) -> Verdict:
    """Decide whether a property holds at every point of a region.

    Bounds prove it, or gradient descent finds a point that violates it, or the region is cut and
    both are tried on its parts, the most promising first, until all are proved. A point that is
    found counts where the model itself violates the property.

    Sound in real arithmetic: bounds are computed in the model's dtype and leave some room for the
    rounding of their own sums. What holds by no more than rounding does wants ``model.double()``.

    Args:
        model: a module in eval mode, for inputs [N, *].
        region: a ``Region``, or the two ends of a box, of the shape of one example's input.
        property: a statement about ``ad.X`` and ``ad.Y``, ``ad.Y[0] > ad.Y[1]``, a ``Property`` of
            outputs, or a ``Query``, which brings its own boxes: then ``region`` is an example's
            input, or None where inputs are flat.
        timeout: in seconds.
        branch: what is cut: "inputs", sides of the box; "units", intervals inside the network;
            "auto", inputs where few of them vary and else units; or "programs" for one
            mixed-integer program for each case, of ops made of linear pieces.
        memory: how much open sub-problems may take, in bytes or as text like ``"2GiB"``.
        attack: whether points are tried; without, only proofs can end the search.
        resume: a file in which a search that is stopped is kept, and from which it goes on.
        replay: what a point must violate the property in, if not the model: a deployed twin.
        told: hears of each ``Moment`` of the search.
        trace: a list to which the ends [B, n] of the boxes of each batch are added, where inputs
            are cut: to be drawn.

    Raises:
        InputError: a region or property that does not fit the model; no time.
        CaptureError, UnsupportedOpError: the model cannot be bounded, and where.
        Interrupted: Ctrl-C; ``partial`` is the verdict so far, and ``resume`` is written.
    """
    start = time.perf_counter()
    if not (isinstance(timeout, int | float) and timeout > 0):
        raise InputError(f"timeout is a number of seconds above 0, not {timeout!r}")
    if branch not in BRANCH:
        raise InputError(f"branch={branch!r} is none of {', '.join(BRANCH)}")
    room = parse_memory(memory)
    problem = stated(model, region, property)
    room = default_memory(problem.x.device) // 2 if room is None else room
    if replay is None and isinstance(model, OnnxModel):
        replay = model.replay
    with _showing(told) as hears, Threads() as threads:
        job = _Job(problem, replay, start, start + timeout, attack, hears, threads)
        return job.run(branch, room, None if resume is None else Path(resume), trace)


@contextmanager
def _showing(told: Told | None) -> Iterator[Told]:
    """Pass on how far a search is, and show it on a terminal if it takes long."""
    show, last = listener(), list[Report]()

    def hears(moment: Moment) -> None:
        if told is not None:
            told(moment)
        if show is not None and moment.seconds >= PATIENCE:
            share = 1 - moment.open / max(1, moment.bounded + moment.open)
            last[:] = [Report(str(moment), share, moment.seconds, None)]
            show(last[0])

    try:
        yield hears
    finally:
        if show is not None and last:
            show(replace(last[0], over=True))


class _Job:
    """A problem on its way to a verdict."""

    def __init__(
        self,
        problem: Problem,
        replay: Replay | None,
        start: float,
        end: float,
        attack: bool,
        told: Told | None,
        threads: Threads,
    ) -> None:
        self.threads = threads
        self.problem, self.start, self.end = problem, start, end
        self.attack, self.told, self.how, self.branch = attack, told, "", ""
        self.exact = problem.query.cases
        self.replay: Replay = problem.model if replay is None else replay
        self.search: Search | None = None
        self.origin: QueryOrigin | None = None

    def run(
        self,
        branch: str,
        room: int,
        kept: Path | None,
        trace: list[tuple[Tensor, Tensor]] | None,
    ) -> Verdict:
        """Decide."""
        cases = tuple(case for case in self.problem.query.cases if has_points(case))
        if not cases:
            return self._said(VERIFIED, "the region is empty", "the region")
        plain = [case for case in cases if len(case.d) == 0]
        if plain:
            return self._said(FALSIFIED, "nothing is safe in the region", "the region", plain[0])
        system = self._compiled(replace(self.problem.query, cases=cases))
        chosen, branch = branch, "inputs" if _varying(cases) <= FEW else "units"
        branch = branch if chosen == "auto" else chosen
        self.branch, self.how = branch, f"branching on {branch}"
        branching: Branching = InputSplits(system) if branch == "inputs" else UnitSplits(system)
        search = Search(
            system, branching, self._confirmed, room, self.threads, self.attack, self.told
        )
        self.search, search.trace = search, trace if branch == "inputs" else None
        kept = None if branch == "programs" else kept
        going_on = kept is not None and kept.exists()
        if kept is not None and going_on:
            search.load(self._read(kept))
        try:
            if self.attack and not going_on:
                self._descend(search)
            if branch == "programs":
                why = self._programs(search)
            elif chosen == "auto" and isinstance(branching, UnitSplits) and branching.programmable:
                tried = TRIED * branching.count
                why = search.run(min(self.end, time.perf_counter() + tried))
                why = self._programs(search) if why == "time" or search.stuck else why
            else:
                why = search.run(self.end)
        except KeyboardInterrupt:
            verdict = self._verdict("interrupted", kept)
            raise Interrupted(verdict, str(verdict)) from None
        return self._verdict(why, kept)

    def _compiled(self, query: Query) -> System:
        """Compile the model."""
        x = self.problem.x
        net, found = admitted(self.problem.model, x)
        if found.graph.output.numel != query.outputs:
            raise InputError(
                f"the property is about {query.outputs} outputs, the model has "
                f"{found.graph.output.numel}"
            )
        self.exact = query.cases
        self.origin = QueryOrigin(found.graph, found.env, x, self.problem.query)
        cases = tuple(case.to(x) for case in query.cases)
        return System(net, found, tuple(x.shape[1:]), cases)

    def _programs(self, search: Search) -> str:
        """Ask a program about each case that is open; return why any stays so."""
        from autodual.verifier.programs import decide_by_programs  # scipy takes a while to import

        self.how, left = "mixed-integer programs", list[str]()
        for i, why, point in decide_by_programs(search.system, search.cases, self.end):
            search.bounded += 1
            if point is not None:
                case = torch.tensor([i], device=point.device)
                search.attempt(point.reshape(1, -1), case)
            if search.witness is not None:
                return "done"
            if why is None:
                search.close(i)
            else:
                left.append(why)
        return left[0] if left else "done"

    def _print(self) -> str:
        """Return what tells this problem from others: the model's numbers, and the query's."""
        digest = hashlib.sha256()
        numbers = [t for c in self.exact for t in (c.lower, c.upper, c.A, c.C, c.d)]
        for tensor in (*self.problem.model.state_dict().values(), *numbers):
            digest.update(str(tensor.shape).encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return f"{self.branch}, {digest.hexdigest()}"

    def _read(self, kept: Path) -> dict[str, Any]:
        """Return a search that was stopped."""
        state = load(kept)
        if not isinstance(state, dict) or state.get("print") != self._print():
            raise InputError(
                f"{kept} is of another model, region, property or branch: remove it, or name "
                "another file"
            )
        return state

    def _descend(self, search: Search) -> None:
        """Try random points of each case, and where gradients lead."""
        system, generator = search.system, torch.Generator().manual_seed(0)
        lower, upper = system.ends
        for some in torch.arange(len(lower), device=lower.device).split(AT_ONCE // STARTS):
            x = random_starts(lower[some], upper[some], STARTS, generator)
            index = some.repeat_interleave(STARTS)
            found, _ = descend(system, x, index, STEPS)
            search.attempt(found, index)
            if search.witness is not None or time.perf_counter() > self.end:
                return

    @torch.no_grad()
    def _confirmed(self, point: Tensor, index: int) -> bool:
        """Return whether the model itself violates the property at a point of the region."""
        x, case = self._placed(point, index), self.exact[index]
        z = self.replay(x).reshape(1, -1).to(case.C)
        return bool((case.excess(x.reshape(1, -1).to(case.lower), z) <= 0).all())

    def _placed(self, point: Tensor, index: int) -> Tensor:
        """Return a point as an input [1, *] of the model that lies in the case's box."""
        model, case = self.problem.model, self.exact[index]
        stored = point.to(model.stored) if isinstance(model, OnnxModel) else point
        low, high = case.within(stored)
        return torch.clamp(stored, low, high).to(point).reshape(self.problem.x.shape)

    def _verdict(self, why: str, kept: Path | None) -> Verdict:
        """Return what is known when the search has ended; keep what is left in a file."""
        search = self.search
        assert search is not None
        if kept is not None and search.witness is None and search.left > 0:
            save({**search.state(), "print": self._print()}, kept)
        elif kept is not None:
            kept.unlink(missing_ok=True)
        if search.witness is not None:
            point, index = search.witness
            said = "the model violates the property at the witness"
            return self._said(FALSIFIED, said, self.how, x=self._placed(point, index))
        if why == "done" and not search.stuck:
            return self._said(VERIFIED, "every sub-problem is proved", self.how)
        if why == "done":
            why = "what is left can be cut no more: by rounding, or since its ops are not cut"
        return self._said(UNKNOWN, why, self.how)

    def _said(
        self,
        status: str,
        reason: str,
        how: str,
        case: Case | None = None,
        x: Tensor | None = None,
    ) -> Verdict:
        if case is not None:
            self.exact = (case,)
            x = self._placed(case.lower.to(self.problem.x), 0)
        with torch.no_grad():
            output = None if x is None else self.replay(x)[0]
        search = self.search
        verdict = Verdict(
            status=status,
            reason=reason,
            witness=None if x is None else x[0],
            output=output,
            bound=math.inf if search is None else search.bound,
            open=0 if search is None or status != UNKNOWN else search.left,
            bounded=0 if search is None else search.bounded,
            seconds=time.perf_counter() - self.start,
            how=how,
            curve=() if search is None else tuple(search.curve),
        )
        return verdict if self.origin is None else verdict.of(self.origin)


def _varying(cases: Sequence[Case]) -> int:
    """Return how many inputs vary at most."""
    return max(int((case.lower < case.upper).sum()) for case in cases)
