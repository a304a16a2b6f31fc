"""A relaxed network of one example as linear constraints, the convex outer polytope (thesis 3.1.1).

All is written about the reference values z⁰, d = z − z⁰. Variables are d at the input and at the
entries of nonlinear ops whose planes do not meet; all else is affine in these and put in for, so
that affine ops and stable units leave no trace. Planes of a nonlinear op say

    Σᵢ aᵢ dᵢ − below ≤ d ≤ Σᵢ aᵢ dᵢ + above,

one pair for each of its ``facets``, and a product of matrices −r ≤ d − Σᵢ Aᵢ dᵢ ≤ r.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from autodual.bound.layer import Entry, Facet, Layer, Side
from autodual.bound.relaxation import Relaxation
from autodual.bound.rows import Memo, Units, pull_affine, to_dense
from autodual.front.ir import Value
from autodual.solve.polyhedron import polyhedron_of, sparse
from autodual.threat import Polyhedron

CHUNK = 2**24
"""How many entries of a matrix are written out at a time."""

NEAR = 1e-4
"""By which part of ε a point may lie outside a ball and be taken for one of its points."""

Array = np.ndarray


@dataclass(frozen=True)
class Named:
    """Constraints that are planes around some entries of an op's value.

    Attributes:
        value: what the op computes.
        facet: which of its layer's facets they belong to.
        upper: whether they lie above.
        entries: of the value, one for each constraint.
        start: the place of the first.
        columns: the variables that the op's value has.
    """

    value: Value
    facet: int
    upper: bool
    entries: Array
    start: int
    columns: Array


@dataclass
class Polytope:
    """Points d with low ≤ d ≤ high and rows d ≤ most.

    Attributes:
        rows: sparse [constraints, variables].
        maps: for each value, the matrix [numel, variables] that gives its d.
        about: which of the constraints are about the input's set alone.
        entry: the input and its set; its d are the first variables.
        integral: which variables are whole numbers, if the polytope is of the network itself.
        planes: which of the constraints are planes of what.
    """

    low: Array
    high: Array
    rows: sp.csr_matrix
    most: Array
    maps: dict[Value, sp.csr_matrix]
    about: Array
    entry: Entry
    integral: Array
    planes: Sequence[Named] = ()

    @property
    def inputs(self) -> int:
        """How many variables the input has."""
        return self.entry.x[0].numel()

    @cached_property
    def finite(self) -> bool:
        """Whether all numbers are finite."""
        parts = self.low, self.high, self.most, self.rows.data
        return all(bool(np.isfinite(part).all()) for part in parts)

    def roomy(self) -> Polytope:
        """Return it with intervals of ops' values so wide that their planes alone say anything.

        The points are the same. A dual point then has all its weight on planes.
        """
        columns = np.unique(np.concatenate([np.zeros(0, int), *(p.columns for p in self.planes)]))
        low, high = self.low.copy(), self.high.copy()
        width = 1 + high[columns] - low[columns]
        low[columns], high[columns] = low[columns] - width, high[columns] + width
        return replace(self, low=low, high=high)

    def proved(self, cost: Array, y: Array) -> float:
        """Return what a dual point y ≥ 0 proves of the least c·d.

        Over the set itself, and over the constraints that stand for it: whichever says more. The
        first is no worse where ``deviation`` is exact.
        """
        return float(np.fmax(self._over_set(cost, np.where(self.about, 0, y)), self._over(cost, y)))

    def _over_set(self, cost: Array, y: Array) -> float:
        """Return what y proves with none of the constraints that stand for the set."""
        reduced = cost + self.rows.T @ y
        nu, rest, x = -reduced[: self.inputs], reduced[self.inputs :], self.entry.x.double()
        rows = torch.from_numpy(nu).to(x).reshape(1, 1, *x.shape[1:])
        low, high = self.low[self.inputs :], self.high[self.inputs :]
        ends = np.minimum(rest * low, rest * high).sum()
        return float(ends - y @ self.most - float(self.entry.threat.deviation(x, rows)))

    def _over(self, cost: Array, y: Array) -> float:
        """Return what y proves by the constraints and the box alone."""
        if not self.finite:
            return -np.inf
        reduced = cost + self.rows.T @ y
        return float(np.minimum(reduced * self.low, reduced * self.high).sum() - y @ self.most)

    def cut(self, row: Array, most: float, about: bool = False) -> Polytope:
        """Return the polytope with one more constraint, row · d ≤ most, on its first variables.

        Args:
            about: whether it is about the input's set alone.
        """
        return self.with_rows(sp.csr_matrix(row), np.array([most]), about)

    def with_rows(self, rows: sp.csr_matrix, most: Array, about: bool = False) -> Polytope:
        """Return the polytope with more constraints, rows d ≤ most; the rest is as for ``cut``."""
        joined = sp.vstack([self.rows, wide(rows, len(self.low))], format="csr")
        of_set = np.append(self.about, np.full(len(most), about))
        return replace(self, rows=joined, most=np.append(self.most, most), about=of_set)

    def trimmed(self, point: Array, radius: float | None) -> Polytope | None:
        """Return the polytope less a point outside the ball; None if the point is not outside.

        What cuts it off is the ball's tangent that is nearest to it.
        """
        d = point[: self.inputs]
        length = float(np.linalg.norm(d))
        if radius is None or length <= radius * (1 + NEAR):
            return None
        return self.cut(d / length, radius, about=True)

    def cost(self, specs: Mapping[Value, Tensor]) -> Array:
        """Return rows C [S, *] on some values as costs [S, variables]."""
        count = len(self.low)
        total = sum(_rows(c) @ wide(self.maps[v], count) for v, c in specs.items())
        return np.asarray(total.todense())

    def question(self, network: Relaxation, specs: Mapping[Value, Tensor]) -> tuple[Array, Array]:
        """Return rows C [S, *] on some values as costs, and Σ C·z [S] where all d are 0."""
        rows = {v: c.double().flatten(1) for v, c in specs.items()}
        nominal = sum(c @ network.nominal(v).double().flatten() for v, c in rows.items())
        return self.cost(rows), array(torch.as_tensor(nominal))

    def finite_with(self, costs: Array, nominal: Array) -> bool:
        """Return whether all numbers of a question are finite, and so are the polytope's."""
        return bool(np.isfinite(costs).all() and np.isfinite(nominal).all()) and self.finite


