"""How bounds on the values of a relaxed network are read off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from autodual.bound.estimators import OptimisedSums, Sums
from autodual.bound.layer import nothing_known
from autodual.bound.once import once
from autodual.bound.relaxation import Relaxation
from autodual.bound.rows import Margins, Memo, Specs, Units, to_dense
from autodual.bound.travel import Passage, journey, passage
from autodual.front.ir import Value
from autodual.interval import Interval
from autodual.labels import Classes
from autodual.rounding import down, gamma, least, slack, up, widened
from autodual.threat.base import inner


def lower(sums: Sums, specs: Mapping[Value, Tensor]) -> Tensor:
    """Return lower bounds [N, S] on Σ C·z over some values z, each with rows C [N or 1, S, *]."""
    network, rows = sums.network, _rows(specs)
    nominal = _at_nominal(network, rows)
    seeds = Specs.per_example({v: c.expand(network.batch, *c.shape[1:]) for v, c in rows.items()})
    fall = sums.deviations(seeds, both=False)[0]
    return known(_below(network, rows, seeds, nominal, fall))


def _below(
    network: Relaxation, rows: Mapping[Value, Tensor], seeds: Specs, nominal: Tensor, fall: Tensor
) -> Tensor:
    """Return lower bounds [N, S] on Σ C·z for rows that fall so far, [N · S]."""
    size = None
    if network.plan.rounding is not None:
        size = _at_nominal(network, rows, torch.abs).flatten()
        if len(rows) > 1:
            starts = {v: r.full().abs() for v, r in seeds.rows(network.x).items()}
            fall = fall + network.joined(starts, seeds.owner, len(rows))
    found = network.below(seeds.values, nominal.flatten(), size, fall, seeds.owner)
    return found.unflatten(0, (network.batch, -1))


def known(bound: Tensor) -> Tensor:
    """Return a lower bound that says nothing where numbers overflowed."""
    return bound.masked_fill(bound.isnan() | bound.isposinf(), -torch.inf)


def lines(
    network: Relaxation, specs: Mapping[Value, Tensor], through: Passage = passage
) -> tuple[Tensor, Tensor, Tensor]:
    """Return linear functions of the input below Σ C·z on its set: slopes [N, S, n], offsets.

    Σ C·z ≥ Σ C·z⁰ − Σⱼ rⱼ|νⱼ| − ν₁ᵀ(x − x⁰), for values z with rows C [N or 1, S, *] each. Offsets
    are [N, S], and so is the third that is returned: how large their terms are together.
    """
    batch, rows = network.batch, _rows(specs)
    seeds = Specs.per_example({v: c.expand(batch, *c.shape[1:]) for v, c in rows.items()})
    way = {v: -r for v, r in seeds.rows(network.x).items()}
    lost, entry = journey(network, way, Memo(False, 0), through=through)
    offset = known(_below(network, rows, seeds, _at_nominal(network, rows), lost))
    size = _at_nominal(network, rows, torch.abs) + lost.abs().unflatten(0, (batch, -1))
    if entry is None:
        return offset.new_zeros(*offset.shape, network.entry.value.numel), offset, size
    slope = -to_dense(entry).full().reshape(*offset.shape, -1)
    at = network.entry.reference.reshape(len(network.entry.reference), 1, -1)
    low, away = offset - torch.linalg.vecdot(slope, at), torch.linalg.vecdot(slope.abs(), at.abs())
    if network.plan.rounding is not None:
        off = gamma(2 * slope.shape[2], away.dtype) * away + slope.shape[2] * least(away.dtype)
        low = down(low - up(off)) - slack(offset)
    return slope, low, size + away


def _rows(specs: Mapping[Value, Tensor]) -> dict[Value, Tensor]:
    """Return rows in the shapes of their values."""
    return {v: c.reshape(*c.shape[:2], *v.size(1)) for v, c in specs.items()}


def _at_nominal(
    network: Relaxation, rows: Mapping[Value, Tensor], of: Callable[[Tensor], Tensor] = lambda t: t
) -> Tensor:
    """Return Σ C·z⁰, [N, S], with a function applied to C and z⁰ before."""
    first, *more = (inner(of(c), of(network.nominal(v))) for v, c in rows.items())
    return sum(more, first)


def margins(sums: Sums, value: Value, labels: Tensor) -> Tensor:
    """Return lower bounds [N, K, *cells] on z_y − z_k for logits and their labels y [N, *cells].

    0 at k = y. One logit per cell stands for two classes, see ``labels``.
    """
    network, seeds = sums.network, Margins.of(value, labels)
    classes = Classes(value.size(1)[1:])
    z = classes.logits(network.nominal(value).reshape(network.batch, *classes.size)).flatten(2)
    z = z if z.dim() == 3 else z.unsqueeze(2)
    y, others = seeds.labels.unsqueeze(1), seeds.others().transpose(1, 2)
    fall = network.outward(seeds.values, sums.deviations(seeds, both=False)[0], seeds.owner)
    fall = fall.reshape(others.mT.shape).mT
    at_y = z.gather(1, y)
    bound = at_y - z - torch.zeros_like(z).scatter(1, others, fall)
    if network.plan.rounding is not None:
        bound = down(bound) - slack(at_y) - slack(z)
    bound = known(bound).scatter(1, y, 0)
    return bound.reshape(network.batch, classes.count, *classes.cells)


def interval(sums: Sums, units: Units) -> Interval:
    """Return bounds [R] on the entries that ``units`` lists: one-sided where these are signed."""
    network = sums.network
    z = network.nominal(units.value).flatten(1)[units.owner, units.unit]
    if units.negative is None:
        ends = [
            network.outward(units.values, end, units.owner)
            for end in sums.deviations(units, both=True)
        ]
        box = Interval(z - ends[0], z + ends[-1])
        return box if network.plan.rounding is None else widened(box)
    fall, upper = sums.deviations(units, both=False)[0], units.negative
    fall = network.outward(units.values, fall, units.owner)
    box = Interval(z - fall, z + fall)
    box = box if network.plan.rounding is None else widened(box)
    return Interval(
        box.lower.masked_fill(upper, -torch.inf), box.upper.masked_fill(~upper, torch.inf)
    )


def meet(box: Interval, units: Units, found: Interval) -> Interval:
    """Intersect ``box`` [N, *], in its value's layout, with bounds [R] found at ``units``."""
    value, batch = units.value, box.lower.numel() // units.value.numel
    index = units.owner * value.numel + units.unit
    flat = box.map(lambda end: value.per_example(end, batch).flatten())
    best = flat.map(lambda end: end[index]).intersect(widen(found, look=False))

    def put(end: Tensor, new: Tensor) -> Tensor:
        examples = end.index_copy(0, index, new).reshape(batch, *value.size(1))
        return value.in_layout(examples)

    return Interval(put(flat.lower, best.lower), put(flat.upper, best.upper))


