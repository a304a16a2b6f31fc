"""Note what is obvious of vectors divided by their length: |xᵢ|/‖x‖ ≤ 1, cosines lie within ±1.

A divisor d that is made of powers of x, sums and what makes it no smaller has d ≥ c·‖x‖ for some
c, so that x/d lies within ±1/c. By Cauchy and Schwarz so does a product of two such vectors within
±1/(c c′).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from autodual.front.ir import Graph, Node, Value
from autodual.front.passes.ranges import Ranges, product, ranges_of
from autodual.front.passes.rewrite import Emit, fixed, rewrite

aten = torch.ops.aten

Dims = frozenset[int]
ENTRIES: Dims = frozenset()
"""No dimensions: the length of an entry by itself is its magnitude."""

DEPTH = 3
"""How many ops deep two values are compared that are computed twice."""


class Shares:
    """How large divisors are beside what they divide."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.ranges: Ranges = ranges_of(graph)

    def _made(self, value: Any) -> Node | None:
        """Return the node of an ATen op that computes a value, if one does."""
        made = self.graph.producers.get(value)
        return made if made is not None and made.op.startswith("aten.") else None

    def least(self, value: Any) -> float:
        """Return what no entry of a value, or a number, is below."""
        if isinstance(value, Value):
            return self.ranges.get(value, (-math.inf, math.inf))[0]
        return float(value)

    def share(self, d: Value, x: Value, power: float, dims: Dims) -> float:
        """Return a c ≥ 0 for which d ≥ c·‖x‖ᵖ, with the length of x taken over ``dims``.

        d has as many dimensions as x, and those that it sums over have size 1.
        """
        if power == 1 and not dims and self.least(d) >= 0 and self.same(d, x):
            return 1.0
        made = self._made(d)
        if made is None or len(d.shape) != len(x.shape):
            return 0.0
        kind = made.op.split(".")[1]
        if kind in REDUCTIONS:
            return self._reduced(made, kind, x, power, dims)
        if kind == "unsqueeze":
            return self._unsqueezed(made, x, power, dims)
        z = made.args.get("self")
        if not isinstance(z, Value):
            return 0.0
        if kind == "abs" and self.same(z, x):
            return float(power == 1 and not dims)
        exponent = 0.5 if kind == "sqrt" else made.args.get("exponent")
        if kind == "mul" and self.same(z, x) and self.same(made.args["other"], x):
            exponent = 2
        if isinstance(exponent, int | float):
            if exponent % 2 == 0 and self.same(z, x):
                return float(power == exponent and not dims)
            return self.share(z, x, power / exponent, dims) ** exponent if exponent > 0 else 0.0
        return self._no_smaller(made, kind, x, power, dims)

    def _no_smaller(self, made: Node, kind: str, x: Value, power: float, dims: Dims) -> float:
        """Return the share of a sum, maximum, multiple or copy."""
        z, other = made.args["self"], made.args.get("other", made.args.get("min"))
        if kind == "expand" or kind in COPIES:
            return self.share(z, x, power, dims)
        own = self.share(z, x, power, dims)
        if kind in ("clamp", "clamp_min"):
            return own if made.args.get("max") is None else 0.0
        if kind == "maximum":
            return own
        if kind == "add" and made.args["alpha"] == 1 and self.least(other) >= 0:
            return own
        if kind in ("mul", "div") and isinstance(other, int | float) and other > 0:
            return own * other if kind == "mul" else own / other
        return 0.0

    def _reduced(self, made: Node, kind: str, x: Value, power: float, dims: Dims) -> float:
        """Return the share of a sum, mean, maximum or norm over dimensions that stay, as size 1."""
        z = made.args["self"]
        reduced = frozenset(d % len(z.shape) for d in _dims(made))
        if not made.args.get("keepdim") or not all(isinstance(z.shape[d], int) for d in reduced):
            return 0.0
        if kind == "linalg_vector_norm":
            order = float(made.args["ord"])
            within = not dims or (dims <= reduced and order <= 2)
            return float(power == 1 and order >= 1 and within and self.same(z, x))
        if kind in ("amax", "max"):
            return self.share(z, x, power, dims) if made.index in (None, 0) and not dims else 0.0
        if kind == "var":
            return self._variance(made, reduced, x, power, dims)
        along = dims <= reduced and power <= 2 and all(z.shape[d] == x.shape[d] for d in dims)
        if self.least(z) < 0 or not along:
            return 0.0
        whole = self.share(z, x, power, ENTRIES)
        return whole / _count(z, reduced) if kind == "mean" else whole

    def _variance(self, made: Node, over: Dims, x: Value, power: float, dims: Dims) -> float:
        """Σ(z − μ)²/(n − correction), for an x that is z − μ."""
        parts = self._made(x)
        if power != 2 or parts is None or parts.op != "aten.sub.Tensor" or not dims <= over:
            return 0.0
        mean = self._made(parts.args["other"])
        if mean is None or mean.op != "aten.mean.dim" or not mean.args["keepdim"]:
            return 0.0
        z, reads = made.args["self"], (parts.args["self"], mean.args["self"])
        centered = frozenset(d % len(z.shape) for d in _dims(mean)) == over
        if not centered or not all(self.same(z, read) for read in reads):
            return 0.0
        correction = made.args["correction"]
        count = _count(z, over) - (1 if correction is None else correction)
        return 1 / count if count > 0 and parts.args["alpha"] == 1 else 0.0

    def _unsqueezed(self, made: Node, x: Value, power: float, dims: Dims) -> float:
        """A dimension that was summed away and put back was kept."""
        inner = self._made(made.args["self"])
        if inner is None or inner.op.split(".")[1] not in REDUCTIONS:
            return 0.0
        over, rank = _dims(inner), len(made.out.shape)
        if len(over) != 1 or inner.args["keepdim"] or over[0] % rank != made.args["dim"] % rank:
            return 0.0
        kept = replace(inner, args={**inner.args, "keepdim": True})
        return self._reduced(kept, inner.op.split(".")[1], x, power, dims)

    def inverse(self, value: Value, x: Value, dims: Dims) -> float:
        """Return a c ≥ 0 for which ‖x‖·value ≤ 1/c."""
        made = self._made(value)
        if made is None or len(value.shape) != len(x.shape):
            return 0.0
        if made.op == "aten.expand.default":
            return self.inverse(made.args["self"], x, dims)
        if made.op in ("aten.mul.Tensor", "aten.mul.Scalar"):
            z, k = made.args["self"], made.args["other"]
            return self.inverse(z, x, dims) / k if isinstance(k, int | float) and k > 0 else 0.0
        exponent = INVERSES.get(made.op, made.args.get("exponent"))
        if not isinstance(exponent, int | float) or exponent >= 0:
            return 0.0
        z = made.args["self"]
        return float(self.share(z, x, -1 / exponent, dims) ** -exponent)

    def divided(self, node: Node, dims: Dims) -> tuple[Value, float] | None:
        """Return x and the largest c known if a node is x/d with d ≥ c·‖x‖."""
        a, b = node.args.get("self"), node.args.get("other")
        if not (isinstance(a, Value) and isinstance(b, Value) and node.out.dtype.is_floating_point):
            return None
        if node.op == "aten.div.Tensor":
            pairs = [(a, self.share(b, a, 1, dims))]
        elif node.op == "aten.mul.Tensor":
            pairs = [(x, self.inverse(y, x, dims)) for x, y in ((a, b), (b, a))]
        else:
            return None
        x, c = max(pairs, key=lambda pair: pair[1])
        return (x, c) if c > 0 and x.shape == node.out.shape else None

    def length(self, value: Value, dims: Dims) -> float:
        """Return what the length of a value over some dimensions is at most."""
        made = self._made(value)
        if made is None:
            return math.inf
        order = _order(made)
        if order is not None:
            return self.length(made.args["self"], frozenset(order[d] for d in dims))
        found = self.divided(made, dims)
        return math.inf if found is None else 1 / found[1]

    def cosine(self, node: Node) -> float:
        """Return what a product of two vectors is at most, if a node is one."""
        kind = node.op.split(".")[1] if node.op.startswith("aten.") else ""
        if kind == "sum":
            pair = self._made(node.args["self"])
            if pair is None or pair.op != "aten.mul.Tensor":
                return math.inf
            parts = [pair.args["self"], pair.args["other"]]
            if not all(isinstance(p, Value) and p.shape == pair.out.shape for p in parts):
                return math.inf
            dims = frozenset(d % len(pair.out.shape) for d in _dims(node))
            return product(*(self.length(p, dims) for p in parts)) if dims else math.inf
        if kind not in MATRICES or node.args.get("bias") is not None:
            return math.inf
        names, sides = MATRICES[kind]
        values = [node.args[name] for name in names]
        if any(len(v.shape) < 2 for v in values):
            return math.inf
        pairs = zip(values, sides, strict=True)
        return product(*(self.length(v, frozenset({len(v.shape) - side})) for v, side in pairs))

    def same(self, a: Any, b: Any, depth: int = DEPTH) -> bool:
        """Return whether two values, or other arguments, are computed alike."""
        if isinstance(a, list) and isinstance(b, list):
            pairs = zip(a, b, strict=False)
            return len(a) == len(b) and all(self.same(p, q, depth) for p, q in pairs)
        if not (isinstance(a, Value) and isinstance(b, Value)) or a == b:
            return type(a) is type(b) and bool(a == b)
        one, other = (self._made(v) for v in (a, b))
        if one is None or other is None or depth == 0 or one.op != other.op:
            return False
        if one.index != other.index or _is_random(one):
            return False
        return all(self.same(one.args[k], other.args[k], depth - 1) for k in one.args)


