"""Rows travel back through a relaxed network, from the values where they start to the input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from autodual.bound.flops import Flops
from autodual.bound.layer import Entry, Layer
from autodual.bound.plan import Form, RowCost, Step
from autodual.bound.relaxation import Relaxation
from autodual.bound.rows import Memo, Patches, Rows, Seeds, add, pull_affine, to_dense
from autodual.front.ir import Value

Observer = Callable[[Step, Rows], None]
"""Told of the rows that a step has pulled back."""


Passage = Callable[[Layer, Rows, Memo], tuple[Sequence[Rows], "Tensor | None"]]
"""(layer, rows, memo) → ν_in for each perturbed argument, none where rows stop, and what the layer
adds to each row's sum, [R]."""


def passage(layer: Layer, rows: Rows, memo: Memo) -> tuple[Sequence[Rows], Tensor | None]:
    """Lead rows through a layer, by the two planes that it has chosen: they add Σⱼ rⱼ|νⱼ|."""
    far = None if layer.radius is None else rows.weigh(layer.radius, memo)
    return _pull(layer, rows, memo), far


def _pull(layer: Layer, rows: Rows, memo: Memo) -> Sequence[Rows]:
    """Return ν_in for each perturbed argument; nothing where rows stop."""
    if layer.planes is not None:
        return [] if layer.stops else rows.pull_lines(layer.planes, memo)
    return [p for side in layer.sides for p in pull_affine(rows, side, memo)]


def deviations(
    network: Relaxation, seeds: Seeds, memo: Memo, both: bool, observe: Observer | None = None
) -> Tensor:
    """Return how far each row's C·z can fall below C·z⁰, and if ``both``, rise above, [E, R].

    E is 1 if ``both`` is not asked for or the two are equal.
    """
    rows = seeds.rows(network.x)
    down = {v: -r for v, r in rows.items()}
    two = both and not network.symmetric(seeds.values)
    if not two or network.parallel(seeds.values):
        return rise(network, down, memo, two, observe)
    return torch.cat([rise(network, way, memo, False, observe) for way in (down, rows)])


def rise(
    network: Relaxation,
    starts: Mapping[Value, Rows],
    memo: Memo,
    two: bool = False,
    observe: Observer | None = None,
    stop: Callable[[Mapping[Value, Rows]], bool] = lambda nu: False,
    through: Passage = passage,
) -> Tensor:
    """Return deviation_B(ν₁) + Σⱼ rⱼ|νⱼ| for each row and, if ``two``, for minus it, [E, R].

    Rows go no further where ``stop`` says so; what is returned then means nothing.
    """
    total, entry = journey(network, starts, memo, observe, stop, through)
    total = total.unsqueeze(0)
    return total if entry is None else total + at_entry(network.entry, entry, memo, two)


def journey(
    network: Relaxation,
    starts: Mapping[Value, Rows],
    memo: Memo,
    observe: Observer | None = None,
    stop: Callable[[Mapping[Value, Rows]], bool] = lambda nu: False,
    through: Passage = passage,
) -> tuple[Tensor, Rows | None]:
    """Return Σⱼ rⱼ|νⱼ| for each row, [R], and ν₁, if any row reaches the input."""
    nu = dict(starts)
    first = next(iter(starts.values()))
    total = torch.zeros(len(first), dtype=network.x.dtype, device=network.x.device)
    for layer in network.path(starts):
        if stop(nu):
            break
        out = nu.pop(layer.value, None)
        if out is None:
            continue
        pulled, far = through(layer, out, memo)
        if far is not None:
            total = total + far
        for value, rows in zip(layer.step.variables, pulled, strict=False):
            nu[value] = add(nu[value], rows) if value in nu else rows
            if observe is not None:
                observe(layer.step, rows)
    return total, nu.get(network.entry.value)


def at_entry(entry: Entry, rows: Rows, memo: Memo, two: bool) -> Tensor:
    """Return deviation_B(ν₁) and, if ``two`` and it differs, deviation_B(−ν₁), [E, R]."""
    if entry.weights is not None:
        return rows.weigh(entry.weights, memo).unsqueeze(0)
    local = entry.local
    if local is None:
        rows = to_dense(rows)
    owner, nu, see = rows.touched(memo, (0, 0) if local is None else local.halo)
    nu = torch.cat([nu, -nu], dim=1) if two else nu
    if local is None:
        nu = nu.reshape(*nu.shape[:2], *entry.x.shape[1:])
        far = entry.threat.select(entry.x, owner).deviation(entry.x[owner], nu)
    else:
        far = local.at(owner, see).deviation(nu)
    return far.unflatten(1, (1 + two, -1)).transpose(0, 1).flatten(1)


def row_cost(network: Relaxation, seeds: Seeds) -> RowCost:
    """Return what one more row costs on its way; the plan remembers it."""
    stops = any(layer.stops for layer in network.layers.values())
    key, costs = (type(seeds), seeds.values, stops), network.plan.row_costs
    if key not in costs:
        last = torch.tensor([0, -1], device=network.x.device)
        one, rest = _measured(network, seeds.take(last[1:]))
        two, _ = _measured(network, seeds.take(last))
        more = [replace(b, flops=b.flops - a.flops) for a, b in zip(one, two, strict=True)]
        forms = (*more, *_dense(network, seeds, rest))
        costs[key] = RowCost(forms, network.x.element_size())
    return costs[key]


@torch.no_grad()
def _measured(network: Relaxation, seeds: Seeds) -> tuple[list[Form], set[Value]]:
    """Send rows on their way until all are dense.

    Returns:
        Their forms, and what these cost all rows together; the values where dense rows are left.
    """
    forms, rest, before = list[Form](), set[Value](), 0

    def observe(step: Step, rows: Rows) -> None:
        nonlocal before
        flops = counter.total
        forms.append(Form(step.out, type(rows).__name__.lower(), rows.width, flops - before))
        before = flops

    def stop(nu: Mapping[Value, Rows]) -> bool:
        if any(isinstance(rows, Patches) for rows in nu.values()):
            return False
        rest.update(nu)
        return True

    memo, rows = Memo(False, 0), seeds.rows(network.x)
    rise(network, rows, memo, stop=stop)  # fills the memo
    rest.clear()
    with Flops() as counter:
        rise(network, rows, memo, False, observe, stop)
    return forms, rest


def _dense(network: Relaxation, seeds: Seeds, starts: set[Value]) -> list[Form]:
    """Return the forms of a row that is written out in full, from some values on."""
    forms, live = list[Form](), set(starts)
    for layer in network.path(seeds.values):
        if layer.value in live and not layer.stops:
            forms += network.plan.dense[layer.value]
            live.update(layer.step.variables)
    return forms
