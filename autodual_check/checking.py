"""What a file claims, compared with what is derived anew."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from autodual_check.bounds import Ball, Bounds, Box
from autodual_check.network import Affine, Relu
from autodual_check.numbers import Clock, Invalid, Unsupported, ceil, floor, near, shifted
from autodual_check.reading import read

TOGETHER, WORK = 64, 2**21
"""How many sets are bounded together at most, and how many numbers an array may hold for it."""


class Proof:
    """A file: a network, sets of inputs, and claims.

    Raises:
        Invalid: it is not made as the format says.
    """

    def __init__(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.header, self.arrays = header, arrays
        self.unit, self.dual = self.number("unit", -60, 80), self.number("dual", 0, 40)
        self.free = self.choice(self.header, "slopes", ("equal", "free")) == "free"
        self.sizes = [self.number("input", 1, 2**24)]
        self.ops: list[Affine | Relu] = []
        for i, node in enumerate(self.list(self.header, "nodes"), 1):
            self.ops.append(self.node(node, f"node {i}"))
            self.sizes.append(self.ops[-1].n)
        self.rows = self.list(self.header, "rows")
        if not self.ops or len(self.ops) > 4096 or not all(type(r) is int for r in self.rows):
            raise Invalid("nodes, rows: no network, too many nodes, or not a number")

    def number(self, name: str, low: int, high: int) -> int:
        """Return a whole number of the header."""
        value = self.header.get(name)
        if type(value) is not int or not low <= value <= high:
            raise Invalid(f"{name}: not a whole number from {low} to {high}")
        return value

    def list(self, table: dict[str, Any], name: str) -> list[Any]:
        """Return a list of a table."""
        value = table.get(name)
        if not isinstance(value, list):
            raise Invalid(f"{name}: not a list")
        return value

    def choice(self, table: dict[str, Any], name: str, known: tuple[str, ...]) -> str:
        """Return one of a few words of a table."""
        value = table.get(name)
        if not isinstance(value, str) or value not in known:
            raise Unsupported(f"{name}: none of {', '.join(known)}")
        return value

    def table(self, name: str) -> dict[str, Any]:
        """Return a table of the header."""
        value = self.header.get(name)
        if not isinstance(value, dict):
            raise Invalid(f"{name}: not a table")
        return value

    def array(self, name: Any, kind: str, *shape: int | None) -> np.ndarray:
        """Return an array of floats ("f") or whole numbers ("i"), of a shape where it is known."""
        array = self.arrays.get(name) if isinstance(name, str) else None
        if array is None or array.dtype.kind != kind or array.ndim != len(shape):
            raise Invalid(f"there is no array {str(name)[:40]!r} of {len(shape)} dimensions")
        if any(n is not None and n != m for n, m in zip(shape, array.shape, strict=True)):
            raise Invalid(f"array {name!r}: its shape is {list(array.shape)}")
        return array

    def node(self, node: Any, where: str) -> Affine | Relu:
        """Return a node that reads earlier ones."""
        if not isinstance(node, list) or len(node) < 2 or not isinstance(node[1], list):
            raise Invalid(f"{where}: not [op, inputs, …]")
        op, inputs = node[0], node[1]
        if not inputs or not all(type(j) is int and 0 <= j < len(self.sizes) for j in inputs):
            raise Invalid(f"{where}: its inputs are not earlier nodes")
        if op == "relu" and len(inputs) == 1:
            return Relu(inputs[0], self.sizes[inputs[0]], self.free)
        if op != "affine" or len(node) != 5:
            raise Unsupported(f"{where}: neither a relu of one input nor affine")
        W, size = self.array(node[2], "f", None, None, None), sum(self.sizes[j] for j in inputs)
        g, m, k = W.shape
        index = self.array(node[3], "i", g, k, None)
        b = self.array(node[4], "f", g, m, None)
        p = index.shape[2]
        if b.shape[2] not in (1, p) or g * m * p > 2**24 or g * k * p > 2**26:
            raise Invalid(f"{where}: its bias does not fit, or it is too large")
        if index.min() < -1 or index.max() >= size:
            raise Invalid(f"{where}: its index points outside of its inputs")
        return Affine(inputs, W, index, b, size, self.unit)

    def sets(self) -> tuple[np.ndarray, np.ndarray]:
        """Return boxes [N, n] in units that hold the sets; see about balls, if they are that."""
        said, n = self.table("set"), self.sizes[0]
        kind = self.choice(said, "kind", ("box", "linf", "l1", "l2"))
        self.power = {"box": 0, "linf": 0, "l1": 1, "l2": 2}[kind]
        if kind == "box":
            low, high = (self.array(said.get(e), "f", None, n) for e in ("lower", "upper"))
            if low.shape != high.shape:
                raise Invalid("set: its ends differ in shape")
            return floor(low, self.unit), ceil(high, self.unit)
        x = self.array(said.get("x"), "f", None, n)
        eps = self.array(said.get("eps"), "f", len(x))
        if eps.min() < 0:
            raise Invalid("set: a radius is negative")
        self.x, self.eps = near(x, self.unit).astype(np.int64), ceil(eps, self.unit)
        low = floor(x, self.unit) - self.eps[:, None]
        high = ceil(x, self.unit) + self.eps[:, None]
        if "lower" in said or "upper" in said:
            low = np.maximum(low, floor(self.array(said.get("lower"), "f", n), self.unit))
            high = np.minimum(high, ceil(self.array(said.get("upper"), "f", n), self.unit))
        return low, high

    def bounds(self, some: np.ndarray, low: np.ndarray, high: np.ndarray, clock: Clock) -> Bounds:
        """Bound the network over boxes [B, n], each a part of one of the sets ``some`` [B]."""
        if (low > high).any():
            raise Invalid(f"set {some[int((low > high).any(1).argmax())]}: it is empty")
        box = np.ascontiguousarray(low.T), np.ascontiguousarray(high.T)
        sets = Ball(self.x[some].T, self.eps[some], box, self.power) if self.power else Box(*box)
        return Bounds(self.ops, sets, self.dual, self.rows, clock)

    @property
    def together(self) -> int:
        """How many sets are bounded at once."""
        wide = [op.g * op.k * op.p for op in self.ops if isinstance(op, Affine)]
        return int(min(TOGETHER, max(1, WORK // max(wide + self.sizes))))

    def digest(self) -> str:
        """Return what tells this network from others: sha256 of its nodes and their numbers."""
        told = hashlib.sha256(repr(self.sizes[0]).encode())
        for op, inputs, *names in self.header["nodes"]:
            told.update(repr((op, inputs)).encode())
            for name in names:
                array = self.arrays[name]
                told.update(repr((array.dtype.str, array.shape)).encode() + array.tobytes())
        return told.hexdigest()


def margins(proof: Proof, labels: np.ndarray, clock: Clock) -> np.ndarray:
    """Return lower bounds [N, K], in units, on z_y − z_k over the sets, 0 at k = y."""
    (low, high), K = proof.sets(), proof.sizes[-1]
    if len(labels) != len(low) or labels.min() < 0 or labels.max() >= K:
        raise Invalid("labels: not one class for each set")
    found = np.zeros((len(low), K), np.int64)
    for start in range(0, len(low), proof.together):
        some = np.arange(start, min(start + proof.together, len(low)))
        bounds = proof.bounds(some, low[some], high[some], clock)
        b, k = np.nonzero(labels[some, None] != np.arange(K))
        V, columns = np.zeros((K, len(b))), np.arange(len(b))
        V[labels[some][b], columns], V[k, columns] = 1, -1
        found[some[b], k] = bounds.least(V, b)
    return found


def check_margins(proof: Proof, said: dict[str, Any], clock: Clock) -> str:
    """Check claims [N, K] of margins for labels [N]."""
    labels = proof.array(said.get("labels"), "i", None)
    claims = proof.array(said.get("margins"), "f", len(labels), proof.sizes[-1])
    derived = shifted(margins(proof, labels, clock), -proof.unit)
    wrong = np.argwhere(~(claims <= derived))
    if len(wrong):
        i, k = map(int, wrong[0])
        raise Invalid(
            f"set {i}, class {k}: a margin of {claims[i, k]:.9g} is claimed, {derived[i, k]:.9g} "
            f"derived (and {len(wrong) - 1} more)"
        )
    safe = ((claims > 0) | (np.arange(claims.shape[1]) == labels[:, None])).all(1)
    return f"{len(claims)} sets, of which {int(safe.sum())} have one class"


def check_positive(proof: Proof, said: dict[str, Any], clock: Clock) -> str:
    """Check that everywhere in each set one of some outputs is positive.

    A set may be cut in two by x_f ≤ t and x_f ≥ t, which together hold all of it, and its parts
    again. ``cuts`` lists f for each part in the order first part, all of its parts, second part; −1
    for one that is not cut: there one of the outputs is proved to be positive.
    """
    (low, high), K, n = proof.sets(), proof.sizes[-1], proof.sizes[0]
    first, last = (proof.array(said.get(e), "i", len(low)) for e in ("first", "last"))
    cuts = proof.array(said.get("cuts"), "i", None)
    at = proof.array(said.get("at"), "f", len(cuts))
    if first.min() < 0 or last.max() >= K or (first > last).any():
        raise Invalid("first, last: not outputs")
    if cuts.min() < -1 or cuts.max() >= n:
        raise Invalid("cuts: not inputs")
    least, most = floor(at, proof.unit), ceil(at, proof.unit)
    todo = [(i, low[i], high[i]) for i in reversed(range(len(low)))]
    leaves: list[tuple[int, int, np.ndarray, np.ndarray]] = []
    count = 0
    for part, cut in enumerate(cuts.tolist()):
        if not todo:
            raise Invalid(f"part {part}: there are more parts than cuts make")
        i, lower, upper = todo.pop()
        if cut < 0:
            leaves.append((part, i, lower, upper))
        else:
            left, right = upper.copy(), lower.copy()
            left[cut], right[cut] = min(left[cut], most[part]), max(right[cut], least[part])
            todo += [(i, right, upper), (i, lower, left)]
        if len(leaves) == proof.together:
            count += prove(proof, leaves, first, last, clock)
            leaves = []
    if todo:
        raise Invalid(f"{len(todo)} parts have no proof")
    count += prove(proof, leaves, first, last, clock)
    return f"{len(low)} sets in {count} parts"


def prove(
    proof: Proof,
    leaves: list[tuple[int, int, np.ndarray, np.ndarray]],
    first: np.ndarray,
    last: np.ndarray,
    clock: Clock,
) -> int:
    """See that in each leaf (part, set, box) one of the outputs is positive; return how many."""
    full = [leaf for leaf in leaves if (leaf[2] <= leaf[3]).all()]
    if full:
        part, some, low, high = (np.array(each) for each in zip(*full, strict=True))
        bounds = proof.bounds(some, low, high, clock)
        best = np.full(len(full), -1, np.int64)
        for k in range(int(last[some].max()) + 1):
            (b,) = np.nonzero((first[some] <= k) & (k <= last[some]) & (best <= 0))
            if len(b):
                V = np.zeros((proof.sizes[-1], len(b)))
                V[k] = 1
                best[b] = np.maximum(best[b], bounds.least(V, b))
        if (best <= 0).any():
            i = int((best <= 0).argmax())
            raise Invalid(f"part {part[i]} of set {some[i]}: no output is proved to be positive")
    return len(leaves)


def check(path: Path, seconds: float) -> tuple[str, str]:
    """Return "valid", "invalid" or "unsupported", and what there is to say about it."""
    try:
        clock = Clock(seconds)
        proof = Proof(*read(path))
        said = proof.table("property")
        kind = proof.choice(said, "kind", ("margins", "positive"))
        told = (check_margins if kind == "margins" else check_positive)(proof, said, clock)
        return "valid", f"{told}; network {proof.digest()}"
    except Invalid as error:
        return "invalid", str(error)
    except Unsupported as error:
        return "unsupported", str(error)
    except MemoryError:
        return "unsupported", "it takes more memory than there is"
