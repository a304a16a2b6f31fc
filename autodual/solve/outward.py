"""What dual points of linear programs prove whatever is rounded (Neumaier & Shcherbina, 2004).

A dual point has a multiplier for each plane around an entry of an op. Whatever HiGHS takes for
them, by them the planes have a mean, which is one more plane around the op; and rows that pass each
op by such a mean give a bound, with all that rounding may add, as optimised planes do. Nothing is
read off the program but these means: no tolerance and no rounding of the solver matters. What a
dual point puts on intervals of variables is lost; these follow from planes before them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from autodual.bound.estimators.optimised import Mixture, Shares
from autodual.bound.relaxation import Relaxation
from autodual.bound.rows import Memo, Specs
from autodual.bound.travel import rise
from autodual.front.ir import Value
from autodual.solve.polytope import Array, Polytope


def proved_outward(
    network: Relaxation, polytope: Polytope, value: Value, rows: Tensor, duals: Sequence[Array]
) -> Tensor:
    """Return lower bounds [S] on C·z for a network of one example, rounded outward.

    Args:
        network: bounded with what rounding may add.
        polytope: made of it.
        value: what C·z is about.
        rows: C [S, *].
        duals: a dual point of the program for each row; further constraints at its end count for
            nothing.
    """
    specs = {value: rows.reshape(1, -1, *value.size(1))}
    seeds = Specs.per_example(specs)
    start = {v: -r for v, r in seeds.rows(network.x).items()}
    through = Mixture(dict(shares(network, polytope, duals)))
    fall = rise(network, start, Memo(False, 0), through=through)[0]
    flat, own = rows.flatten(1), network.nominal(value).flatten()
    nominal, size = flat @ own, flat.abs() @ own.abs()
    return network.below(seeds.values, nominal, size, fall, seeds.owner)


def shares(network: Relaxation, polytope: Polytope, duals: Sequence[Array]) -> Shares:
    """Return by which means of planes dual points lead their rows through each op."""
    y = np.stack(duals)
    sides = dict[Value, Array]()
    for plane in polytope.planes:
        layer = network.layers[plane.value]
        if len(layer.facets) < 2:
            continue
        size = 2, len(y), len(layer.facets), plane.value.numel
        weights = sides.setdefault(plane.value, np.zeros(size))
        here = slice(plane.start, plane.start + len(plane.entries))
        weights[int(plane.upper), :, plane.facet, plane.entries] = y[:, here].T
    found = dict[Value, list[Tensor]]()
    for value, (lower, upper) in sides.items():
        more = upper.sum(1, keepdims=True) > lower.sum(1, keepdims=True)
        weights = np.where(more, upper, lower)
        total = weights.cumsum(1)
        parts = np.divide(weights, total, out=np.zeros_like(total), where=total > 0)
        each = torch.from_numpy(parts[:, 1:]).to(network.x).clamp(0, 1).unbind(1)
        found[value] = [share.reshape(-1, *value.size(1)) for share in each]
    return found
