"""What a bound costs, counted; and the order of each node that makes it cheapest."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from autodual.bound.layer import Entry, Layer
from autodual.bound.plan import FLOPS_PER_BYTE, Plan, RowCost, Step, place
from autodual.bound.relaxation import Relaxation
from autodual.front.ir import Value
from autodual.working import duration

ROUGH = 3
"""By which factor a predicted time may be wrong either way."""

SHARE = 4
"""Which part of the memory budget the columns of forward order may take."""


@dataclass
class Record:
    """What one run of a bound did.

    Attributes:
        how: per bounded value, the method that served it.
        rows: per value, how many rows over the batch were asked for there.
        costs: what one such row costs.
        columns: per value, how many columns over the batch were pushed there.
        sources: per nonlinear op, the largest number of entries with r ≠ 0 in an example.
        seconds: per value, the time its op took.
    """

    how: dict[Value, str] = field(default_factory=dict)
    rows: dict[Value, int] = field(default_factory=dict)
    costs: dict[Value, RowCost] = field(default_factory=dict)
    columns: dict[Value, int] = field(default_factory=dict)
    sources: dict[Value, int] = field(default_factory=dict)
    seconds: dict[Value, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.perf_counter)

    def ask(self, value: Value, rows: int) -> None:
        """Count rows asked for at a value."""
        self.rows[value] = self.rows.get(value, 0) + rows

    def push(self, value: Value, columns: int) -> None:
        """Count columns pushed to a value."""
        self.columns[value] = self.columns.get(value, 0) + columns

    def note(self, step: Step, layer: Layer | Entry) -> None:
        """Write down what a step added to the network, and its time."""
        radius = layer.radius if isinstance(layer, Layer) else None
        if radius is not None:
            open_ = (radius != 0).flatten(1).sum(1)
            self.sources[step.out] = max(int(open_.max()), self.sources.get(step.out, 0))
        self.tick(step)

    def tick(self, step: Step) -> None:
        """Charge the time since the last call to the step."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[step.out] = self.seconds.get(step.out, 0.0) + now - self._last
        self._last = now


def choose_orders(
    plan: Plan, record: Record, network: Relaxation, memory: int
) -> Mapping[Value, str]:
    """Return "forward" or "backward" for each value that rows were asked for at.

    Columns pushed to one value have passed all before it, so the choice is how many of the
    first values to serve in forward order.
    """
    targets = [v for v in record.costs if record.how.get(v) == "backward"]
    planes = (layer.planes for layer in network.layers.values())
    parallel = all(p is None or p.are_parallel for p in planes)
    if network.entry.weights is None or not parallel:
        return dict.fromkeys(targets, "backward")
    element = network.x.element_size()
    backward = [record.rows[v] * record.costs[v].work for v in targets]
    best, first = sum(backward), 0
    for count, target in enumerate(targets, start=1):
        push, held = _push(plan, record, network, target)
        total = push + sum(backward[count:])
        if total < best and held * element <= memory // SHARE:
            best, first = total, count
    return {v: "forward" if i < first else "backward" for i, v in enumerate(targets)}


def _push(plan: Plan, record: Record, network: Relaxation, target: Value) -> tuple[float, int]:
    """Return the work of pushing columns to ``target``, and the most entries held at a time."""
    element = network.x.element_size()
    assert network.entry.weights is not None
    columns, batch = plan.graph.perturbed.numel, len(network.entry.weights)
    work, held = 0.0, 0
    for step in reversed(plan.upstream[target]):
        if not step.rule.exact:
            batch = network.batch
            columns += record.sources[step.out]
        each = plan.flops[step.out] + FLOPS_PER_BYTE * element * step.out.numel
        work += batch * columns * each
        held = max(held, 2 * batch * columns * step.out.numel)
    return work, held


@dataclass(frozen=True)
class Explanation:
    """What a bound does and costs for a batch: per node a row of strings, printable."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        return f"{self.title}\n{tabulate([self.header, *self.rows])}"

    __repr__ = __str__


def tabulate(table: Sequence[Sequence[str]]) -> str:
    """Return rows of strings in columns."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in table
    )


def explain(
    plan: Plan, record: Record, threat: object, batch: int, speed: float, measured: bool
) -> Explanation:
    """Tabulate a run: per node the op, source line, rule, method, rows, FLOPs, bytes, time."""
    rows, flops, size = _passing(plan, record)
    header = ["node", "op", "source", "shape", "dual layer", "intervals", "form", "rows"]
    header += ["MFLOP", "MB", "predicted ms"] + ["measured ms"] * measured
    forms: dict[Value, set[str]] = {step.out: set() for step in plan.steps}
    for form in (form for cost in record.costs.values() for form in cost.forms):
        forms[form.value].add(form.name)
    for value, columns in record.columns.items():
        forms[value] |= {"columns"} if columns else set()
    table = []
    for step in plan.steps:
        out = step.out
        seconds = (flops[out] + FLOPS_PER_BYTE * size[out]) / speed
        row = [
            out.name,
            step.node.label,
            place(step.node).strip() or "–",
            str(out.type),
            step.rule.kind,
            "–" if step.rule.exact else _how(step, record, batch),
            ", ".join(sorted(forms[out])) or "–",
            str(rows[out]),
            f"{flops[out] / 1e6:.3f}",
            f"{size[out] / 1e6:.3f}",
            f"{1e3 * seconds:.3f}",
        ]
        table.append(row + [f"{1e3 * record.seconds.get(out, 0.0):.3f}"] * measured)
    title = f"{threat}, bounds={plan.method.name!r} ({plan.method.text}), batch {batch}"
    work = total(plan, record)
    if work and not measured:
        about, low, high = (duration(f * work / speed) for f in (1, 1 / ROUGH, ROUGH))
        title += f"\nabout {about} at most ({low} to {high}): work of {work:.2g}"
    return Explanation(title, header, table)


def total(plan: Plan, record: Record) -> float:
    """Return the work of all rows and columns."""
    _, flops, size = _passing(plan, record)
    return sum(flops.values()) + FLOPS_PER_BYTE * sum(size.values())


def _passing(
    plan: Plan, record: Record
) -> tuple[dict[Value, int], dict[Value, int], dict[Value, int]]:
    """Return the rows and columns that pass each node, and the FLOPs and bytes they take there."""
    rows, flops, size = ({step.out: 0 for step in plan.steps} for _ in range(3))
    for target, cost in record.costs.items():
        for form in cost.forms:
            rows[form.value] += record.rows[target]
            flops[form.value] += record.rows[target] * form.flops
            size[form.value] += record.rows[target] * form.width * cost.element
    element = plan.graph.perturbed.dtype.itemsize
    for value, columns in record.columns.items():
        rows[value] += columns
        flops[value] += columns * plan.flops[value]
        size[value] += columns * value.numel * element
    return rows, flops, size


def _how(step: Step, record: Record, batch: int) -> str:
    texts = []
    for value in dict.fromkeys(step.variables):
        how = record.how.get(value, "ibp")
        if value in record.rows:
            how += f" for {100 * record.rows[value] / (batch * value.numel):.0f} %"
        texts.append(how)
    return ", ".join(texts)
