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


def _clamped(z: Range, low: Any, high: Any) -> Range:
    if isinstance(low, Value) or isinstance(high, Value):
        return ANYTHING
    least = -math.inf if low is None else float(low)
    most = math.inf if high is None else float(high)
    return min(max(z[0], least), most), min(max(z[1], least), most)


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
        return _clamped(z, args.get("min"), args.get("max"))
    if kind in ("maximum", "minimum"):
        pick = max if kind == "maximum" else min
        return pick(z[0], other[0]), pick(z[1], other[1])
    if kind in ("add", "sub") and isinstance(args["alpha"], int | float):
        scale = float(args["alpha"] if kind == "add" else -args["alpha"])
        more = _corners(other, (scale, scale))
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
    (*IMAGES, *MOVES, *EXTREMES, "slice", "select", "index_select", "gather", "neg")
) | {"clamp", "clamp_min", "clamp_max", "maximum", "minimum", "scalar_tensor", "full"}
"""Ops whose results libraries do not round beyond the ends of these ranges."""


def _rounded(node: Node, found: Range, share: float) -> Range:
    """Return the range of what a library computes, with an error of so much for each number."""
    kind = node.op.split(".")[1]
    if kind in EXACT and kind not in ("asin", "atan", "acos"):
        return found
    sizes = [v.numel for v in node.inputs]
    off = share * (8 + max(sizes, default=1) / max(1, node.out.numel))
    low, high = found
    return low - off * abs(low), high + off * abs(high)


def ranges_of(graph: Graph, share: float = 0.0) -> Ranges:
    """Return where the values of a graph lie for every input, by the way they are made.

    With a ``share`` all that libraries compute does that are off by so much for each number that is
    added up, and values of ``graph.inexact`` are anywhere in their own ranges.
    """
    found: dict[Value, Range] = dict(graph.ranges)

    def known(arg: Any) -> Range:
        if isinstance(arg, Value):
            return found.get(arg, ANYTHING)
        number = isinstance(arg, int | float) and math.isfinite(arg)
        return (float(arg), float(arg)) if number else ANYTHING

    for node in graph.nodes:
        if share and node.out in graph.inexact:
            continue
        if node.out.dtype.is_floating_point and node.op.startswith(("aten.", "autodual.")):
            low, high = _range(node, known)
            if share:
                low, high = _rounded(node, (low, high), share)
            if low <= high and low < math.inf and high > -math.inf:
                least, most = known(node.out)
                found[node.out] = max(low, least), min(high, most)
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
