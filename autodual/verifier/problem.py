"""From what a user says to a query: boxes, and rows of inputs and outputs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from autodual.certify import certify
from autodual.errors import InputError
from autodual.formats.onnx import OnnxModel
from autodual.query import Case, Query
from autodual.threat import Box
from autodual.verifier.around import Around
from autodual.verifier.statements import (
    MOST_CASES,
    Index,
    Region,
    Row,
    Statement,
    as_statement,
)

if TYPE_CHECKING:
    from autodual.certified import Certified, Compiled

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Problem:
    """A model and a query.

    Attributes:
        model: the module.
        x: an input [1, *] of the right shape and dtype, in the region.
        query: the cases, in float64.
        around: the set that all cases lie in, if that is no box.
    """

    model: nn.Module
    x: Tensor
    query: Query
    around: Around | None = None


def stated(model: nn.Module, region: object, property: object) -> Problem:
    """Read what the user said."""
    like = _like(model)
    if isinstance(property, Query):
        shape: tuple[int, ...] = (property.inputs,)
        if isinstance(model, OnnxModel):
            shape = tuple(model.input_shape)
        elif region is not None:
            if not isinstance(region, Tensor):
                raise InputError(
                    "a Query brings its own boxes: region is an example's input, for its shape, "
                    f"or None, not {type(region).__name__}"
                )
            shape = tuple(region.shape)
        if math.prod(shape) != property.inputs:
            raise InputError(
                f"the query is about {property.inputs} inputs, an example's input of shape "
                f"{list(shape)} has {math.prod(shape)}"
            )
        bounded = [
            c for c in property.cases if c.lower.isfinite().all() and c.upper.isfinite().all()
        ]
        if len(bounded) < len(property.cases):
            raise InputError("an input has no lower or no upper bound: a region is a box at least")
        middle = property.cases[0].lower.reshape(shape) if property.cases else torch.zeros(shape)
        return Problem(model, middle[None].to(like), property)
    if isinstance(region, tuple) and len(region) == 2:
        region = Region(*region)
    if not isinstance(region, Region):
        raise InputError(
            f"{region!r} is no region: give ad.Region(lower, upper), or the two ends of a box"
        )
    ends = torch.as_tensor(region.lower), torch.as_tensor(region.upper)
    shaped = next((end for end in ends if end.dim() > 0), None)
    if shaped is None:
        raise InputError("a region's lower or upper end has the shape of one example's input")
    inputs = tuple(shaped.shape)
    around = _around(region, like)
    x = region.ends(inputs)[0][None].to(like) if around is None else around.x
    output = admitted(model, x, around)[1].graph.output
    outputs = output.size(1)[1:] if output.batch_dim == 0 else output.size(1)
    query = to_query(region, as_statement(property), inputs, tuple(outputs))
    return Problem(model, x, query, around)


def _around(region: Region, like: Tensor) -> Around | None:
    """Return the set of a region that is no box, about an x in the model's dtype."""
    if region.ball is None:
        return None
    threat, x = region.ball
    near = x.detach().to(like)
    if not bool((near.to(x) == x).all()):
        raise InputError(
            f"the region is around an x of {x.dtype}, which the model's {near.dtype} would round: "
            f"give x.to({near.dtype})"
        )
    return Around(threat, near)


def _like(model: nn.Module) -> Tensor:
    """Return a tensor of the dtype and on the device that a model computes in."""
    known = itertools.chain(model.parameters(), model.buffers())
    return next((t.detach() for t in known if t.is_floating_point()), torch.empty(0))


def admitted(
    model: nn.Module, x: Tensor, around: Around | None = None, rounding: str | None = None
) -> tuple[Certified, Compiled]:
    """Return a model, certified for boxes or another set, and let in with an input [1, *]."""
    threat = Box(x, x) if around is None else around.threat
    net = certify(model, threat, budget=None, intervals=True, rounding=rounding)
    return net, net.admitted(x, sound=True)


def to_query(region: Region, statement: Statement, inputs: Shape, outputs: Shape) -> Query:
    """Return the cases in which a statement fails in a region: one for each clause of it.

    Args:
        region, statement: what the user said.
        inputs, outputs: the shapes of one example's.

    Raises:
        InputError: an entry that there is none of; a region that depends on outputs.
    """
    lower, upper = region.ends(inputs)
    sizes = {"X": inputs, "Y": outputs}
    inside = _alternatives(region.where)
    if len(inside) * len(statement.clauses) > MOST_CASES:
        raise InputError(f"the region and the statement make more than {MOST_CASES} cases")
    cases = [
        _case(lower.flatten(), upper.flatten(), [*clause, *(-row for row in rows)], sizes)
        for clause in statement.clauses
        for rows in inside
    ]
    return Query(tuple(cases), math.prod(inputs), math.prod(outputs))


def _alternatives(where: Statement | None) -> Sequence[Sequence[Row]]:
    """Return the sets of rows one of which is positive throughout, if a statement holds."""
    if where is None:
        return [()]
    if any(name == "Y" for clause in where.clauses for row in clause for name, _ in row.terms):
        raise InputError("a region is about inputs: say what holds of outputs in the property")
    if math.prod(len(clause) for clause in where.clauses) > MOST_CASES:
        raise InputError(f"the region falls into more than {MOST_CASES} parts")
    return list(itertools.product(*where.clauses))


def _case(lower: Tensor, upper: Tensor, rows: Sequence[Row], sizes: dict[str, Shape]) -> Case:
    """Return the case in which no row is positive."""
    tables = {name: np.zeros((len(rows), math.prod(size))) for name, size in sizes.items()}
    for i, row in enumerate(rows):
        for (name, index), factor in row.terms.items():
            tables[name][i, _place(name, index, sizes[name])] += factor
    d = torch.tensor([-row.constant for row in rows], dtype=torch.float64)
    return Case(lower, upper, torch.from_numpy(tables["X"]), torch.from_numpy(tables["Y"]), d)


def _place(name: str, index: Index, shape: Shape) -> int:
    """Return where an entry stands among all: by one number, or by one for each dimension."""
    size = (math.prod(shape),) if len(index) == 1 else shape
    if len(index) != len(size) or not all(-n <= i < n for i, n in zip(index, size, strict=True)):
        said = ", ".join(map(str, index))
        raise InputError(f"{name}[{said}]: one example's has the shape {list(shape)}")
    return int(np.ravel_multi_index([i % n for i, n in zip(index, size, strict=True)], size))


def has_points(case: Case) -> bool:
    """Return False where no point of the box satisfies its rows about inputs: proved."""
    if case.empty:
        return False
    own = (case.C == 0).all(1) & (case.A != 0).any(1)
    if not bool(own.any()):
        return True
    from autodual.solve.emptiness import proved_empty  # scipy takes a while to import

    parts = case.A[own], case.d[own], case.lower, case.upper
    return not proved_empty(*(part.cpu().double().numpy() for part in parts))
