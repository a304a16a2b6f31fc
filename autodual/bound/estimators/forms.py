"""Affine forms: each value as a linear function of the input, and how far it can lie from that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from autodual.bound.estimators.base import Sums
from autodual.bound.layer import Layer, Side
from autodual.bound.projection import Projection, of_inputs
from autodual.bound.relaxation import Relaxation
from autodual.bound.rows import Seeds
from autodual.duals import Planes
from autodual.errors import InputError
from autodual.front.ir import Value
from autodual.interval import Interval


class FormSums(Sums):
    """|z − z⁰ − Gδ| ≤ r for inputs x⁰ + Wδ, |δ| ≤ 1: a column of G for each input that moves.

    r is pushed by |A|, so that all costs what intervals cost, once more for each input, and is
    much tighter on small boxes. For sets that are boxes.
    """

    def __init__(self, network: Relaxation) -> None:
        super().__init__(network)
        columns, moving = of_inputs(network)
        self.lines = Projection(network, columns, None, len(moving))
        self.rest: dict[Value, Tensor | None] = {network.entry.value: None}

    def extend(self, network: Relaxation, layer: Layer) -> None:
        """Push both one layer on."""
        super().extend(network, layer)
        given = [self.rest[v] for v in layer.step.variables]
        self.lines.extend(layer)
        self.rest[layer.value] = _pushed(layer, given)
        for value in network.plan.last_reads.get(layer.value, ()):
            self.rest.pop(value, None)

    def interval(self, value: Value) -> Interval:
        """Return bounds on every entry of a value that the last layers reached, in its layout."""
        reference = self.network[value].reference
        far = torch.zeros_like(reference)
        columns, rest = self.lines.at[value], self.rest[value]
        if columns is not None:
            each = columns.abs().sum(1).expand(self.network.batch, *value.size(1))
            far = far + value.in_layout(each)
        if rest is not None:
            far = far + rest
        return Interval(reference - far, reference + far)

    def deviations(self, seeds: Seeds, both: bool) -> Tensor:
        """Refuse: forms bound single entries."""
        raise InputError("affine forms give intervals inside a network, not rows")


def _pushed(layer: Layer, given: Sequence[Tensor | None]) -> Tensor | None:
    """Return r after a layer, in the model's layout, for that before it."""
    brought = layer.about[1]
    terms = [] if brought is None else [brought]
    if isinstance(layer.relaxed, Planes):
        slopes = layer.relaxed.lower_slopes
        pairs = zip(slopes, given, strict=True) if slopes else ()
        terms += [slope.abs() * r for slope, r in pairs if r is not None]
    else:
        known = dict(zip(layer.step.variables, given, strict=True))
        terms += [r for side in layer.sides if (r := _through(side, known)) is not None]
    return sum(terms[1:], terms[0]) if terms else None


def _through(side: Side, known: Mapping[Value, Tensor | None]) -> Tensor | None:
    """Return |A| r."""
    variables = side.step.variables
    some = [known[v] for v in variables]
    if all(r is None for r in some):
        return None
    like = next(r for r in some if r is not None)
    filled = [
        like.new_zeros(v.size(side.batch)) if r is None else r
        for v, r in zip(variables, some, strict=True)
    ]
    call, _ = side.rule.linear_part(side.step.call(side.constants, side.batch))
    return side.rule.interval(call, *(Interval(-r, r) for r in filled)).radius