class Matrices:
    """The matrices of affine ops; those that all examples share are written out once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Value, int], list[sp.csr_matrix]] = {}

    def __call__(self, layer: Layer, x: Tensor) -> list[sp.csr_matrix]:
        """Return the matrix of a layer for each of its perturbed arguments."""
        found = []
        for i, side in enumerate(layer.sides):
            shared = all(v.batch_dim is None for v in side.constants)
            known = self._known.get((layer.value, i))
            if known is None:
                known = _matrices(side, layer.value, x)
                if shared:
                    self._known[layer.value, i] = known
            found += known
        return found


def polytope(network: Relaxation, matrices: Matrices | None = None) -> Polytope:
    """Return the polytope of a network of a single example.

    The input lies in the box around its set, and in the set itself where that is a box or a
    ``polyhedron``. ``cut`` adds what bounds others.
    """
    return Making(network.entry, matrices).finished(network)


class Making:
    """A polytope that grows value by value from the input's set."""

    def __init__(self, entry: Entry, matrices: Matrices | None = None) -> None:
        self.matrices = matrices or Matrices()
        box, z = entry.threat.interval(entry.x), entry.reference
        self.entry, self.low, self.high = entry, array(box.lower - z), array(box.upper - z)
        self.rows: list[sp.csr_matrix] = []
        self.most: list[Array] = []
        self.integral: list[Array] = []
        self.planes: list[Named] = []
        self.maps = {entry.value: sp.identity(len(self.low), format="csr")}
        shape = polyhedron_of(entry.threat, entry.x)
        if shape is not None:
            self.add_set(shape)
        self.about = sum(map(len, self.most))

    def finished(self, network: Relaxation) -> Polytope:
        """Return the polytope with all values of a network."""
        for layer in network.layers.values():
            self.add(layer)
        count = len(self.low)
        rows = [wide(row, count) for row in self.rows]
        joined = sp.vstack(rows, format="csr") if rows else sp.csr_matrix((0, count))
        most = np.concatenate([np.zeros(0), *self.most])
        whole = np.isin(np.arange(count), np.concatenate([np.zeros(0), *self.integral]))
        about = np.arange(len(most)) < self.about
        known = self.maps, about, self.entry, whole, tuple(self.planes)
        return Polytope(self.low, self.high, joined, most, *known)

    def new(self, low: Array, high: Array) -> Array:
        """Return the places of new variables in [low, high]."""
        before = len(self.low)
        self.low, self.high = np.append(self.low, low), np.append(self.high, high)
        return np.arange(before, len(self.low))

    def require(self, rows: sp.csr_matrix, most: Array) -> None:
        """Add constraints rows d ≤ most."""
        self.rows.append(rows)
        self.most.append(most)

    def add_set(self, shape: Polyhedron) -> None:
        """Add at the input that d = steps v for a v of the polyhedron."""
        count = len(self.low)
        self.new(array(shape.low), array(shape.high))
        same = sp.hstack([sp.identity(count), -sparse(shape.steps)], format="csr")
        of_v = sp.hstack(
            [sp.csr_matrix((len(shape.most), count)), sparse(shape.rows)], format="csr"
        )
        off, most = np.zeros(count), array(shape.most)
        for rows, limit in ((same, off), (-same, off), (of_v, most)):
            self.require(rows, limit)

    def add(self, layer: Layer) -> None:
        """Add a value."""
        maps = [wide(self.maps[v], len(self.low)) for v in layer.step.variables]
        if layer.planes is not None:
            self.enclose(layer, maps)
            return
        matrices = self.matrices(layer, self.entry.x)
        affine = sp.csr_matrix(sum(m @ of for m, of in zip(matrices, maps, strict=True)))
        if layer.step.rule.exact or layer.radius is None:  # what rounding may add is left out
            self.maps[layer.value] = affine
        else:
            plane = Plane(affine, array(layer.radius))
            self.between(layer.value, [(plane, plane)])

    def enclose(self, layer: Layer, maps: Sequence[sp.csr_matrix]) -> None:
        """Add a value that its layer's planes enclose."""
        facets = layer.facets or (_only(layer),)
        pairs = [_pair(facet, maps, layer.stops) for facet in facets]
        self.between(layer.value, pairs, layer.meet.cpu().numpy().ravel())

    def between(
        self, value: Value, pairs: Sequence[tuple[Plane, Plane]], exact: Array | None = None
    ) -> None:
        """Add a value that planes enclose: a variable of its own where they do not meet.

        Nor where they are ``exact``, as far as rounding goes.
        """
        lower, upper = pairs[0]
        apart = np.asarray(abs(lower.slopes - upper.slopes).sum(1)).ravel()
        loose = (apart != 0) | (lower.away != 0) | (upper.away != 0)
        free = np.flatnonzero(loose if exact is None else loose & ~exact)
        size = lower.slopes.shape[0]
        ends = [plane.of(free).range(self.low, self.high) for pair in pairs for plane in pair]
        lows = np.max([low for low, _ in ends[::2]], axis=0)
        highs = np.min([high for _, high in ends[1::2]], axis=0)
        place = self.new(lows, highs)
        count = len(self.low)
        met = sp.diags(np.isin(np.arange(size), free, invert=True) * 1.0) @ lower.slopes
        entries = np.ones(len(free)), (free, place)
        own = sp.csr_matrix(entries, shape=(size, count))
        self.maps[value] = sp.csr_matrix(wide(sp.csr_matrix(met), count) + own)
        for sign, planes in ((-1, [low for low, _ in pairs]), (1, [high for _, high in pairs])):
            for facet, plane in _different([plane.of(free) for plane in planes]):
                known = np.isfinite(plane.away)
                rows = sign * (own[free] - wide(plane.slopes, count))
                start = sum(map(len, self.most))
                self.planes.append(Named(value, facet, sign > 0, free[known], start, place))
                self.require(rows[known], plane.away[known])