@dataclass(frozen=True, eq=False)
class Bound:
    """The relaxed networks of a batch, and what finds sums over their rows.

    Attributes:
        boxes: the interval of each value that a nonlinear op reads, in the model's layout.
        sums: a relaxed network each; a bound is the best that any of them gives.
    """

    boxes: Mapping[Value, Interval]
    sums: tuple[Sums, ...]

    def __repr__(self) -> str:
        networks = f"{len(self.sums)} relaxed network{'s' * (len(self.sums) != 1)}"
        read = ", ".join(v.name for v in self.boxes) or "none"
        return f"<Bound: {networks}, intervals of {read}>"

    @property
    def networks(self) -> tuple[Relaxation, ...]:
        """The relaxed networks."""
        return tuple(sums.network for sums in self.sums)

    @property
    def climbing(self) -> tuple[OptimisedSums, ...]:
        """Those sums whose rows seek their best planes in steps."""
        return tuple(sums for sums in self.sums if isinstance(sums, OptimisedSums))

    @property
    def travelled(self) -> Relaxation:
        """The network in which rows come farthest."""
        return min(self.networks, key=lambda n: sum(layer.stops for layer in n.layers.values()))

    def lower(self, specs: Mapping[Value, Tensor]) -> Tensor:
        """Return lower bounds [N, S] on Σ C·z over some values z, each with rows C [N or 1, S, *].

        The k-th rows of all values belong together: their bound is one on the sum of C·z.
        """
        return once(reduce(torch.maximum, (lower(sums, specs) for sums in self.sums)))

    def margins(self, value: Value, labels: Tensor) -> Tensor:
        """Return lower bounds [N, K, *cells] on z_y − z_k for logits and labels y [N, *cells]."""
        return reduce(torch.maximum, (margins(sums, value, labels) for sums in self.sums))

    def interval(self, target: Value) -> Interval:
        """Return bounds on every entry of ``target``, in the model's layout."""
        network = self.networks[0]
        units = Units.everywhere(target, network.batch, network.x.device)
        box = nothing_known(network[target].reference)
        for sums in self.sums:
            box = meet(box, units, interval(sums, units))
        lost, within = network.undefined, network.plan.within(target, box)
        if lost is None:
            return within.map(once)
        nowhere = target.spread(lost)  # a range must not hide that nothing is known
        ends = zip((box.lower, box.upper), (within.lower, within.upper), strict=True)
        return Interval(*(once(torch.where(nowhere, end, inside)) for end, inside in ends))


def widen(box: Interval, look: bool) -> Interval:
    """Read the traces of an overflow as unbounded: NaN, a lower end of ∞, an upper end of −∞."""
    if look and box.lower.device.type == "cpu":
        total = box.lower.detach().sum() + box.upper.detach().sum()
        if total.isfinite():  # any trace would show in the sum; to look is cheaper than to write
            return box
    low, high = box.lower.isnan() | box.lower.isposinf(), box.upper.isnan() | box.upper.isneginf()
    return Interval(box.lower.masked_fill(low, -torch.inf), box.upper.masked_fill(high, torch.inf))
