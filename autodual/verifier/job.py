"""A problem on its way to a verdict."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autodual.errors import InputError, Interrupted
from autodual.files import load, save
from autodual.formats.onnx import OnnxModel
from autodual.proof import QueryOrigin
from autodual.query import Case, Query
from autodual.rounding import at_least
from autodual.verifier.digest import written
from autodual.verifier.inputs import InputSplits
from autodual.verifier.points import Points
from autodual.verifier.problem import Problem, admitted, has_points
from autodual.verifier.search import Branching, Search, Told
from autodual.verifier.system import System
from autodual.verifier.threads import Threads
from autodual.verifier.units import UnitSplits
from autodual.verifier.verdict import FALSIFIED, UNKNOWN, VERIFIED, Verdict
from autodual.working import TimeOver, until

Replay = Callable[[Tensor], Tensor]
"""Inputs [1, *] → outputs, of the model as it is deployed."""

TRIED = 0.01
"""Seconds for each open unit, after which a small network goes to mixed-integer programs."""

FEW = 20
"""How many inputs may vary where they are cut, and not units of the network."""

SNAP = 1e-3
"""Within which part of an input's width of an end a solver's point is taken for the end."""


class Job:
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
        rounding: str | None,
    ) -> None:
        self.threads, self.rounding = threads, rounding
        self.problem, self.start, self.end = problem, start, end
        around = problem.around
        self.attack = attack and (around is None or around.attackable)
        self.told, self.how, self.branch = told, "", ""
        self.exact = problem.query.cases
        self.replay: Replay = problem.model if replay is None else replay
        self.search: Search | None = None
        self.points: Points | None = None
        self.print = ""
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
        self.branch, self.how = self._chosen(branch, cases)
        kept = None if branch == "programs" else kept
        try:
            with until(self.end):
                why = self._searched(system, branch, room, kept, trace)
        except TimeOver:
            why = "time"
        except KeyboardInterrupt:
            verdict = self._verdict("interrupted", kept)
            raise Interrupted(verdict, str(verdict)) from None
        return self._verdict(why, kept)

    def _chosen(self, branch: str, cases: Sequence[Case]) -> tuple[str, str]:
        """Return what is cut, "inputs" or "units", and in words why."""
        around, varying = self.problem.around, _varying(cases)
        if branch == "inputs" and around is not None:
            raise InputError(
                f"the region is {around.threat}, and inputs are cut in boxes alone: leave branch= "
                'out, or take "units"'
            )
        if branch != "auto":
            return "units" if branch == "programs" else branch, f"{branch}, as asked"
        if around is not None:
            return "units", "branching on units: the region is no box"
        if varying <= FEW:
            return "inputs", f"branching on inputs: {varying} vary, no more than {FEW}"
        return "units", f"branching on units: {varying} inputs vary, more than {FEW}"

    def _searched(
        self,
        system: System,
        branch: str,
        room: int,
        kept: Path | None,
        trace: list[tuple[Tensor, Tensor]] | None,
    ) -> str:
        """Search; return why it ended."""
        self.points = points = Points(system, self._confirmed)
        cases = torch.arange(len(system.cases), device=system.like.device)
        fresh = kept is None or not kept.exists()
        before = fresh and self.attack and system.slow  # then points are tried before bounds
        if before:
            points.begin(cases)
            if points.witness is not None:
                return "done"
        cuts_inputs = self.branch == "inputs"
        deployed = self.rounding not in (None, "outward")  # it has no ReLUs of differences
        cut = system if cuts_inputs or deployed else system.cuttable
        branching: Branching = InputSplits(cut) if cuts_inputs else UnitSplits(cut)
        search = Search(branching, points, room, self.threads, self.attack, self.told)
        self.search, search.trace = search, trace if cuts_inputs else None
        self.print = "" if kept is None else self._print(system)
        if kept is not None and not fresh:
            search.load(self._read(kept))
        else:
            search.glance()
            if self.attack and not before and not search.done:
                points.begin(torch.tensor(search.cases, device=cases.device))
        if branch == "programs":
            return self._programs(system, search)
        if branch != "auto" or not isinstance(branching, UnitSplits) or not branching.programmable:
            return search.run(self.end)
        tried = TRIED * branching.count
        why = search.run(min(self.end, time.perf_counter() + tried))
        if search.done and not search.stuck:
            return why
        self.how += (
            f"; mixed-integer programs after {tried:.2g} s: {branching.count} units are open"
        )
        return self._programs(system, search)

    def _compiled(self, query: Query) -> System:
        """Compile the model."""
        x = self.problem.x
        net, found = admitted(self.problem.model, x, self.problem.around, self.rounding)
        if found.graph.output.numel != query.outputs:
            raise InputError(
                f"the property is about {query.outputs} outputs, the model has "
                f"{found.graph.output.numel}"
            )
        self.exact = query.cases
        if self.problem.around is None and self.rounding in (None, "outward"):
            self.origin = QueryOrigin(found.graph, found.env, x, self.problem.query)
        cases = tuple(case.to(x) for case in query.cases)
        if self.rounding is not None:
            cases = tuple(map(_no_smaller, query.cases, cases))
        return System(net, found, tuple(x.shape[1:]), cases, self.problem.around)

    def _programs(self, system: System, search: Search) -> str:
        """Ask a program about each case that is open; return why any stays so."""
        from autodual.verifier.programs import decide_by_programs  # scipy takes a while to import

        points, left = search.points, list[str]()
        for i, why, point in decide_by_programs(system, search.cases, self.end):
            search.bounded += 1
            if point is not None:
                case = system.cases[i]
                two = torch.stack([point, _snapped(point, case.lower, case.upper)])
                points.ask(two, torch.full((2,), i, device=point.device))
            if points.witness is not None:
                return "done"
            if why is None:
                search.close(i)
            else:
                left.append(why)
        return left[0] if left else "done"

    def _print(self, system: System) -> str:
        """Return what tells this problem from others: the model's numbers, and the query's."""
        digest = hashlib.sha256()
        numbers = [t for c in self.exact for t in (c.lower, c.upper, c.A, c.C, c.d)]
        found, around = system.found, self.problem.around
        told: list[object] = [str(found.graph), numbers, list(found.env.values())]
        told += [] if self.rounding is None else [self.rounding]
        told += [] if around is None else [around.x, around.threat]
        for part in written(told):
            digest.update(part)
        return f"{self.branch}, {digest.hexdigest()}"

    def _read(self, kept: Path) -> dict[str, Any]:
        """Return a search that was stopped."""
        state = load(kept)
        if not isinstance(state, dict) or state.get("print") != self.print:
            raise InputError(
                f"{kept} is of another model, region, property or branch: remove it, or name "
                "another file"
            )
        return state

    @torch.no_grad()
    def _confirmed(self, point: Tensor, index: int) -> bool:
        """Return whether the model itself violates the property at a point of the region."""
        x, case, around = self._placed(point, index), self.exact[index], self.problem.around
        if around is not None and not around.holds(x):
            return False
        z = self.replay(x).reshape(1, -1).to(case.C)
        return bool((case.excess(x.reshape(1, -1).to(case.lower), z) <= 0).all())

    def _placed(self, point: Tensor, index: int) -> Tensor:
        """Return a point as an input [1, *] of the model that lies in the case's region."""
        model, case, around = self.problem.model, self.exact[index], self.problem.around
        if around is not None:
            return around.nearest(point.reshape(1, -1)).reshape(self.problem.x.shape)
        stored = point.to(model.stored) if isinstance(model, OnnxModel) else point
        low, high = case.within(stored)
        return torch.clamp(stored, low, high).to(point).reshape(self.problem.x.shape)

    def _verdict(self, why: str, kept: Path | None) -> Verdict:
        """Return what is known when the search has ended; keep what is left in a file."""
        search, witness = self.search, None if self.points is None else self.points.witness
        open_ = witness is None and (search is None or search.left > 0)
        if kept is not None and not open_:
            kept.unlink(missing_ok=True)
        if witness is not None:
            said = "the model violates the property at the witness"
            return self._said(FALSIFIED, said, self.how, x=self._placed(*witness))
        if search is None:  # time was over before anything was bounded
            return self._said(UNKNOWN, why, self.how)
        if kept is not None and open_:
            save({**search.state(), "print": self.print}, kept)
        why = "done" if search.left == 0 else why
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
        how += "" if self.rounding is None else f"; rounding={self.rounding!r}"
        search, bound = self.search, -math.inf if status == UNKNOWN else math.inf
        verdict = Verdict(
            status=status,
            reason=reason,
            witness=None if x is None else x[0],
            output=output,
            bound=bound if search is None else search.bound,
            open=0 if search is None or status != UNKNOWN else search.left,
            bounded=0 if search is None else search.bounded,
            seconds=time.perf_counter() - self.start,
            how=how,
            curve=() if search is None else tuple(search.curve),
        )
        return verdict if self.origin is None else verdict.of(self.origin)


def _no_smaller(exact: Case, case: Case) -> Case:
    """Return a case in a model's dtype that has no fewer points than the one it was made of.

    Raises:
        InputError: the dtype does not hold its rows.
    """
    if not all(bool((t.to(s) == s).all()) for t, s in ((case.A, exact.A), (case.C, exact.C))):
        raise InputError(
            f"rounding= is for a property whose factors {case.C.dtype} holds exactly: give others, "
            "or verify model.double()"
        )
    return replace(case, d=at_least(exact.d, case.d))


def _snapped(point: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Return a point with entries that lie within a solver's tolerance of an end moved to it."""
    near = SNAP * (upper - lower)
    point = torch.where((point - lower).abs() <= near, lower, point)
    return torch.where((point - upper).abs() <= near, upper, point)


def _varying(cases: Sequence[Case]) -> int:
    """Return how many inputs vary at most."""
    return max(int((case.lower < case.upper).sum()) for case in cases)
