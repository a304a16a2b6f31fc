"""What a bound will take, before it is computed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import torch

from autodual.bound.budget import Purse, taking_notes
from autodual.bound.building import Building, Job
from autodual.bound.cost import Record
from autodual.bound.options import Options, Serving
from autodual.bound.plan import METHODS, Plan, RowCost
from autodual.bound.rows import Units
from autodual.bound.travel import row_cost
from autodual.front.ir import Value
from autodual.threat import ThreatModel

PACE = 0.65
"""Which part of the speed of matrix products rows reach, with all that is not counted."""


def forecast(
    job: Job, record: Record, env: Mapping[Value, torch.Tensor], threat: ThreatModel, all: bool
) -> None:
    """Add to ``record`` the rows that a bound will ask for, and what these take, at most.

    Interval arithmetic alone says which entries stay open. No row is computed.

    Args:
        job: how the bound is made.
        record: where how, rows, costs are written.
        env, threat: as for the bound.
        all: every entry gets rows.
    """
    plan, asked = job.plan, job.serving
    if not plan.method.intervals:
        plan, all = replace(plan, method=METHODS["ibp+dual"]), True
    inside = dict.fromkeys(plan.bounded, "ibp")
    lines = replace(job.options, free=False)  # those that are found soonest
    looking = replace(job, plan=plan, options=lines, serving={**asked, **inside})
    building = Building(looking, env, threat, None, None, {}, {})
    for step in plan.steps:
        building.add(step)
    purse, device = Purse(job.budget), building.network.x.device
    for value in plan.bounded:
        serving = asked[value]
        if (
            value == plan.graph.perturbed
            or serving == "ibp"
            or (job.plan.method.intervals and building.complete(value))
        ):
            continue
        sides = sides_asked(job.plan, job.options) if serving == "backward" else 1
        mask = building.open(value, building.ibp[value])
        mask, count = torch.ones_like(mask) if all else mask, 0
        with taking_notes() as notes:
            for _ in range(sides):
                if value not in job.asked:
                    mask = purse.pay(building.network, value, mask)
                count += int(mask.sum())
        record.how[value] = "ibp, over budget" if notes.over and not count else str(serving)
        record.ask(value, count)
        if count and serving == "backward":
            record.costs[value] = row_cost(
                building.network, Units.everywhere(value, building.batch, device)
            )
    _columns(building, record, [v for v, how in record.how.items() if how == "forward"])
    if asked[plan.graph.output] == "ibp" or not isinstance(asked[plan.graph.output], str):
        return
    units = Units.everywhere(plan.graph.output, building.batch, device)
    record.ask(plan.graph.output, len(units))
    record.costs[plan.graph.output] = row_cost(building.network, units)


def _columns(building: Building, record: Record, targets: list[Value]) -> None:
    """Add the columns that are pushed to some values: of inputs and of entries with r ≠ 0."""
    count = building.plan.graph.perturbed.numel
    for step in reversed(building.plan.path(frozenset(targets))):
        layer = building.network.layers[step.out]
        if layer.radius is not None and not step.rule.exact:
            count += int((layer.radius != 0).flatten(1).sum(1).max())
        record.push(step.out, building.batch * count)


def sides_asked(plan: Plan, options: Options) -> int:
    """Return how many rows an entry inside takes at most: one for each side, if lines are free."""
    return 2 if options.free and plan.method.intervals else 1


def at_most(plan: Plan, options: Options, serving: Mapping[Value, Serving]) -> float:
    """Return what the rows of an example take at most, from the sizes of the graph alone."""
    most = 0.0
    for value in plan.bounded:
        if value != plan.graph.perturbed and serving[value] in ("backward", "forward"):
            forms = tuple(form for step in plan.upstream[value] for form in plan.dense[step.out])
            most += value.numel * RowCost(forms, plan.graph.perturbed.dtype.itemsize).work
    return most * sides_asked(plan, options)


@cache
def pace(device: torch.device) -> float:
    """Return about how much work the machine does in a second: measured once, in milliseconds."""
    size = 512 if device.type == "cpu" else 4096
    square, best = torch.ones(size, size, device=device), float("inf")
    for _ in range(4):
        start = time.perf_counter()
        float((square @ square)[0, 0])
        best = min(best, time.perf_counter() - start)
    return PACE * 2 * size**3 / best