REDUCTIONS = frozenset({"sum", "mean", "amax", "max", "linalg_vector_norm", "var"})
COPIES = frozenset({"clone", "alias", "detach"})
INVERSES = {"aten.reciprocal.default": -1.0, "aten.rsqrt.default": -0.5}
MATRICES: Mapping[str, tuple[tuple[str, str], tuple[int, int]]] = {
    "linear": (("input", "weight"), (1, 1)),
    "matmul": (("self", "other"), (1, 2)),
    "mm": (("self", "mat2"), (1, 2)),
    "bmm": (("self", "mat2"), (1, 2)),
}
"""The arguments of matrix products, and which dimension from behind each is summed over."""


def _dims(node: Node) -> list[int]:
    """Return the dimensions that a reduction names; none where it takes all."""
    found = node.args.get("dim")
    if found is None:
        return []
    return found if isinstance(found, list) else [found]


def _count(value: Value, dims: Dims) -> int:
    """Return how many entries a value has along some dimensions."""
    return math.prod(fixed(value.shape[d]) for d in dims)


def _order(node: Node) -> list[int] | None:
    """Return which dimension each of a node's comes from, if it moves them."""
    rank = len(node.out.shape)
    order = list(range(rank))
    if node.op == "aten.permute.default":
        return [d % rank for d in node.args["dims"]]
    if node.op == "aten.t.default":
        return order[::-1]
    if node.op != "aten.transpose.int":
        return None
    one, other = node.args["dim0"] % rank, node.args["dim1"] % rank
    order[one], order[other] = order[other], order[one]
    return order


def _is_random(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def bound_quotients(graph: Graph) -> Graph:
    """Note the ranges of vectors divided by their length, and of products of two of these.

    A clamp of a quotient to more than its range changes no value. It lets rows pass while they say
    something: where the quotient's own bound is more than twice too wide, the clamp's is closer.
    """
    shares = Shares(graph)

    def quotient(emit: Emit, node: Node) -> Value | None:
        found = shares.divided(node, ENTRIES)
        if found is None or not all(emit.moves(node.args[name]) for name in ("self", "other")):
            return None
        x, c = found
        emit.within(0.0 if shares.least(x) >= 0 else -1 / c, 1 / c)
        whole = emit(node.target, *node.args.values())  # type: ignore[arg-type]
        return emit(aten.clamp.default, whole, -2 / c, 2 / c)

    ranges = dict(graph.ranges)
    for node in graph.body:
        most = shares.cosine(node)
        if math.isfinite(most):
            ranges[node.out] = -most, most
    graph = replace(graph, ranges=ranges) if ranges != graph.ranges else graph
    return rewrite(graph, {"aten.div.Tensor": quotient, "aten.mul.Tensor": quotient})
