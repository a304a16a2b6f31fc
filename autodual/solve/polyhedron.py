"""A set that is a polyhedron, asked what it is."""

from __future__ import annotations

import scipy.sparse as sp
import torch
from scipy.optimize import linprog
from torch import Tensor

from autodual.errors import InputError
from autodual.interval import Interval
from autodual.threat import Polyhedron, ThreatModel


def polyhedron_of(threat: ThreatModel, x: Tensor) -> Polyhedron | None:
    """Return the set around the first of x [N, *], if it is a polyhedron and says so.

    Raises:
        InputError: its steps have another number of entries than the example.
    """
    first = torch.zeros(1, dtype=torch.long, device=x.device)
    shape = threat.select(x, first).polyhedron(x[first].detach().double())
    if shape is not None and len(shape.steps) != x[0].numel():
        raise InputError(
            f"{type(threat).__name__}.polyhedron(x) has steps of {len(shape.steps)} entries, and "
            f"an example has {x[0].numel()}"
        )
    return shape


def support(shape: Polyhedron, box: Interval, nu: Tensor) -> Tensor:
    """Return the largest νᵀd for each of the rows ν [S, D], over steps d of a polyhedron in a box.

    NaN where there is none.
    """
    steps = sparse(shape.steps)
    rows = sp.vstack([sparse(shape.rows), steps, -steps], format="csr")
    most = torch.cat([shape.most, box.upper, -box.lower]).detach().cpu().numpy()
    ends = torch.stack([shape.low, shape.high], 1).detach().cpu().numpy()
    costs = (-steps.T @ row for row in nu.detach().cpu().numpy())
    found = [linprog(c, A_ub=rows, b_ub=most, bounds=ends, method="highs").fun for c in costs]
    return nu.new_tensor([torch.nan if least is None else -least for least in found])


def sparse(matrix: Tensor) -> sp.csr_matrix:
    """Return a matrix, dense or sparse."""
    places = matrix.detach().double().cpu().to_sparse_coo().coalesce()
    entries = places.values().numpy(), tuple(places.indices().numpy())
    return sp.csr_matrix(entries, shape=tuple(matrix.shape))
