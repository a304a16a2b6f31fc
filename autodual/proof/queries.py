"""A property over boxes as a file: trees of parts, by inputs where these are few, else by units."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from autodual.errors import InputError
from autodual.front.ir import Graph, Value
from autodual.proof.network import Entries, Translated, numbers
from autodual.proof.trees import Claim, grown, listed
from autodual.proof.write import put, read_by_relus, settled, translated, way
from autodual.query import Query
from autodual_check.reading import Unproved

FEW = 12
"""Up to how many inputs that vary are cut, rather than units."""


def write_query(
    path: str | Path,
    graph: Graph,
    env: Mapping[Value, Tensor],
    x: Tensor,
    query: Query,
    seconds: float,
    most: int,
) -> int:
    """Write a proof that no point of a query's cases is unsafe; return of how many parts.

    In each part of a case's box some row of A x + C z − d is positive.

    Args:
        path: the file, which is replaced when all is proved.
        graph, env, x: the network, its constants, and an input [1, *].
        query: the cases, in float64.
        seconds, most: after how long, and after how many parts, to give up.

    Raises:
        UnsupportedOpError: proofs do not know an op.
        InputError: a case has no rows; time or parts were not enough.
    """
    cases = [case for case in query.cases if not case.empty]
    if not cases or any(len(case.d) == 0 for case in cases):
        raise InputError("there are proofs of one case or more, each of which has rows")
    net, output, top = translated(graph, env, x)
    A, C, d = (np.concatenate([numbers(getattr(c, e)) for c in cases]) for e in ("A", "C", "d"))
    _rows(net, output, A, C, d)
    low, high = (np.stack([numbers(getattr(c, e)) for c in cases]) for e in ("lower", "upper"))
    last, claims = 0, list[Claim]()
    for i, case in enumerate(cases):
        y = np.arange(last, last + len(case.d))
        claims.append(Claim(i, True, y, np.full(len(y), -1), np.zeros(len(y))))
        last += len(y)
    way_ = way(net, 0, read_by_relus(net, box=True))
    proof = settled(net, net.arrays | {"lower": low, "upper": high}, top, 0)
    try:
        few = int((low < high).sum(1).max()) <= FEW
        roots = grown(proof, claims, way_, seconds, most, by_units=not few)
    except Unproved as error:
        raise InputError(f"the checker would not take the proof: {error}") from error
    arrays = proof.arrays | {"way": way_}
    arrays |= listed(claims, roots)
    put(path, net, arrays)
    return len(arrays["leaves"])


def _rows(net: Translated, output: Entries, A: np.ndarray, C: np.ndarray, d: np.ndarray) -> None:
    """Add A x + C z − d."""
    n = net.input
    nodes = (0, *output.nodes)
    index = np.concatenate([np.arange(n), np.where(output.index < 0, -1, output.index + n).ravel()])
    W = np.concatenate([A, C], 1)
    used = (W != 0).any(0)
    used[-1] |= not used.any()
    entries = Entries(nodes, index[used])
    where = np.arange(int(used.sum())).reshape(1, -1, 1)
    net.affine(entries, W[None][:, :, used], where, -d.reshape(1, -1, 1))