@dataclass(frozen=True)
class Plane:
    """Planes d = slopes·d′ ± away, one for each entry, above or below d."""

    slopes: sp.csr_matrix
    away: Array

    def of(self, entries: Array) -> Plane:
        """Return those of some entries."""
        return Plane(self.slopes[entries], self.away[entries])

    def range(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Return the least value less ``away``, and the largest with it, on a box."""
        rise, fall = self.slopes.maximum(0), self.slopes.minimum(0)
        return rise @ low + fall @ high - self.away, rise @ high + fall @ low + self.away


def _pair(facet: Facet, maps: Sequence[sp.csr_matrix], flat: bool) -> tuple[Plane, Plane]:
    """Return the planes of a facet over the variables."""

    def plane(slopes: Sequence[Tensor], away: Tensor) -> Plane:
        if flat:
            return Plane(sp.csr_matrix((away.numel(), maps[0].shape[1])), array(away))
        scaled = (sp.diags(array(a)) @ of for a, of in zip(slopes, maps, strict=True))
        return Plane(sp.csr_matrix(sum(scaled)), array(away))

    return plane(facet.lower, facet.below), plane(facet.upper, facet.above)


def _only(layer: Layer) -> Facet:
    """Return the planes of a layer that has no others."""
    planes, radius = layer.planes, layer.radius
    assert planes is not None
    assert radius is not None
    return Facet(planes.lower_slopes, radius, planes.upper_slopes, radius)


def _different(planes: Sequence[Plane]) -> list[tuple[int, Plane]]:
    """Number planes, and leave out those that are there already."""
    found: list[tuple[int, Plane]] = []
    for number, plane in enumerate(planes):
        if not any(
            np.array_equal(plane.away, other.away) and (plane.slopes != other.slopes).nnz == 0
            for _, other in found
        ):
            found.append((number, plane))
    return found


def _matrices(side: Side, value: Value, x: Tensor) -> list[sp.csr_matrix]:
    """Return the matrix of an affine op for each of its perturbed arguments."""
    size, found = value.numel, list[list[sp.csr_matrix]]()
    rows = max(1, CHUNK // max(size, *(v.numel for v in side.step.variables)))
    for start in range(0, size, rows):
        place = torch.arange(start, min(start + rows, size), device=x.device)
        units = Units(value, torch.zeros_like(place), place).rows(x)[value]
        pulled = pull_affine(units, side, Memo(False, 0))
        found.append([_rows(to_dense(p).full()) for p in pulled])
    return [sp.vstack(parts, format="csr") for parts in zip(*found, strict=True)]


def _rows(rows: Tensor) -> sp.csr_matrix:
    """Return rows [S, *] as a sparse matrix."""
    return sp.csr_matrix(rows.detach().double().flatten(1).cpu().numpy())


def array(tensor: Tensor) -> Array:
    """Return a tensor's entries."""
    return tensor.detach().double().flatten().cpu().numpy()


def wide(matrix: sp.csr_matrix, count: int) -> sp.csr_matrix:
    """Return a matrix with columns of zeros added."""
    size = matrix.shape[0]
    parts = matrix.data, matrix.indices, matrix.indptr
    return sp.csr_matrix(parts, shape=(size, count))
