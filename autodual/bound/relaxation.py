"""What a bound is made of, and how bounds on its values are read off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from autodual.bound.network import DualNetwork
from autodual.bound.rows import Specs, Units
from autodual.bound.sums import Sums
from autodual.front.ir import Value
from autodual.interval import Interval
from autodual.threat.base import inner


def lower(sums: Sums, target: Value, spec: Tensor) -> Tensor:
    """Return lower bounds [N, S] on C·z for the rows C [N or 1, S, *] of ``spec``."""
    batch, count = sums.network.batch, spec.shape[1]
    rows = spec.reshape(*spec.shape[:2], *target.size(1))
    nominal = inner(rows, sums.network.at(target))
    seeds = Specs.per_example(target, rows.expand(batch, *rows.shape[1:]))
    fall = sums.spread(seeds, both=False)
    bound = nominal - fall[0].unflatten(0, (batch, count))
    overflow = bound.isnan() | bound.isposinf()  # nothing is known
    return bound.masked_fill(overflow, -torch.inf)


def interval(sums: Sums, units: Units) -> Interval:
    """Return bounds [R] on the entries that ``units`` lists."""
    z = sums.network.at(units.value).flatten(1)[units.owner, units.unit]
    ends = sums.spread(units, both=True)
    return Interval(z - ends[0], z + ends[-1])


def tighten(sums: Sums, box: Interval, units: Units) -> Interval:
    """Intersect ``box``, in its value's layout, with bounds of the network's own at ``units``."""
    value, batch = units.value, sums.network.batch
    index = units.owner * value.numel + units.unit
    flat = box.map(lambda end: value.per_example(end, batch).flatten())
    best = flat.map(lambda end: end[index]).intersect(widen(interval(sums, units), look=False))

    def put(end: Tensor, new: Tensor) -> Tensor:
        examples = end.index_copy(0, index, new).reshape(batch, *value.size(1))
        return value.in_layout(examples)

    return Interval(put(flat.lower, best.lower), put(flat.upper, best.upper))


@dataclass(frozen=True, eq=False)
class Relaxation:
    """The ingredients of a bound: the intervals, the lines and the networks made of them.

    ``boxes`` maps each value that a nonlinear op reads to its interval, in the model's layout.
    ``sums`` hold a dual network each; a bound is the best any of them gives.
    """

    boxes: Mapping[Value, Interval]
    sums: tuple[Sums, ...]

    @property
    def networks(self) -> tuple[DualNetwork, ...]:
        """The dual networks."""
        return tuple(sums.network for sums in self.sums)

    def lower(self, target: Value, spec: Tensor) -> Tensor:
        """Return lower bounds [N, S] on C·z for the rows C of ``spec``."""
        best, *others = (lower(sums, target, spec) for sums in self.sums)
        for other in others:
            best = torch.maximum(best, other)
        return best

    def interval(self, target: Value) -> Interval:
        """Return bounds on every entry of ``target``, in the model's layout."""
        network = self.sums[0].network
        units = Units.everywhere(target, network.batch, network.x.device)
        box = unbounded(network.reference(target))
        for sums in self.sums:
            box = tighten(sums, box, units)
        return box


def widen(box: Interval, look: bool) -> Interval:
    """Read the traces of an overflow as unbounded: NaN, a lower end of ∞, an upper end of −∞."""
    if look and box.lower.device.type == "cpu":
        total = box.lower.detach().sum() + box.upper.detach().sum()
        if total.isfinite():  # any trace would show in the sum; to look is cheaper than to write
            return box
    low, high = box.lower.isnan() | box.lower.isposinf(), box.upper.isnan() | box.upper.isneginf()
    return Interval(box.lower.masked_fill(low, -torch.inf), box.upper.masked_fill(high, torch.inf))


def unbounded(like: Tensor) -> Interval:
    """Return the interval that says nothing."""
    return Interval(torch.full_like(like, -torch.inf), torch.full_like(like, torch.inf))
