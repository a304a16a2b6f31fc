"""``verify`` decides a property over a region: it holds everywhere, or here is a violation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from autodual.bound.memory import default_memory, parse_memory
from autodual.errors import InputError
from autodual.formats.onnx import OnnxModel
from autodual.rounding import ROUNDINGS
from autodual.verifier.job import Job, Replay
from autodual.verifier.problem import stated
from autodual.verifier.search import Told
from autodual.verifier.statements import Region
from autodual.verifier.threads import Threads
from autodual.verifier.verdict import Moment, Verdict
from autodual.working import PATIENCE, Report, listener

BRANCH = "auto", "inputs", "units", "programs"
"""What sub-problems are made by."""


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
    rounding: str | None = None,
) -> Verdict:
    """Decide whether a property holds at every point of a region.

    Bounds prove it, or gradient descent finds a point that violates it, or the region is cut and
    both are tried on its parts, the most promising first, until all are proved. A point that is
    found counts where the model itself violates the property.

    Sound in real arithmetic: bounds are computed in the model's dtype and leave some room for the
    rounding of their own sums. What holds by no more than rounding does wants ``model.double()``,
    or ``rounding=``, with which every bound that closes a sub-problem holds whatever is rounded.

    Args:
        model: a module in eval mode, for inputs [N, *].
        region: a ``Region``, or the two ends of a box, of the shape of one example's input. A set
            that is no box is ``Region.around(x, threat)``; of a union each member is decided.
        property: a statement about ``ad.X`` and ``ad.Y``, ``ad.Y[0] > ad.Y[1]``, a ``Property`` of
            outputs, or a ``Query``, which brings its own boxes: then ``region`` is an example's
            input, or None where inputs are flat.
        timeout: in seconds.
        branch: what is cut: "inputs", sides of the box; "units", intervals inside the network;
            "auto", inputs of a box where few of them vary and else units; or "programs" for one
            mixed-integer program for each case, of ops made of linear pieces. The verdict's
            ``how`` tells which it was, and why.
        memory: how much open sub-problems may take, in bytes or as text like ``"2GiB"``.
        attack: whether points are tried; without, only proofs can end the search.
        resume: a file in which a search that is stopped is kept, and from which it goes on.
        replay: what a point must violate the property in, if not the model: a deployed twin.
        told: hears of each ``Moment`` of the search.
        trace: a list to which the ends [B, n] of the boxes of each batch are added, where inputs
            are cut: to be drawn.
        rounding: ``"outward"``: what is verified holds of the network in real arithmetic, with the
            floats that it stores; ``"deployed"``: of the values that it computes itself. As for
            ``certify``. Programs of HiGHS count for nothing then.

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
    if rounding is not None and rounding not in ROUNDINGS:
        raise InputError(f"rounding={rounding!r} is none of {', '.join(ROUNDINGS)}")
    if rounding is not None and branch == "programs":
        raise InputError(
            "mixed-integer programs are solved to tolerances, and give no proof that could be "
            "evaluated with rounding=: take another branch="
        )
    room = parse_memory(memory)
    if isinstance(region, Region) and len(region.members) > 1:
        if resume is not None or trace is not None:
            raise InputError("resume= and trace= are for a single set: give the members one by one")

        def decide(member: Region, seconds: float) -> Verdict:
            options = {"memory": memory, "attack": attack, "replay": replay, "told": told}
            how = {**options, "branch": branch, "rounding": rounding}
            return verify(model, member, property, seconds, **how)  # type: ignore[arg-type]

        return _of_all(region.members, decide, start + timeout)
    problem = stated(model, region, property)
    room = default_memory(problem.x.device) // 2 if room is None else room
    if replay is None and isinstance(model, OnnxModel):
        replay = model.replay
    with _showing(told) as hears, Threads() as threads:
        job = Job(problem, replay, start, start + timeout, attack, hears, threads, rounding)
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


def _of_all(
    members: Sequence[Region], decide: Callable[[Region, float], Verdict], end: float
) -> Verdict:
    """Decide each of the members of a union; what is left of the time is shared by the rest."""
    start, found = time.perf_counter(), list[Verdict]()
    for i, member in enumerate(members):
        seconds = (end - time.perf_counter()) / (len(members) - i)
        verdict = decide(member, max(1e-3, seconds))
        if verdict.falsified:
            return verdict
        found.append(verdict)
    worst = min(found, key=lambda verdict: (verdict.verified, verdict.bound))
    return replace(
        worst,
        open=sum(verdict.open for verdict in found),
        bounded=sum(verdict.bounded for verdict in found),
        seconds=time.perf_counter() - start,
    )
