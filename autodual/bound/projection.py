"""Columns that travel forward through the linearised network: noise, or unit vectors."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from autodual.bound.network import DualNetwork
from autodual.bound.plan import Step
from autodual.duals import Affine
from autodual.errors import InputError
from autodual.front.ir import Value

Noise = Callable[[tuple[int, ...]], Tensor]


class Columns(ABC):
    """Deviations from z⁰ at every value of a dual network with parallel lines.

    Columns have the shape [N or 1, r, *size(1)]. The k-th belong together at all values.

    Args:
        network: the network; it may grow while columns travel.
        start: columns at the input, or None for none.
    """

    def __init__(self, network: DualNetwork, start: Tensor | None) -> None:
        self.network = network
        self.at: dict[Value, Tensor | None] = {network.plan.graph.perturbed: start}

    def extend(self, step: Step) -> None:
        """Push the columns through one step, and forget those that no later step reads."""
        if step.out in self.network.lines:
            columns = self._elementwise(step)
        else:
            columns = self._sum([self._affine(side) for side in step.sides])
        radius = self.network.radius(step.out)
        if radius is not None:
            columns = self._inject(columns, radius)
        self.at[step.out] = columns
        for value in self.network.plan.last_reads.get(step.out, ()):
            self.at.pop(value, None)

    def run(self, target: Value) -> Tensor | None:
        """Push the columns from the input to ``target`` and return them there."""
        for step in reversed(self.network.plan.upstream[target]):
            self.extend(step)
        return self.at[target]

    def _affine(self, step: Step) -> Tensor | None:
        """Push through the linear part of an op: f(δ) − f(0)."""
        assert isinstance(step.rule, Affine)
        given = self._aligned([self.at[v] for v in step.variables])
        known = [g for g in given if g is not None]
        if not known:
            return None
        batch = self.network.batch if step.own else max(map(len, known))
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
        call, constant = step.rule.linear_part(step.call(self._repeated(step, count), rows))
        out = step.out.per_example(call(*inputs), rows)
        if constant:
            out = out - self._at_zero(step, batch, count)
        return out.unflatten(0, (batch, count))

    def _at_zero(self, step: Step, batch: int, repeat: int) -> Tensor:
        """Return f(0), [1 or N·r, *size(1)]."""
        constants = self.network.constants
        count = batch if step.own else 1
        zeros = [self.network.x.new_zeros(v.size(count)) for v in step.variables]
        value = step.out.per_example(step.call(constants.env, count)(*zeros), count)
        return value.repeat_interleave(repeat, 0) if step.own else value

    def _repeated(self, step: Step, count: int) -> Mapping[Value, Tensor]:
        """Return the constants with each example's own ones repeated."""
        constants = self.network.constants
        own = {v: v.in_layout(constants.own(v).repeat_interleave(count, 0)) for v in step.own}
        return {**constants.env, **own}

    def _elementwise(self, step: Step) -> Tensor | None:
        lines = self.network.lines[step.out]
        if lines is None:
            return None
        if not lines.are_parallel:
            raise InputError(
                f"{step.node.label} at {step.node.source}: columns that travel forward need "
                "parallel lines; use estimator=Exact() and backward order"
            )
        given = [self.at[v] for v in step.variables]
        return self._sum(
            [
                None if g is None else g * slope.unsqueeze(1)
                for g, slope in zip(given, lines.lower_slopes, strict=True)
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


class Projection(Columns):
    """Random samples: after an elementwise op, r times the noise that ``noise`` draws is added.

    All examples share their noise.
    """

    def __init__(
        self, network: DualNetwork, start: Tensor | None, noise: Noise | None, count: int
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

    def __init__(self, network: DualNetwork) -> None:
        value = network.plan.graph.perturbed
        assert network.weights is not None
        weights = network.weights.flatten(1)
        start = torch.diag_embed(weights).reshape(len(weights), value.numel, *value.size(1))
        super().__init__(network, start)
        self.count = value.numel

    def _aligned(self, given: list[Tensor | None]) -> list[Tensor | None]:
        return [None if g is None else self._filled(g) for g in given]

    def _filled(self, columns: Tensor) -> Tensor:
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
        index = open_.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
        new = radius.new_zeros(len(flat), most, flat.shape[1])
        new = new.scatter(2, index.unsqueeze(2), flat.gather(1, index).unsqueeze(2))
        new = new.unflatten(2, radius.shape[1:])
        old = new.new_zeros(1, 0, *radius.shape[1:]) if columns is None else columns
        old = self._filled(old)
        self.count += most
        return torch.cat([old.expand(len(new), *old.shape[1:]), new], 1)
