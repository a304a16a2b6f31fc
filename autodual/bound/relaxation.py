"""The relaxed network: the list of its dual layers.

The engine adds layer by layer; rows, linear programs and certificates walk them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from autodual.bound.layer import Entry, Layer, example_layout
from autodual.bound.plan import Plan
from autodual.duals import Choice
from autodual.errors import InputError
from autodual.front.ir import Value
from autodual.rounding import down, gamma, least, reach, up
from autodual.threat.base import wide

Make = Callable[[Layer, tuple[Layer | Entry, ...]], Layer]
"""(a layer, the layers of its perturbed arguments) → what takes its place."""


@dataclass(frozen=True, eq=False)
class Relaxation:
    """The network up to some value, every op replaced by its relaxation.

    Attributes:
        plan: the steps that it follows.
        entry: the perturbed input and the set around it.
        layers: the dual layer of every other value, in order.
    """

    plan: Plan
    entry: Entry
    layers: Mapping[Value, Layer]
    batch: int

    def __getitem__(self, value: Value) -> Layer | Entry:
        return self.entry if value == self.entry.value else self.layers[value]

    @property
    def x(self) -> Tensor:
        """The perturbed input [N, *]."""
        return self.entry.x

    def extended(self, layer: Layer) -> Relaxation:
        """Return the network with one more layer."""
        layers = {**self.layers, layer.value: layer}
        return Relaxation(self.plan, self.entry, layers, self.batch)

    def inputs(self, values: Iterable[Value]) -> tuple[Layer | Entry, ...]:
        """Return the layers of several values."""
        return tuple(self[v] for v in values)

    def path(self, values: Iterable[Value]) -> list[Layer]:
        """Return the layers that rows at some values meet on their way, last first."""
        found, live = list[Layer](), set(values)
        for step in self.plan.path(frozenset(live)):
            if step.out in live:
                layer = self.layers[step.out]
                found.append(layer)
                if not layer.stops:
                    live.update(step.variables)
        return found

    def parallel(self, values: Iterable[Value]) -> bool:
        """Return whether −C travels back as minus what C does: one pass then serves both ends."""
        planes = (layer.planes for layer in self.path(values))
        return all(p is None or p.are_parallel for p in planes)

    def symmetric(self, values: Iterable[Value]) -> bool:
        """Return whether C·z can rise as far above C·z⁰ as it can fall below."""
        return self.entry.threat.symmetric and self.parallel(values)

    @cached_property
    def undefined(self) -> Tensor | None:
        """The examples [N] whose set may hold points where some op is not defined, if any op is so.

        They have no bound: z⁰ counts as NaN for them.
        """
        found = [u for layer in self.layers.values() if (u := layer.undefined) is not None]
        return torch.stack(found).any(0) if found else None

    def nominal(self, value: Value) -> Tensor:
        """Return z⁰ at a value, [N, *size(1)], NaN for examples without a bound."""
        z = value.per_example(self[value].reference, self.batch)
        if self.undefined is None:
            return z
        return z.masked_fill(wide(self.undefined, z), torch.nan)

    def tensors(self, values: Iterable[Value]) -> list[Tensor]:
        """Return every tensor that rows at ``values`` read on their way, each once."""
        found = list(self.entry.tensors)
        for layer in self.path(values):
            found += layer.tensors
        return list({id(tensor): tensor for tensor in found}.values())

    def until(self, values: Iterable[Value]) -> Relaxation:
        """Return the network up to some values.

        What a backward pass keeps must hold nothing that comes after it: through autograd's graph
        that would hold what keeps it, and neither would ever be freed.
        """
        layers = {layer.value: layer for layer in reversed(self.path(values))}
        return Relaxation(self.plan, self.entry, layers, self.batch)

    def replace(self, others: Mapping[int, Tensor]) -> Relaxation:
        """Return the network as rows read it, with tensors replaced by their identity."""
        layers = {value: layer.replace(others) for value, layer in self.layers.items()}
        return Relaxation(self.plan, self.entry.replace(others), layers, self.batch)

    @property
    def sizes(self) -> int:
        """How many numbers a row's sum is made of at most, one after the other."""
        at_entry = self.entry.value.numel * (1 if self.entry.weights is not None else 2)
        widest = max([at_entry, *(v.numel for v in self.layers)])
        return widest + 4 * len(self.layers) + 32

    def outward(self, values: Sequence[Value], fall: Tensor, owner: Tensor) -> Tensor:
        """Return sums over rows at some values with all that rounding may add, if that is wanted.

        Args:
            values: where the rows start.
            fall: the sums [R], computed.
            owner: the example [R] of each row.

        Rows that start at several values, or are no floats, are charged by ``joined`` besides.
        """
        if self.plan.rounding is None:
            return fall
        lost = torch.zeros_like(self.x.detach().flatten(1)[:, 0])
        for layer in self.path(values):
            if layer.charge is not None:
                lost = lost + layer.charge.floor
        dtype, width = fall.dtype, self.entry.value.numel
        lost = lost * 2 + least(dtype) * width
        return up(fall + (fall * gamma(self.sizes, dtype)).detach() + lost[owner])

    @torch.no_grad()
    def joined(self, sizes: Mapping[Value, Tensor], owner: Tensor, count: int) -> Tensor:
        """Return what rounding may add where rows join others on their way, [R].

        A row that starts at a value is the sum of ``count``, and of what comes by there: it is off
        by so many roundings of their ``sizes``, and acts on z, or on z − z⁰.

        Args:
            sizes: for the values where rows start, the sum of the sizes of their parts, [R, *].
            owner: the example [R] of each row.
            count: how many rows are added up.
        """
        total = self.x.new_zeros(len(owner))
        for value, size in sizes.items():
            layer = self[value]
            assert layer.image is not None
            box, z = layer.image, layer.reference
            far = box.magnitude + reach(box, z)
            own = value.per_example(far, self.batch).flatten(1)[owner]
            flat, dtype = size.flatten(1), size.dtype
            terms = torch.where(flat == 0, flat, flat * own).sum(1)
            share = gamma(count + 2, dtype) * (1 + gamma(value.numel, dtype))
            total = up(total + share * terms + value.numel * least(dtype))
        return total

    def below(
        self,
        values: Sequence[Value],
        nominal: Tensor,
        size: Tensor | None,
        fall: Tensor,
        owner: Tensor,
        more: int = 0,
    ) -> Tensor:
        """Return lower bounds [R] on Σ C·z for rows at some values.

        Args:
            values, owner: as for ``outward``.
            nominal: Σ C·z⁰ [R], computed.
            size: Σ |C|·|z⁰| [R], computed, if bounds hold whatever is rounded.
            fall: how far they can fall below, [R].
            more: how many further terms are in these sums.
        """
        bound = nominal - self.outward(values, fall, owner)
        if size is None:
            return bound
        count, dtype = sum(v.numel for v in values) + more, size.dtype
        lost = up(gamma(2 * count, dtype) * size + count * least(dtype))
        return down(down(bound) - lost.detach())

    def select(self, index: Tensor) -> Relaxation:
        """Return the network of the examples at ``index`` [R], which may repeat some.

        An example that stands there several times can have slopes of its own for each of its rows.
        """
        pick = example_layout(self.batch, index)
        return self._made_anew(
            self.entry.select(index),
            len(index),
            lambda layer, inputs: layer.map(pick, index, inputs),
        )

    def with_slopes(self, slopes: Mapping[Value, Choice]) -> Relaxation:
        """Return the network on the same boxes with other slopes, by the value an op computes.

        Raises:
            InputError: no op that takes slopes computes one of these values; the network is bounded
                with what rounding may add.
        """
        if self.plan.rounding is not None:
            raise InputError("rounding= charges planes where they are made: give relax(slopes=)")
        check_slopes(self.plan, slopes)
        return self._made_anew(
            self.entry,
            self.batch,
            lambda layer, inputs: layer.with_slopes(slopes.get(layer.value), inputs),
        )

    def _made_anew(self, entry: Entry, batch: int, make: Make) -> Relaxation:
        """Return the network with each layer made anew, on those before it."""
        found = Relaxation(self.plan, entry, {}, batch)
        for layer in self.layers.values():
            found = found.extended(make(layer, found.inputs(layer.step.variables)))
        return found

    def __str__(self) -> str:
        lines = [f"{self.entry.value.name}: {self.entry.threat}"]
        return "\n".join([*lines, *map(str, self.layers.values())])

    __repr__ = __str__


def check_slopes(plan: Plan, slopes: Mapping[Value, Choice]) -> None:
    """Raise unless slopes are given to ops that take some."""
    free = [step.out for step in plan.steps if step.rule.takes_slopes]
    wrong = [value for value in slopes if value not in free]
    if wrong:
        names = ", ".join(v.name for v in free) or "none"
        raise InputError(
            f"slopes are given for {', '.join(map(str, wrong))}: the values whose ops take slopes "
            f"are {names}"
        )
