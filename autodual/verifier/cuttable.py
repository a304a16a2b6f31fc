"""What can be cut inside a network, and what a bound loses by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autodual.bound.layer import Layer
from autodual.bound.relaxation import Relaxation
from autodual.duals.elementwise import Elementwise
from autodual.duals.maximum import Extreme
from autodual.duals.piecewise import Piecewise
from autodual.duals.products import MatrixProduct
from autodual.duals.relaxed import Product
from autodual.front.ir import Value
from autodual.interval import Interval

Reader = tuple[Layer, int]
"""A layer, and which of its arguments is meant."""


@dataclass(frozen=True, eq=False)
class Unit:
    """The units of one value that sub-problems cut: entries ``index`` of what a layer reads.

    Attributes:
        layer, argument: the layer, and which of its arguments the value is.
        place: where the units stand among all.
        readers: products of what the layer computes: it is not cut for them.
    """

    layer: Layer
    argument: int
    index: Tensor
    place: slice
    readers: Sequence[Reader]

    @property
    def value(self) -> Value:
        """The value that is cut."""
        return self.layer.step.variables[self.argument]

    @property
    def box(self) -> Interval:
        """Its interval, in the model's layout."""
        return self.layer.boxes[self.argument]

    def put(self, entries: Tensor, rest: Tensor) -> Tensor:
        """Return a value's entries [M, numel], ``rest`` with those of the units [M, all] put in."""
        return rest.index_copy(1, self.index, entries[:, self.place])

    def pick(self, tensor: Tensor) -> Tensor:
        """Return the entries of the units of a value's [M, *]."""
        return tensor.flatten(1)[:, self.index]

    def blame(self, network: Relaxation, losses: Mapping[Value, Tensor]) -> Tensor | float:
        """Return what is laid to the units [M, units] of what layers take from bounds, [M, *]."""
        found: Tensor | float = 0.0
        for reader, argument in ((self.layer, self.argument), *self.readers):
            if reader.value in losses:
                layer = network.layers[reader.value]
                found = found + self.pick(_laid_to(layer, argument, losses[layer.value]))
        return found


def open_units(network: Relaxation) -> list[Unit]:
    """Return what is open for some example and can be cut.

    Curves and pieces are cut where their argument is, products at either factor: one that is a
    curve's value is better cut where the curve is.
    """
    cut = [layer for layer in network.layers.values() if _is_cut(layer)]
    several = [layer for layer in cut if len(layer.step.variables) > 1]
    entry = network.entry.value
    curves = {
        layer.value
        for layer in cut
        if layer not in several
        and layer.step.variables[0] != entry
        and not isinstance(layer.step.rule, Piecewise)
    }
    found, start = list[Unit](), 0
    for layer in cut:
        for argument, value in enumerate(layer.step.variables):
            if value == entry or (layer in several and value in curves):
                continue
            index = _open(layer, argument).any(0).nonzero().squeeze(1)
            readers = _reading(several, layer.value) if layer.value in curves else ()
            place = slice(start, start + len(index))
            found.append(Unit(layer, argument, index, place, readers))
            start += len(index)
    return found


def _reading(layers: Sequence[Layer], value: Value) -> list[Reader]:
    """Return which layers read a value, and as which argument."""
    return [(r, i) for r in layers for i, v in enumerate(r.step.variables) if v == value]


def _is_cut(layer: Layer) -> bool:
    """Return whether what a layer reads is cut; of maxima programs know more."""
    rule = layer.step.rule
    known = isinstance(rule, Elementwise) and not isinstance(rule, Extreme)
    return known or isinstance(rule, MatrixProduct)


def _open(layer: Layer, argument: int) -> Tensor:
    """Return where a tighter interval of an argument can tighten a layer, [N, numel]."""
    value, rule = layer.step.variables[argument], layer.step.rule
    found = rule.open(layer.step.call(layer.constants, layer.batch), *layer.boxes)[argument]
    return value.per_example(found, layer.batch).flatten(1)


def _laid_to(layer: Layer, argument: int, losses: Tensor) -> Tensor:
    """Return what of a layer's losses [M, *] is laid to each entry of an argument, [M, *].

    A product Σ xᵢyⱼ loses by each of r_i r_j: as much is laid to both.
    """
    if not isinstance(layer.relaxed, Product):
        return losses
    value, rest = layer.step.variables[argument], layer.relaxed.rest
    weights = layer.value.in_layout(losses) / rest.clamp(min=torch.finfo(rest.dtype).tiny)
    with torch.enable_grad():
        radii = [box.radius.detach().requires_grad_() for box in layer.boxes]
        total = (weights.nan_to_num(0, 0, 0) * layer.relaxed.call(*radii)).sum()
    (steep,) = torch.autograd.grad(total, radii[argument])
    return value.per_example(radii[argument].detach() * steep, layer.batch)
