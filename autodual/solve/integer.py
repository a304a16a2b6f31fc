"""The network itself as linear constraints in numbers some of which are whole.

For z in [ℓ, u], cut into the pieces on which f is linear, δₖ says how much of the k-th one z has
passed and wₖ ∈ {0, 1} whether it has passed all of it:

    z = ℓ + Σ δₖ,   f(z) = f(ℓ) + Σ slopeₖ δₖ,   lengthₖ wₖ ≤ δₖ ≤ lengthₖ wₖ₋₁.

Without whole numbers that is the convex hull of f's graph. A maximum picks one of its arguments,
y ≤ zᵢ + (maxⱼ uⱼ − ℓᵢ)(1 − wᵢ) with Σ wᵢ = 1, beside the planes that the linear program knows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from torch import Tensor

from autodual.bound.layer import Entry, Layer
from autodual.bound.plan import Plan, Step
from autodual.bound.relaxation import Relaxation
from autodual.duals import Call, Extreme, Piecewise
from autodual.errors import InputError
from autodual.solve.linear import check_set
from autodual.solve.polytope import Array, Making, Matrices, Polytope, array, wide


def whole_network(network: Relaxation, matrices: Matrices | None = None) -> Polytope:
    """Return a network of a single example without any relaxation.

    Raises:
        InputError: an op is neither affine nor made of linear pieces on its interval; the set is
            none that a program can say.
    """
    check_set(network.entry)
    return _Whole(network.entry, matrices).finished(network)


def check_whole(plan: Plan, entry: Entry) -> None:
    """Raise unless all ops are affine, made of pieces or maxima, and programs can say the set.

    Raises:
        InputError: an op or the set is none of these; it is named.
    """
    check_set(entry)
    for step in plan.steps:
        if not (step.rule.exact or isinstance(step.rule, Piecewise | Extreme)):
            raise _refused(step)


def _refused(step: Step) -> InputError:
    return InputError(
        f"{step.node.where} has no linear pieces that a mixed-integer program could choose from: "
        "net.lp bounds it by planes, certify(..., optimize=20) too"
    )


class _Whole(Making):
    """The values of a network, those of pieces and maxima as they are."""

    def enclose(self, layer: Layer, maps: Sequence[sp.csr_matrix]) -> None:
        """Add a value of a nonlinear op."""
        rule, call = layer.step.rule, layer.step.call(layer.constants, layer.batch)
        planes, shape = layer.planes, rule.shape(call) if isinstance(rule, Piecewise) else None
        if shape is not None and not shape.jumps:
            self._piecewise(layer, call, shape.vertices(layer.boxes[0]), maps[0])
        elif isinstance(rule, Extreme):
            super().enclose(layer, maps)
            self._choose(layer, maps, rule.sign)
        elif planes is not None and bool(planes.meet.all()):
            super().enclose(layer, maps)
        else:
            raise _refused(layer.step)

    def _piecewise(
        self, layer: Layer, call: Call, vertices: Sequence[Tensor], of: sp.csr_matrix
    ) -> None:
        """Add a function of one entry by the ends of its pieces."""
        t, f = (np.stack([array(v) for v in vs]) for vs in (vertices, map(call, vertices)))
        if not np.isfinite(t).all():
            raise InputError(f"{layer.step.node.where}: its interval is unbounded")
        z, y = array(layer.inputs[0].reference), array(layer.reference)
        length, width = np.diff(t, axis=0), t[-1] - t[0]
        slope = np.diff(f, axis=0) / np.where(length > 0, length, 1)
        across = (f[-1] - f[0]) / np.where(width > 0, width, 1)
        free = np.flatnonzero((length > 0).sum(0) > 1)
        on_one = np.isin(np.arange(len(z)), free, invert=True)
        passed = [self.new(np.zeros(len(free)), some[free]) for some in length]
        full = [self._whole(len(free)) for _ in length[1:]]
        before = f[0] + np.where(on_one, across * (z - t[0]), 0) - y
        count = len(self.low)
        total = sum(_unit(place, count) for place in passed)
        self._equal(wide(of[free], count) - total, (t[0] - z)[free])
        for k, now in enumerate(full):
            at, off = length[k][free], np.zeros(len(free))
            self.require(sp.diags(at) @ _unit(now, count) - _unit(passed[k], count), off)
            after = sp.diags(length[k + 1][free]) @ _unit(now, count)
            self.require(_unit(passed[k + 1], count) - after, off)
            if k:
                self.require(_unit(now, count) - _unit(full[k - 1], count), off)
        value = wide(sp.csr_matrix(sp.diags(across * on_one) @ of), count)
        for some, place in zip(slope, passed, strict=True):
            entries = (some[free], (free, place))
            value = value + sp.csr_matrix(entries, shape=(len(z), count))
        self.maps[layer.value] = self._shifted(value, before)

    def _choose(self, layer: Layer, maps: Sequence[sp.csr_matrix], sign: int) -> None:
        """Let a value that is enclosed be one of its arguments."""
        low, high = (
            sign * np.stack([array(end) for end in ends])
            for ends in zip(*((b.lower, b.upper)[::sign] for b in layer.boxes), strict=True)
        )
        z = [sign * array(argument.reference) for argument in layer.inputs]
        y, floor, top = sign * array(layer.reference), low.max(0), high.max(0)
        can = high >= floor
        free = np.flatnonzero(can.sum(0) > 1)
        chosen = [self._whole(len(free), some[free]) for some in can]
        count = len(self.low)
        total = sum(_unit(place, count) for place in chosen)
        self._equal(sp.csr_matrix(total), np.ones(len(free)))
        own = wide(self.maps[layer.value], count)[free]
        for place, of, zero, least in zip(chosen, maps, z, low, strict=True):
            room = (top - least)[free]
            rows = sign * (own - wide(of, count)[free]) + sp.diags(room) @ _unit(place, count)
            self.require(sp.csr_matrix(rows), (zero - y)[free] + room)

    def _whole(self, count: int, can: Array | None = None) -> Array:
        """Return the places of new variables in {0, 1}; 0 where they cannot be 1."""
        place = self.new(np.zeros(count), np.ones(count) if can is None else 1.0 * can)
        self.integral.append(place)
        return place

    def _equal(self, rows: sp.csr_matrix, to: Array) -> None:
        """Add constraints rows d = to."""
        self.require(sp.csr_matrix(rows), to)
        self.require(sp.csr_matrix(-rows), -to)

    def _shifted(self, rows: sp.csr_matrix, by: Array) -> sp.csr_matrix:
        """Return rows d + by, by means of a variable that is 1."""
        if not by.any():
            return sp.csr_matrix(rows)
        one = self.new(np.ones(1), np.ones(1))
        moved = np.flatnonzero(by)
        entries = (by[moved], (moved, np.repeat(one, len(moved))))
        shape = (rows.shape[0], len(self.low))
        return sp.csr_matrix(wide(rows, shape[1]) + sp.csr_matrix(entries, shape=shape))


def _unit(place: Array, count: int) -> sp.csr_matrix:
    """Return rows that read one variable each."""
    entries = (np.ones(len(place)), (np.arange(len(place)), place))
    return sp.csr_matrix(entries, shape=(len(place), count))
