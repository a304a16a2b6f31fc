"""Sub-problems in which nothing is left to cut: a linear program decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch
from scipy.optimize import OptimizeResult, linprog
from torch import Tensor

from autodual.front.ir import Value
from autodual.solve.linear import CUTS
from autodual.solve.outward import shares
from autodual.solve.polytope import Array, Matrices, Polytope, array, polytope
from autodual.verifier.ascent import Point
from autodual.verifier.pool import Nodes
from autodual.working import check_time

if TYPE_CHECKING:
    from autodual.bound.relaxation import Relaxation
    from autodual.interval import Interval
    from autodual.verifier.units import UnitSplits

STIFF = 1e3
"""What it costs to miss a constraint, in units of the rows."""

TINY = 1e-30
"""The least weight of a row."""


def decide(branching: UnitSplits, nodes: Nodes) -> tuple[Nodes, Tensor, Tensor]:
    """Decide sub-problems by the least t with g ≤ t for all rows g of their case.

    What a dual point of HiGHS says about planes, intervals and rows is a point of an ascent, whose
    bound is evaluated anew: nothing depends on how a solver rounds. Where the input's set is no
    polyhedron, tangents cut off what HiGHS finds outside of it.

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
    program = polytope(network, matrices).roomy()
    own = len(program.most)
    for value, box in boxes.items():
        program = _within(program, value, box.lower - network.nominal(value), -1)
        program = _within(program, value, box.upper - network.nominal(value), 1)
    system = branching.system
    costs, nominal = system.question(program, network, node.case)
    if not program.finite_with(costs, nominal):
        return -np.inf, None
    price = STIFF * (1 + float(abs(costs).max(initial=0)))
    least, center = -np.inf, network.entry.reference.flatten()
    for _ in range(CUTS):
        check_time()
        found = _solved(program, costs, nominal, price)
        if found.x is None:
            return least, None
        y = np.maximum(-found.ineqlin.marginals, 0)
        start = _as_point(network, program, boxes, y, own)
        least = max(least, branching.proved(node, network, boxes, start))
        point = torch.from_numpy(found.x[: program.inputs]).to(system.like)
        outside = None if system.around is None else system.around.tangent(point)
        if least > 0 or outside is None:
            break
        row, most = outside
        program = program.cut(array(row), most, about=True)
    return least, center + point


def _solved(program: Polytope, costs: Array, nominal: Array, price: float) -> OptimizeResult:
    """Return what HiGHS says of the least t + M s with nominal + costs · d ≤ t.

    Rows may be missed by s ≥ 0 at a price M. There is always a least: where nothing satisfies the
    rows it proves as much as M allows.
    """
    rows, count = program.rows.shape
    missed = np.full((rows, 1), -1.0), np.zeros((len(costs), 1))
    both = sp.vstack(
        [
            sp.hstack([program.rows, sp.csr_matrix((rows, 1)), missed[0]]),
            sp.hstack([sp.csr_matrix(costs), -np.ones((len(costs), 1)), missed[1]]),
        ],
        format="csr",
    )
    ends = [*zip(program.low, program.high, strict=True), (None, None), (0, None)]
    return linprog(
        np.concatenate([np.zeros(count), [1.0, price]]),
        A_ub=both,
        b_ub=np.concatenate([program.most, -nominal]),
        bounds=ends,
        method="highs",
    )


def _as_point(
    network: Relaxation,
    program: Polytope,
    boxes: dict[Value, Interval],
    y: Array,
    own: int,
) -> Point:
    """Return where a dual point leads rows: by which planes, multipliers and weights.

    Args:
        own: how many of the constraints are the network's; intervals of values follow.
    """
    total, like = program.rows.shape[0], network.x
    multipliers, at = dict[Value, Tensor](), own
    for value in boxes:
        low, high = (y[at + i * value.numel : at + (i + 1) * value.numel] for i in (0, 1))
        at += 2 * value.numel
        multipliers[value] = torch.from_numpy(high - low).to(like).reshape(1, *value.size(1))
    weights = torch.from_numpy(np.log(np.maximum(y[total:], TINY))).to(like).unsqueeze(0)
    return Point(dict(shares(network, program, [y])), multipliers, weights)


def _within(program: Polytope, value: object, end: Tensor, sign: int) -> Polytope:
    """Return the polytope with d ≤ end (sign 1) or d ≥ end (−1) for a value's entries."""
    own = program.maps[value]  # type: ignore[index]
    return program.with_rows(sign * own, sign * array(end))
