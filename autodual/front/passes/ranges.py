"""Note what is obvious of values by the way they are made, whatever their bound says.

Roots, reciprocals and logarithms have no bound on boxes that reach below their domain. A sum of
squares is never negative, a sigmoid lies in [0, 1]: what is read keeps its interval within that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from autodual.front.ir import Graph, Node, Value, leaves

Range = tuple[float, float]
Ranges = Mapping[Value, Range]

ANYTHING: Range = (-math.inf, math.inf)

IMAGES: Mapping[str, Range] = {
    **dict.fromkeys(("abs", "relu", "exp", "exp2", "linalg_vector_norm"), (0.0, math.inf)),
    **dict.fromkeys(("sigmoid", "hardsigmoid", "step"), (0.0, 1.0)),
    **dict.fromkeys(("tanh", "sin", "cos", "erf"), (-1.0, 1.0)),
    **dict.fromkeys(("asin", "atan"), (-math.pi / 2, math.pi / 2)),
    "acos": (0.0, math.pi),
}
"""Where values of these functions lie."""

MOVES = "expand", "reshape", "unsqueeze", "squeeze", "permute", "transpose", "clone", "cat", "stack"
EXTREMES = "amax", "amin", "max", "min", "largest", "smallest"
PICKS = frozenset((*MOVES, *EXTREMES, "slice", "select", "index_select", "gather", "mean"))
"""What comes out lies between the least and the greatest of what goes in."""

EXPONENTS = {"sqrt": 0.5, "rsqrt": -0.5, "reciprocal": -1.0}

READERS = frozenset(
    (*EXPONENTS, "log", "log2", "log10", "log1p", "pow", "acos", "asin", "atanh", "logit")
)
"""Functions that are not defined everywhere."""

PRODUCTS = frozenset({"mul", "matmul", "mm", "bmm"})


def product(a: float, b: float) -> float:
    """Return a·b, with 0·∞ = 0."""
    return 0.0 if a == 0 or b == 0 else a * b


def _corners(a: Range, b: Range) -> Range:
    found = [product(x, y) for x in a for y in b]
    return min(found), max(found)


def _power(z: Range, exponent: float) -> Range:
    """Return the range of zⁿ, of z ≥ 0 if n is no integer."""
    if exponent == 0:
        return 1.0, 1.0
    if exponent % 1 != 0:
        z = max(z[0], 0.0), max(z[1], 0.0)
    elif exponent % 2 == 0:
        least = 0.0 if z[0] <= 0 <= z[1] else min(abs(end) for end in z)
        z = least, max(abs(end) for end in z)
    if exponent < 0 and z[0] < 0:
        return ANYTHING
    try:
        ends = [math.inf if end == 0 and exponent < 0 else end**exponent for end in z]
    except OverflowError:
        return (0.0, math.inf) if z[0] >= 0 else ANYTHING
    return min(ends), max(ends)


def _clamped(z: Range, low: Any, high: Any, known: Callable[[Any], Range]) -> Range:
    if isinstance(low, Value) or isinstance(high, Value):
        return ANYTHING
    least = (-math.inf, -math.inf) if low is None else known(low)
    most = (math.inf, math.inf) if high is None else known(high)
    one, other = (min(max(z[i], least[i]), most[i]) for i in (0, 1))
    return one, other


def _range(node: Node, known: Callable[[Any], Range]) -> Range:
    """Return where the values of a node lie, given where its arguments do."""
    args, kind = node.args, node.op.split(".")[1]
    if kind in IMAGES:
        return IMAGES[kind]
    if kind in ("scalar_tensor", "full"):
        return known(args.get("s", args.get("fill_value")))
    if kind in PICKS and node.index in (None, 0):
        parts = [known(v) for name in ("self", "tensors", "values") for v in leaves(args.get(name))]
        return min(low for low, _ in parts), max(high for _, high in parts)
    z, other = known(args.get("self")), known(args.get("other"))
    if kind.startswith("avg_pool") and args.get("divisor_override") is None:
        return min(z[0], 0.0), max(z[1], 0.0)
    if kind in EXPONENTS or (kind == "pow" and isinstance(args["exponent"], int | float)):
        return _power(z, float(EXPONENTS.get(kind, args.get("exponent", 0))))
    if kind in ("clamp", "clamp_min", "clamp_max"):
        return _clamped(z, args.get("min"), args.get("max"), known)
    if kind in ("maximum", "minimum"):
        pick = max if kind == "maximum" else min
        return pick(z[0], other[0]), pick(z[1], other[1])
    if kind in ("add", "sub") and isinstance(args["alpha"], int | float):
        scale = known(args["alpha"])
        more = _corners(other, scale if kind == "add" else (-scale[1], -scale[0]))
        return z[0] + more[0], z[1] + more[1]
    if kind == "neg":
        return -z[1], -z[0]
    if kind == "mul":
        return _power(z, 2) if args["self"] == args["other"] else _corners(z, other)
    if kind == "sum" and node.out.numel > 0:
        count = args["self"].numel / node.out.numel
        return product(count, z[0]), product(count, z[1])
    return ANYTHING


EXACT = frozenset(
    ("abs", "relu", "sigmoid", "step", "tanh", "sin", "cos", "erf", "neg", *MOVES, *EXTREMES)
) | {"slice", "select", "index_select", "gather", "clamp", "clamp_min", "clamp_max"}
EXACT |= {"maximum", "minimum", "scalar_tensor", "full"}
"""Ops whose results libraries do not round beyond the ends of these ranges."""

FEW, MANY = 8, 256
"""How many roundings an op makes, beside one for each number that it adds up, and a power."""


def _rounded(node: Node, found: Range, share: float, least: float) -> Range:
    """Return the range of what a library computes: rounding never changes a sign."""
    kind = node.op.split(".")[1]
    if kind in EXACT:
        return found
    most = max((v.numel for v in node.inputs), default=1)
    count = most if kind.startswith("avg_pool") else most / max(1, node.out.numel)
    count += MANY if kind == "pow" else FEW

    def off(end: float) -> float:
        return share * count * abs(end) + least * count

    low, high = found
    lower, upper = low - off(low), high + off(high)
    return max(lower, 0.0) if low >= 0 else lower, min(upper, 0.0) if high <= 0 else upper


def ranges_of(graph: Graph, share: float = 0.0, least: float = 0.0) -> Ranges:
    """Return where the values of a graph lie for every input, by the way they are made.

    With a ``share`` all that libraries compute does, where every number, in the code and computed,
    is off by so much of itself, or by ``least`` where it underflows. Values of ``graph.inexact``
    are then anywhere in their own ranges.
    """
    found: dict[Value, Range] = dict(graph.ranges)

    def known(arg: Any) -> Range:
        if isinstance(arg, Value):
            return found.get(arg, ANYTHING)
        if not isinstance(arg, int | float) or not math.isfinite(arg):
            return ANYTHING
        off = share * abs(arg) + (least if arg and share else 0.0)
        return float(arg) - off, float(arg) + off

    for node in graph.nodes:
        if share and node.out in graph.inexact:
            continue
        if node.out.dtype.is_floating_point and node.op.startswith(("aten.", "autodual.")):
            low, high = _range(node, known)
            if share:
                low, high = _rounded(node, (low, high), share, least)
            if low <= high and low < math.inf and high > -math.inf:
                before = known(node.out)
                found[node.out] = max(low, before[0]), min(high, before[1])
    return found


def note_ranges(graph: Graph) -> Graph:
    """Note the range of the output, and of what partial functions and products read."""
    read = {graph.output}
    for node in graph.body:
        kind = node.op.split(".")[1]
        if kind in READERS or (kind in PRODUCTS and graph.moving.issuperset(node.inputs)):
            read.update(node.inputs)
    found = ranges_of(graph)
    ranges = {v: found[v] for v in found if v in graph.ranges or v in read & graph.moving}
    ranges = {v: r for v, r in ranges.items() if r != ANYTHING}
    return replace(graph, ranges=ranges) if ranges != graph.ranges else graph
