"""Sub-problems in which nothing is left to cut: a linear program decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch
from scipy.optimize import OptimizeResult, linprog
from torch import Tensor

from autodual.solve.branching import INFEASIBLE
from autodual.solve.emptiness import proved_empty
from autodual.solve.linear import CUTS
from autodual.solve.polytope import Array, Matrices, Polytope, array, polytope
from autodual.verifier.pool import Nodes
from autodual.working import check_time

if TYPE_CHECKING:
    from autodual.verifier.units import UnitSplits


def decide(branching: UnitSplits, nodes: Nodes) -> tuple[Nodes, Tensor, Tensor]:
    """Decide sub-problems by the least t with g ≤ t for all rows g of their case.

    The dual point of HiGHS proves a bound on t: its rows' part are weights λ. Where the input's
    set is no polyhedron, tangents cut off what HiGHS finds outside of it.

    Returns:
        Those that stay undecided; a point of each program that did not prove, [P, n]; whose case
        it is for, [P].
    """
    points, open_ = [branching.lower[:0]], list[int]()
    matrices, found = Matrices(), list[int]()
    for i in range(len(nodes)):
        one = nodes.select(torch.tensor([i], device=nodes.bound.device))
        least, point = _least(branching, one, matrices)
        if not least > 0:
            open_.append(i)
            if point is not None:
                points.append(point.unsqueeze(0))
                found.append(i)
    left, tried = (torch.tensor(i, dtype=torch.int64).to(nodes.case) for i in (open_, found))
    return nodes.select(left), torch.cat(points), nodes.case[tried]


def _least(branching: UnitSplits, node: Nodes, matrices: Matrices) -> tuple[float, Tensor | None]:
    """Return a bound on t, and the point of the input at which HiGHS found it."""
    network, boxes, _ = branching.relaxed(node)
    program = polytope(network, matrices)
    for value, box in boxes.items():
        program = _within(program, value, box.lower - network.nominal(value), -1)
        program = _within(program, value, box.upper - network.nominal(value), 1)
    system = branching.system
    costs, nominal = system.question(program, network, node.case)
    if not program.finite_with(costs, nominal):
        return -np.inf, None
    least, center = -np.inf, network.entry.reference.flatten()
    for _ in range(CUTS):
        check_time()
        found = _solved(program, costs, nominal)
        if found.status == INFEASIBLE:
            parts = program.rows, program.most, program.low, program.high
            return (np.inf if proved_empty(*parts) else least), None
        if found.x is None:
            return least, None
        least = max(least, _proved(program, costs, nominal, -found.ineqlin.marginals))
        point = torch.from_numpy(found.x[: program.inputs]).to(system.like)
        outside = None if system.around is None else system.around.tangent(point)
        if least > 0 or outside is None:
            break
        row, most = outside
        program = program.cut(array(row), most, about=True)
    return least, center + point


def _solved(program: Polytope, costs: Array, nominal: Array) -> OptimizeResult:
    """Return what HiGHS says of the least t with nominal + costs · d ≤ t."""
    rows = sp.vstack(
        [
            sp.hstack([program.rows, sp.csr_matrix((program.rows.shape[0], 1))]),
            sp.hstack([sp.csr_matrix(costs), -np.ones((len(costs), 1))]),
        ],
        format="csr",
    )
    return linprog(
        np.append(np.zeros(len(program.low)), 1.0),
        A_ub=rows,
        b_ub=np.concatenate([program.most, -nominal]),
        bounds=[*zip(program.low, program.high, strict=True), (None, None)],
        method="highs",
    )


def _proved(program: Polytope, costs: Array, nominal: Array, y: Array) -> float:
    """Return what a dual point proves of t."""
    y = np.maximum(y, 0)
    weights = y[program.rows.shape[0] :]
    total = weights.sum()
    if not total > 0:
        return -np.inf
    own, weights = y[: program.rows.shape[0]] / total, weights / total
    return program.proved(weights @ costs, own) + float(weights @ nominal)


def _within(program: Polytope, value: object, end: Tensor, sign: int) -> Polytope:
    """Return the polytope with d ≤ end (sign 1) or d ≥ end (−1) for a value's entries."""
    own = program.maps[value]  # type: ignore[index]
    return program.with_rows(sign * own, sign * array(end))
