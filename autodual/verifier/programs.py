"""A query as mixed-integer programs, one for each case: for small nets of linear pieces."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial, reduce

import numpy as np
import torch
from torch import Tensor

from autodual.bound.relaxation import Relaxation
from autodual.duals import Affine, Extreme, Piecewise
from autodual.front.ir import Value
from autodual.solve.branching import OVER, Outcome, Whole, margin_of, streamed
from autodual.solve.integer import whole_network
from autodual.solve.linear import radius_of
from autodual.solve.polytope import Array, Matrices, array
from autodual.verifier.system import System

PART = 1 / 16
"""Which part of an op's room for rounding is left where none of it can cancel later."""

Answer = tuple[int, Outcome]
"""The number of a case, and what was found."""


def decide_by_programs(
    system: System, cases: Sequence[int], end: float
) -> Iterator[tuple[int, str | None, Tensor | None]]:
    """Yield for each of some cases why it stays open, None if it is proved, and a point to try.

    A program asks for a point at which all rows of a case are 0 or less; what HiGHS finds not to
    exist is proved as far as its tolerance goes, against which each row is let up by 1e-5 of its
    size.
    """
    for i, outcome in streamed(_jobs(system, cases, end)):
        point = None
        if outcome.point is not None:
            center = system.center(i)
            point = center + torch.from_numpy(outcome.point).to(center)
        why = "time" if outcome.why == OVER else outcome.why
        yield i, None if outcome.nothing else why or "rounding", point


def _jobs(system: System, cases: Sequence[int], end: float) -> Iterator[partial[Answer]]:
    """Yield a program for each case."""
    matrices = Matrices()
    for i in cases:
        case = system.cases[i]
        bound = system.bound(system.found, case.lower[None], case.upper[None])
        network = bound.travelled
        whole = whole_network(network, matrices)
        index = torch.tensor([i], device=case.lower.device)
        costs, nominal = system.question(whole, network, index)
        off = lost(network, system.specs(index))
        if not (whole.finite_with(costs, nominal) and np.isfinite(off).all()):
            yield partial(_unknown, i)
            continue
        nominal = nominal - off
        unit = Whole(whole, None).unit
        for cost, value in zip(costs[1:], nominal[1:], strict=True):
            whole = whole.cut(cost, margin_of(cost * unit, value) - value)
        entry = network.entry
        program = Whole(whole, radius_of(entry.threat, entry.x))
        yield partial(_asked, i, program, costs[0], float(nominal[0]), end)


def lost(network: Relaxation, specs: Mapping[Value, Tensor]) -> Array:
    """Return how far rows C [1, S, *] may be off by rounding inside a network, [S].

    Each op has room of its own; on its way to the rows none of it cancels.
    """
    off = {network.entry.value: torch.zeros_like(network.entry.reference)}
    for layer in network.layers.values():
        rule, some = layer.step.rule, [off[v] for v in layer.step.variables]
        call = layer.step.call(layer.constants, layer.batch)
        if isinstance(rule, Affine):
            more = rule.extent(call, *some, constant=False)
        elif isinstance(rule, Piecewise):
            pieces = rule.shape(call).of(call, layer.boxes[0].lower)
            more = torch.stack([p.slope.abs() for p in pieces]).amax(0) * some[0]
        elif isinstance(rule, Extreme):
            more = reduce(torch.maximum, some)
        else:  # nobody has said how steep it is
            more = torch.full_like(layer.reference, torch.inf)
        own = 0.0 if layer.charge is None else PART * layer.charge.radius
        off[layer.value] = more + own
    each = (c[0].abs().flatten(1) @ off[v].flatten() for v, c in specs.items())
    return array(reduce(torch.add, each))


def _asked(i: int, program: Whole, cost: object, value: float, end: float) -> Answer:
    """Return the answer about a case."""
    if time.perf_counter() >= end:
        return i, Outcome(float("-inf"), why=OVER)
    return i, program.sought(cost, value, 0.0, end)  # type: ignore[arg-type]


def _unknown(i: int) -> Answer:
    """Return that nothing is known of a case."""
    return i, Outcome(float("-inf"), why="its bounds are not finite")
