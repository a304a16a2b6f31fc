"""A property over boxes as a file: boxes are cut until the checker's own bounds prove each part."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from autodual.errors import InputError
from autodual.files import replacing
from autodual.front.ir import Graph, Value
from autodual.proof.translate import Entries, Translated, numbers
from autodual.proof.write import DUAL, pack, read_by_relus, settle, translated
from autodual.query import Query
from autodual_check.checking import Bounds, Proof
from autodual_check.network import Rows
from autodual_check.reading import Invalid, Unsupported

ENOUGH = 64
"""By how many units an output must be proved to be positive: see ``SLACK``."""


@dataclass
class _Part:
    """A part of a set: its box in units, and how it was cut, if it was."""

    set: int
    lower: np.ndarray
    upper: np.ndarray
    cut: int = -1
    at: float = 0.0
    halves: tuple[_Part, ...] = ()


class _Watched(Bounds):
    """Bounds that keep the rows that came to the input last."""

    seen: Rows

    def support(self, rows: Rows, owner: np.ndarray) -> np.ndarray:
        """Return what the sets answer."""
        self.seen = rows
        return super().support(rows, owner)


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
    rows = [len(case.d) for case in cases]
    A, C, d = (np.concatenate([numbers(getattr(c, e)) for c in cases]) for e in ("A", "C", "d"))
    _rows(net, output, A, C, d)
    last = np.cumsum(rows).astype(np.int32) - 1
    low, high = (np.stack([numbers(getattr(c, e)) for c in cases]) for e in ("lower", "upper"))
    read = read_by_relus(net.nodes, box=True)
    header: dict[str, Any] = {
        **{"dual": DUAL, "input": net.input, "nodes": net.nodes},
        "ways": [["free", read]],
        "set": {"kind": "box", "lower": "lower", "upper": "upper"},
    }
    arrays = net.arrays | {"lower": low, "upper": high}
    arrays |= {"first": last + 1 - np.array(rows, np.int32), "last": last}
    settle(header, arrays, top)
    proof = Proof(header, arrays)
    roots = [_Part(i, *ends) for i, ends in enumerate(zip(*proof.sets(), strict=True))]
    try:
        _prove(proof, roots, arrays["first"], last, time.monotonic() + seconds, most)
    except (Invalid, Unsupported) as error:
        raise InputError(f"the checker would not take the proof: {error}") from error
    parts = _listed(roots)
    arrays |= {
        "cuts": np.array([part.cut for part in parts], np.int32),
        "at": np.array([part.at for part in parts]),
        "way": np.zeros(sum(part.cut < 0 for part in parts), np.int32),
    }
    names = ("first", "last", "cuts", "at", "way")
    header["property"] = {"kind": "positive", **{name: name for name in names}}
    with replacing(Path(path)) as file:
        file.write(pack(header, arrays))
    return len(arrays["way"])


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


def _prove(
    proof: Proof, roots: list[_Part], first: np.ndarray, last: np.ndarray, end: float, most: int
) -> None:
    """Cut parts until each is proved."""
    todo, made = list(roots), len(roots)
    size = proof.together
    while todo:
        if time.monotonic() > end or made > most:
            raise InputError(f"no proof within the time or parts allowed: {made} parts, and more")
        some, todo = todo[-size:], todo[:-size]
        for part, side in _open(proof, some, first, last):
            halves = _cut(part, side, proof.unit)
            todo += halves
            made += 1


def _open(
    proof: Proof, parts: list[_Part], first: np.ndarray, last: np.ndarray
) -> list[tuple[_Part, int]]:
    """Return the parts that are not proved, each with the side that matters most."""
    low, high = (np.stack([getattr(p, e) for p in parts]).T for e in ("lower", "upper"))
    bounds = _Watched(proof, low, high, None, proof.ways[0])
    sets = np.array([part.set for part in parts])
    best = np.full(len(parts), -np.inf)
    side = np.zeros(len(parts), np.int64)
    width = (high - low).astype(np.float64)
    for k in range(int(first[sets].min()), int(last[sets].max()) + 1):
        (b,) = np.nonzero((best <= ENOUGH) & (first[sets] <= k) & (k <= last[sets]))
        if len(b) == 0:
            continue
        least = bounds.least(np.full(len(b), k), np.full(len(b), -1), b)
        at, V = bounds.seen
        gain = 1e-9 * width[:, b]
        gain[at] += np.abs(V) * width[at][:, b]
        better = least > best[b]
        best[b[better]] = least[better]
        side[b[better]] = gain[:, better].argmax(0)
    return [(parts[i], int(side[i])) for i in np.flatnonzero(best <= ENOUGH)]


def _cut(part: _Part, side: int, unit: int) -> list[_Part]:
    """Cut a part in the middle of a side."""
    low, high = int(part.lower[side]), int(part.upper[side])
    if high - low < 2:
        raise InputError("no proof: a part cannot be cut any more")
    middle = (low + high) // 2
    part.cut, part.at = side, middle * 2.0**-unit
    left, right = part.upper.copy(), part.lower.copy()
    left[side] = right[side] = middle
    halves = [_Part(part.set, part.lower, left), _Part(part.set, right, part.upper)]
    part.halves = tuple(halves)
    return halves


def _listed(roots: list[_Part]) -> list[_Part]:
    """Return all parts: each, all of its lower half, all of its upper half."""
    todo, found = roots[::-1], []
    while todo:
        part = todo.pop()
        found.append(part)
        todo += part.halves[::-1]
    return found
