"""How far constants that a graph computes lie from what they are in real arithmetic.

Weights with norm, tied or standardised weights are computed from what the model stores, and so is
the real network's weight, without rounding. Intervals of each are carried through the ops that
compute it, rounded outward so far that they hold the real value, and that of any library, too. A
dual network has the computed weight w; that of another one, w + δw, is charged to the op's value,
|δw|·|z| + |δb|.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from autodual.bound.plan import Step
from autodual.duals import REGISTRY, Affine, Elementwise
from autodual.duals.affine import copies, no_sums, picks
from autodual.front.ir import Graph, Node, Value, evaluate
from autodual.interval import Interval
from autodual.rounding import at_least, at_most, down, gamma, least, reach, up, widened

EXACT = frozenset(
    f"aten.{op}.default"
    for op in (
        "alias",
        "arange",
        "clone",
        "detach",
        "embedding",
        "eye",
        "full",
        "ones",
        "scalar_tensor",
        "tril",
        "triu",
        "zeros",
    )
) | {"aten.where.self", "aten.masked_fill.Scalar", "autodual.far"}
"""Further ops that compute constants without rounding."""

ADDED = frozenset(f"aten.{op}.Tensor" for op in ("add", "sub", "rsub"))
"""Ops that add a constant."""

MULTIPLIED = frozenset(
    f"aten.{op}"
    for op in (
        "linear.default",
        "convolution.default",
        "mul.Tensor",
        "matmul.default",
        "mm.default",
        "bmm.default",
        "mv.default",
    )
)
"""Ops that are linear in their constants, together with z: weights, and a bias."""

Read = Callable[[Any], Interval]
"""An argument of an op → an interval of it."""


def uncertain(graph: Graph) -> frozenset[Value]:
    """Return the constants that are computed with rounding."""
    found = set[Value]()
    for node in graph.prelude:
        if node.out.dtype.is_floating_point and (
            not is_exact(node) or found.intersection(node.inputs)
        ):
            found.add(node.out)
    return frozenset(found)


def unknown_constants(graph: Graph, rounding: str) -> list[str]:
    """Return which constants of a graph nobody can bound, and why."""
    doubted, said = uncertain(graph), list[str]()
    for node in graph.prelude:
        reads = doubted.intersection(node.inputs)
        if reads and not node.out.dtype.is_floating_point:
            said.append(f"{node.where}: it decides by a constant that is computed with rounding")
        elif node.out in doubted and not (is_exact(node) or _told(node) or _rises(node)):
            said.append(
                f"{node.where}: a constant that is computed in floating point, by an op of which "
                "nobody told how it is rounded; store it in a parameter or buffer"
            )
        elif node.out in doubted and rounding == "bfloat16":
            said.append(
                f"{node.where}: a constant that is computed, in bfloat16 with few digits; store it "
                "in a parameter or buffer"
            )
        elif rounding != "outward" and node.op == "aten.var.correction":
            said.append(
                f"{node.where}: a constant that libraries compute by one formula or another, with "
                "errors of any size; store it in a parameter or buffer"
            )
    for node in graph.body:
        if doubted.intersection(node.inputs) and node.op not in ADDED | MULTIPLIED:
            said.append(
                f"{node.where}: it reads a constant that is computed with rounding, and is not "
                "linear in it; store it in a parameter or buffer"
            )
    return said


def is_exact(node: Node) -> bool:
    """Return whether a constant is computed without rounding, if what it reads is."""
    if not node.out.dtype.is_floating_point or node.op in EXACT:
        return True
    if node.op == "aten._to_copy.default" and node.inputs[0].dtype == torch.bool:
        return True
    rule = REGISTRY.get(node.op)
    moves = isinstance(rule, Affine) and rule.terms in (no_sums, copies, picks)
    return moves and all(v.dtype == node.out.dtype for v in node.inputs if _is_float(v))


def _is_float(value: Value) -> bool:
    return value.dtype.is_floating_point


def _told(node: Node) -> bool:
    """Return whether ``OPS`` tells how a node is rounded."""
    wanted = {"aten.pow.Tensor_Scalar": "exponent", "aten.linalg_vector_norm.default": "ord"}
    name = wanted.get(node.op)
    return node.op in OPS and (name is None or node.args[name] == 2)


def _rises(node: Node) -> bool:
    """Return whether an op is a function of one entry, monotone, and its errors are told."""
    rule = REGISTRY.get(node.op)
    told = isinstance(rule, Elementwise) and rule.errors is not None
    return told and node.op in MONOTONE


MONOTONE = frozenset(
    f"aten.{op}.default"
    for op in ("exp", "expm1", "log", "sqrt", "sigmoid", "tanh", "relu", "atan")
)
"""Functions whose values at the ends of an interval are those of its image."""


def doubts(graph: Graph, env: Mapping[Value, Tensor], batch: int) -> dict[Value, Tensor]:
    """Return for each constant that is computed with rounding how far it may be from any other.

    Args:
        graph: its constants pass ``unknown_constants``.
        env: all constants, as they are computed here.
        batch: the number of examples.
    """
    known = dict[Value, Interval]()
    doubted = uncertain(graph)
    for node in graph.prelude:
        if node.out in doubted:
            known[node.out] = _image(node, env, known, batch)
    return {value: reach(box, env[value]) for value, box in known.items()}


def doubt(
    step: Step,
    env: Mapping[Value, Tensor],
    known: Mapping[Value, Tensor],
    sizes: Sequence[Tensor],
    batch: int,
) -> Tensor | None:
    """Return how far an op's value may lie from that with other constants; None if it reads none.

    Args:
        step: the op.
        env: all constants.
        known: how far off these may be, see ``doubts``.
        sizes: how large its perturbed arguments are at most.
        batch: the number of examples.
    """
    rule = step.rule
    read = [v for v in step.node.inputs if v not in step.variables and _is_float(v)]
    if not any(v in known for v in read):
        return None
    assert isinstance(rule, Affine)
    assert rule.terms is not None
    off = {v: known.get(v, torch.zeros_like(env[v])) for v in read}
    call = step.call({**env, **off}, batch)
    if step.node.op in ADDED:
        sizes = [torch.zeros_like(size) for size in sizes]
    ahead, _ = rule.terms(call, min(v.numel for v in step.variables), step.out.numel)
    found = rule.extent(call, *sizes)
    return up(found * (1 + gamma(ahead, found.dtype)) + (ahead + 1) * least(found.dtype))


def _image(
    node: Node, env: Mapping[Value, Tensor], known: Mapping[Value, Interval], batch: int
) -> Interval:
    """Return an interval of a constant."""

    def read(arg: Any) -> Interval:
        if isinstance(arg, Value):
            return known.get(arg) or Interval(env[arg], env[arg])
        like = env[node.out].new_zeros(())
        return Interval(at_most(float(arg), like), at_least(float(arg), like))

    if node.op in OPS:
        return OPS[node.op](node, read)
    ends = [
        evaluate(node, {**env, **{v: getattr(box, end) for v, box in known.items()}}, batch)
        for end in ("lower", "upper")
    ]
    box = Interval(torch.minimum(*ends), torch.maximum(*ends))
    if is_exact(node):
        return box
    rule = REGISTRY[node.op]
    assert isinstance(rule, Elementwise)
    assert rule.errors is not None
    share = 2 * (rule.errors + 4) * torch.finfo(ends[0].dtype).eps

    def lost(end: Tensor) -> Tensor:
        return share * end.abs().clamp(min=rule.floor) + least(end.dtype)

    return Interval(box.lower - lost(box.lower), box.upper + lost(box.upper))


def _sum(node: Node, read: Read) -> Interval:
    a, b = read(node.args["self"]), _scaled(read(node.args["other"]), node)
    return widened(Interval(a.lower + b.lower, a.upper + b.upper))


def _difference(node: Node, read: Read) -> Interval:
    a, b = read(node.args["self"]), _scaled(read(node.args["other"]), node)
    return widened(Interval(a.lower - b.upper, a.upper - b.lower))


def _scaled(box: Interval, node: Node) -> Interval:
    """Return ``alpha`` times an interval."""
    alpha = node.args.get("alpha", 1)
    if alpha == 1:
        return box
    each = [box.lower * alpha, box.upper * alpha]
    return widened(Interval(torch.minimum(*each), torch.maximum(*each)))


def _corners(f: Callable[[Tensor, Tensor], Tensor], a: Interval, b: Interval) -> Interval:
    each = torch.stack([f(x, y) for x in (a.lower, a.upper) for y in (b.lower, b.upper)])
    unknown = each.isnan().any(0)
    low, high = each.amin(0), each.amax(0)
    return widened(
        Interval(low.masked_fill(unknown, -torch.inf), high.masked_fill(unknown, torch.inf))
    )


def _product(node: Node, read: Read) -> Interval:
    if node.args["self"] == node.args["other"]:
        return _square(read(node.args["self"]))
    return _corners(torch.mul, read(node.args["self"]), read(node.args["other"]))


def _quotient(node: Node, read: Read) -> Interval:
    return _over(read(node.args["self"]), read(node.args["other"]))


def _over(a: Interval, b: Interval) -> Interval:
    """Return a / b; nothing is known where b may be 0."""
    found, zero = _corners(torch.div, a, b), (b.lower <= 0) & (b.upper >= 0)
    return Interval(
        found.lower.masked_fill(zero, -torch.inf), found.upper.masked_fill(zero, torch.inf)
    )


def _reciprocal(node: Node, read: Read) -> Interval:
    z = read(node.args["self"])
    return _over(Interval(torch.ones_like(z.lower), torch.ones_like(z.lower)), z)


def _square(a: Interval) -> Interval:
    ends = a.lower.square(), a.upper.square()
    across = (a.lower <= 0) & (a.upper >= 0)
    low = torch.minimum(*ends).masked_fill(across, 0)
    return Interval(down(low).clamp(min=0), up(torch.maximum(*ends)))


def _power(node: Node, read: Read) -> Interval:
    return _square(read(node.args["self"]))


def _total(a: Interval, dims: Sequence[int], keepdim: bool, count: float | None = None) -> Interval:
    """Return Σ a over some dimensions, or that by ``count``."""
    dims = [*dims] or [*range(a.lower.dim())]
    numbers = 1
    for dim in dims:
        numbers *= a.lower.shape[dim]
    share = 2 * gamma(numbers + 4, a.lower.dtype)

    def ended(end: Tensor, sign: int) -> Tensor:
        total, size = end.sum(dims, keepdim), end.abs().sum(dims, keepdim)
        lost = up(share * size + (numbers + 1) * least(end.dtype))
        total = total + sign * lost
        return total if count is None else total / count

    return widened(Interval(ended(a.lower, -1), ended(a.upper, 1)))


def _dims(node: Node) -> list[int]:
    dim = node.args.get("dim")
    return [] if dim is None else [dim] if isinstance(dim, int) else [*dim]


def _summed(node: Node, read: Read) -> Interval:
    return _total(read(node.args["self"]), _dims(node), bool(node.args.get("keepdim")))


def _count(a: Interval, dims: Sequence[int]) -> int:
    sizes = [a.lower.shape[d] for d in dims] or [*a.lower.shape]
    return int(torch.Size(sizes).numel())


def _mean(node: Node, read: Read) -> Interval:
    a, dims = read(node.args["self"]), _dims(node)
    return _total(a, dims, bool(node.args.get("keepdim")), _count(a, dims))


def _variance(node: Node, read: Read) -> Interval:
    """Return Σ (a − mean)²/(n − correction)."""
    a, dims, keep = read(node.args["self"]), _dims(node), bool(node.args.get("keepdim"))
    count, correction = _count(a, dims), node.args.get("correction")
    mean = _total(a, dims, True, count)
    apart = _square(widened(Interval(a.lower - mean.upper, a.upper - mean.lower)))
    divisor = count - (1 if correction is None else float(correction))
    found = _total(apart, dims, keep, divisor)
    return Interval(found.lower.clamp(min=0), found.upper)


def _norm(node: Node, read: Read) -> Interval:
    """Return √Σ a²."""
    squares = _total(_square(read(node.args["self"])), _dims(node), bool(node.args.get("keepdim")))
    return widened(Interval(squares.lower.clamp(min=0).sqrt(), squares.upper.sqrt()))


def _matrices(node: Node, read: Read) -> Interval:
    """Return a b by centers and radii."""
    a, b = read(node.args["self"]), read(node.args.get("other", node.args.get("mat2")))
    x, y = a.center, b.center
    r, s = reach(a, x), reach(b, y)
    share = gamma(x.shape[-1] + 4, x.dtype)
    spread = x.abs() @ s + r @ (y.abs() + s)
    size = (x.abs() + r) @ (y.abs() + s)
    lost = up((1 + share) * spread + 3 * share * size + (x.shape[-1] + 1) * least(x.dtype))
    middle = x @ y
    return widened(Interval(middle - lost, middle + lost))


OPS: Mapping[str, Callable[[Node, Read], Interval]] = {
    "aten.add.Tensor": _sum,
    "aten.sub.Tensor": _difference,
    "aten.mul.Tensor": _product,
    "aten.div.Tensor": _quotient,
    "aten.reciprocal.default": _reciprocal,
    "aten.sum.dim_IntList": _summed,
    "aten.mean.dim": _mean,
    "aten.pow.Tensor_Scalar": _power,
    "aten.var.correction": _variance,
    "aten.linalg_vector_norm.default": _norm,
    "aten.matmul.default": _matrices,
    "aten.mm.default": _matrices,
    "aten.bmm.default": _matrices,
}
"""Ops that may compute constants: (the node, what reads its arguments) → an interval of its value,
wide enough for that of any library."""
