"""Columns that travel forward through the linearised network: noise, or unit vectors."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from autodual.bound.layer import Layer, Side
from autodual.bound.relaxation import Relaxation
from autodual.errors import InputError
from autodual.front.ir import Value
from autodual.working import check_time

Noise = Callable[[tuple[int, ...]], Tensor]


class Columns(ABC):
    """Deviations from z⁰ at every value of a dual network with parallel lines.

    Columns have the shape [N or 1, r, *size(1)]. The k-th belong together at all values.

    Args:
        network: the network; it may grow while columns travel.
        start: columns at the input, or None for none.
    """

    def __init__(self, network: Relaxation, start: Tensor | None) -> None:
        self.plan, self.batch, self.x = network.plan, network.batch, network.x
        self.network = network
        self.at: dict[Value, Tensor | None] = {network.entry.value: start}

    def count_at(self, value: Value) -> int:
        """Return how many columns there are at a value, over the batch."""
        columns = self.at.get(value)
        return 0 if columns is None else len(columns) * columns.shape[1]

    def extend(self, layer: Layer) -> None:
        """Push the columns through one layer, and forget those that no later step reads."""
        check_time()
        if layer.planes is not None:
            columns = self._elementwise(layer)
        else:
            columns = self._sum([self._affine(side) for side in layer.sides])
        if layer.radius is not None and not layer.step.rule.exact:  # no columns for rounding
            columns = self._inject(columns, layer.radius)
        self.at[layer.value] = columns
        for value in self.plan.last_reads.get(layer.value, ()):
            self.at.pop(value, None)

    def run(self, targets: Iterable[Value]) -> dict[Value, Tensor]:
        """Push the columns from the input to some values and return those there."""
        found: dict[Value, Tensor] = {}
        wanted = set(targets)
        for layer in reversed(self.network.path(wanted)):
            self.extend(layer)
            columns = self.at[layer.value]
            if layer.value in wanted and columns is not None:
                found[layer.value] = columns
        return found

    def _affine(self, side: Side) -> Tensor | None:
        """Push through the linear part of an op: f(δ) − f(0)."""
        step = side.step
        given = self._aligned([self.at[v] for v in step.variables])
        known = [g for g in given if g is not None]
        if not known:
            return None
        batch = self.batch if step.own else max(map(len, known))
        like, count = known[0].new_zeros(()), known[0].shape[1]
        rows = batch * count
        inputs = [
            v.in_layout(
                like.expand(rows, *v.size(1))
                if g is None
                else g.expand(batch, *g.shape[1:]).flatten(0, 1)
            )
            for v, g in zip(step.variables, given, strict=True)
        ]
        own = {v: side.own(v).repeat_interleave(count, 0) for v in step.own}
        call, constant = side.rule.linear_part(side.call(own, rows))
        out = step.out.per_example(call(*inputs), rows)
        if constant:
            out = out - self._at_zero(side, batch, count)
        return out.unflatten(0, (batch, count))

    def _at_zero(self, side: Side, batch: int, repeat: int) -> Tensor:
        """Return f(0), [1 or N·r, *size(1)]."""
        step, own = side.step, {v: side.own(v) for v in side.step.own}
        count = batch if own else 1
        zeros = [self.x.new_zeros(v.size(count)) for v in step.variables]
        value = step.out.per_example(side.call(own, count)(*zeros), count)
        return value.repeat_interleave(repeat, 0) if own else value

    def _elementwise(self, layer: Layer) -> Tensor | None:
        planes, step = layer.planes, layer.step
        assert planes is not None
        if not planes.are_parallel:
            raise InputError(
                f"{step.node.label} at {step.node.source}: columns that travel forward need "
                "parallel lines; use estimator=Exact() and backward order"
            )
        given = [] if layer.stops else [self.at[v] for v in step.variables]
        return self._sum(
            [
                None if g is None else g * slope.unsqueeze(1)
                for g, slope in zip(given, planes.lower_slopes, strict=True)
            ]
        )

    def _sum(self, terms: list[Tensor | None]) -> Tensor | None:
        """Return the sum of columns, those that are missing left out."""
        known = [term for term in terms if term is not None]
        if len(known) < 2:
            return known[0] if known else None
        aligned = [term for term in self._aligned([*known]) if term is not None]
        return functools.reduce(torch.add, aligned)

    def _aligned(self, given: list[Tensor | None]) -> list[Tensor | None]:
        """Return columns with equal numbers of them."""
        return given

    @abstractmethod
    def _inject(self, columns: Tensor | None, radius: Tensor) -> Tensor | None:
        """Add what a nonlinear op brings in, given its radius r [N, *size(1)]."""


def of_inputs(network: Relaxation) -> tuple[Tensor | None, Tensor]:
    """Return a column [N or 1, k, *size(1)] for each input that moves, and which these are, [k].

    None where no input moves.
    """
    value, weights = network.entry.value, network.entry.weights
    assert weights is not None
    weights = weights.flatten(1)
    moving = (weights != 0).any(0).nonzero().squeeze(1)
    if len(moving) == 0:
        return None, moving
    columns = torch.diag_embed(weights)[:, moving]
    return columns.reshape(len(weights), len(moving), *value.size(1)), moving


class Projection(Columns):
    """Random samples: after an elementwise op, r times the noise that ``noise`` draws is added.

    All examples share their noise. Without ``noise`` columns are only what they were at the input.
    """

    def __init__(
        self, network: Relaxation, start: Tensor | None, noise: Noise | None, count: int
    ) -> None:
        super().__init__(network, start)
        self.noise, self.count = noise, count

    def _inject(self, columns: Tensor | None, radius: Tensor) -> Tensor | None:
        if self.noise is None:
            return columns
        noise, scale = self.noise((1, self.count, *radius.shape[1:])), radius.unsqueeze(1)
        return noise * scale if columns is None else torch.addcmul(columns, noise, scale)


class Sources(Columns):
    """Forward order (Algorithm 2): one column for every input and every entry with r ≠ 0.

    An entry's sum is then the sum of |columns| there.
    """

    def __init__(self, network: Relaxation) -> None:
        start, moving = of_inputs(network)
        super().__init__(network, start)
        self.count = len(moving)

    def _aligned(self, given: list[Tensor | None]) -> list[Tensor | None]:
        return [None if g is None else self.filled(g) for g in given]

    def filled(self, columns: Tensor) -> Tensor:
        """Add zeros for the columns that began elsewhere."""
        missing = self.count - columns.shape[1]
        if missing == 0:
            return columns
        empty = columns.new_zeros(()).expand(len(columns), missing, *columns.shape[2:])
        return torch.cat([columns, empty], 1)

    def _inject(self, columns: Tensor | None, radius: Tensor) -> Tensor | None:
        flat = radius.flatten(1)
        open_ = flat.detach() != 0
        most = int(open_.sum(1).max())
        if most == 0 and columns is None:
            return None
        index = open_.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
        new = radius.new_zeros(len(flat), most, flat.shape[1])
        new = new.scatter(2, index.unsqueeze(2), flat.gather(1, index).unsqueeze(2))
        new = new.unflatten(2, radius.shape[1:])
        old = new.new_zeros(1, 0, *radius.shape[1:]) if columns is None else columns
        old = self.filled(old)
        self.count += most
        return torch.cat([old.expand(len(new), *old.shape[1:]), new], 1)
