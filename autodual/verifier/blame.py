"""Which inputs a bound loses most by: what a cut there may win."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from autodual.bound.layer import Layer
from autodual.bound.projection import Projection, of_inputs
from autodual.bound.reading import lines
from autodual.bound.relaxation import Relaxation
from autodual.bound.rows import Memo, Rows
from autodual.bound.travel import passage
from autodual.duals import Planes
from autodual.front.ir import Value
from autodual.verifier.clip import Lines

Pulled = tuple[list[Rows], "Tensor | None"]


class _Influence(Projection):
    """How far each input moves each value, along the upper planes; only a guide."""

    def __init__(self, network: Relaxation) -> None:
        columns, self.moving = of_inputs(network)
        super().__init__(network, columns, None, len(self.moving))
        self.shares: dict[Value, Tensor] = {}

    def extend(self, layer: Layer) -> None:
        """Push the columns through one layer; note which share of its boxes is whose."""
        parts = list[Tensor]()
        for value, box in zip(layer.step.variables, layer.boxes, strict=bool(layer.boxes)):
            columns = self.at.get(value)  # none of what only intervals know
            if columns is not None:
                radius = value.per_example(box.radius, self.batch).flatten(1).unsqueeze(1)
                share = columns.flatten(2).abs() / radius.clamp(min=1e-30)
                parts.append(share.clamp(max=1).nan_to_num(0, 0, 0))
        if parts and all(part.shape == parts[0].shape for part in parts):
            self.shares[layer.value] = sum(parts[1:], parts[0]) / len(parts)
        super().extend(layer)

    def _elementwise(self, layer: Layer) -> Tensor | None:
        given = [] if layer.stops else [self.at[v] for v in layer.step.variables]
        slopes = () if layer.planes is None else layer.planes.upper_slopes
        pairs = zip(given, slopes, strict=False)
        return self._sum([None if g is None else g * slope.unsqueeze(1) for g, slope in pairs])


def lines_and_blame(
    network: Relaxation, specs: Mapping[Value, Tensor]
) -> tuple[Lines, Tensor, Tensor]:
    """Return linear functions below the rows, and what these lose by the width of each input.

    A nonlinear op takes rⱼ|νⱼ| from a row. It is laid to the inputs by their shares of the width
    of what the op reads.

    Returns:
        The functions; the blame [N, S, n]; how large the terms of each function are [N, S].
    """
    influence, live = _Influence(network), set(specs)
    for layer in reversed(network.path(live)):
        influence.extend(layer)
    blamed = list[Tensor]()

    def through(layer: Layer, rows: Rows, memo: Memo) -> Pulled:
        share = influence.shares.get(layer.value)
        if layer.radius is not None and share is not None and isinstance(layer.relaxed, Planes):
            radius = layer.radius.flatten(1).expand(network.batch, -1)
            nu = rows.full().flatten(1).unflatten(0, (network.batch, -1))
            if share.shape[2] == radius.shape[1]:
                blamed.append((nu.abs() * radius.unsqueeze(1)) @ share.mT)
        pulled, far = passage(layer, rows, memo)
        return list(pulled), far

    slope, offset, size = lines(network, specs, through)
    blame = torch.zeros_like(slope)
    if blamed:
        blame = blame.index_copy(2, influence.moving, sum(blamed[1:], blamed[0]))
    return Lines(slope, offset), blame, size
