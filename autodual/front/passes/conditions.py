"""Choices by a comparison of what the perturbation reaches: where, masks, products with a bool.

A comparison of z with a constant is a step 1[z > c], which jumps at c. A choice between two affine
functions of z by it is one function made of linear pieces, exact; any other is

    where(c, p, q) = q + 1[c]·(p − q).

The constant stands in the op, compared as the model compares it. With a perturbed y in its place
z − y is compared with 0, which has the same sign in floating point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autodual.front.ir import Graph, Literal, Node, Value
from autodual.front.passes.rewrite import Decomposition, Emit, rewrite

aten = torch.ops.aten

Constant = float | Value
Number = float | Tensor


def step(input: Tensor, edge: Number, relation: str) -> Tensor:
    """Return 1 where z > e, z ≥ e or z = e, else 0."""
    return _holds(input, edge, relation).to(input.dtype)


def lean(input: Tensor, edge: Number, relation: str) -> Tensor:
    """Return a step with the gradient of a slope around it, by which points find their way."""
    away = input - edge
    slope = (away / (away.detach().abs().mean() + 1e-30)).tanh() * 0.5
    return step(input, edge, relation) + (slope - slope.detach())


def split(
    input: Tensor,
    edge: Number,
    relation: str,
    slope: Number,
    shift: Number,
    other_slope: Number,
    other_shift: Number,
) -> Tensor:
    """Return one affine function of z where z > e, z ≥ e or z = e, and another elsewhere."""
    one, other = slope * input + shift, other_slope * input + other_shift
    return torch.where(_holds(input, edge, relation), one, other)


def _holds(z: Tensor, edge: Number, relation: str) -> Tensor:
    if relation == "eq":
        return z == edge
    return z > edge if relation == "gt" else z >= edge


OPPOSITE = {"lt": "ge", "le": "gt", "ne": "eq"}
MIRRORED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "eq": "eq", "ne": "ne"}


@dataclass(frozen=True)
class Comparison:
    """z > e, z ≥ e or z = e, or the opposite of one."""

    z: Value
    edge: Constant
    relation: str
    opposite: bool


def _comparison(emit: Emit, condition: Value) -> Comparison | None:
    """Read a condition as the comparison of one perturbed value."""
    made, opposite = emit.producer(condition), False
    while made is not None and made.op in NOT:
        made, opposite = emit.producer(made.args["self"]), not opposite
    relation = made.op.split(".")[1] if made is not None else ""
    if made is None or made.op.split(".")[0] != "aten" or relation not in MIRRORED:
        return None
    a, b = made.args["self"], made.args["other"]
    if not emit.moves(a):
        a, b, relation = b, a, MIRRORED[relation]
    b = _in_dtype(emit, b)
    if b is None or a.dtype != emit.graph.perturbed.dtype:
        return None
    if emit.moves(b):
        a, b = emit(aten.sub.Tensor, a, b), 0.0
    if relation in OPPOSITE:
        relation, opposite = OPPOSITE[relation], not opposite
    if a.shape != condition.shape:
        a = emit(aten.expand.default, a, list(condition.shape))
    return Comparison(a, b, relation, opposite)


def _in_dtype(emit: Emit, c: Constant) -> Constant | None:
    """Write what z is compared with in the dtype of x, if the model compares in that, too."""
    dtype = emit.graph.perturbed.dtype
    if not isinstance(c, Value) or c.dtype == dtype:
        return c
    number = c.shape == () and not c.dtype.is_complex
    if emit.moves(c) or not (number or torch.promote_types(c.dtype, dtype) == dtype):
        return None
    return emit(aten._to_copy.default, c, dtype)


NOT = frozenset({"aten.logical_not.default", "aten.bitwise_not.default"})
AND = frozenset({"aten.logical_and.default", "aten.bitwise_and.Tensor"})
OR = frozenset({"aten.logical_or.default", "aten.bitwise_or.Tensor"})


def _indicator(emit: Emit, condition: Value) -> Value | None:
    """Write 1[c] in the dtype of x: a step, products of them for "and" and "or"."""
    dtype = emit.graph.perturbed.dtype
    if not emit.moves(condition):
        return emit(aten._to_copy.default, condition, dtype)
    found = _comparison(emit, condition)
    if found is not None:
        args = {"input": found.z, "edge": found.edge, "relation": found.relation}
        one = emit.own("autodual.step", step, args)
        return _complement(emit, one) if found.opposite else one
    made = emit.producer(condition)
    if made is None or made.op not in NOT | AND | OR:
        return None
    names = ("self",) if made.op in NOT else ("self", "other")
    parts = [_indicator(emit, made.args[name]) for name in names]
    if any(part is None for part in parts):
        return None
    if made.op in AND:
        return emit(aten.mul.Tensor, *parts)
    opposites = [_complement(emit, part) for part in parts if part is not None]
    if made.op in NOT:
        return opposites[0]
    return _complement(emit, emit(aten.mul.Tensor, *opposites))


def _complement(emit: Emit, one: Value) -> Value:
    return emit(aten.rsub.Scalar, one, 1.0)


def _affine(emit: Emit, value: Value, z: Value) -> tuple[Constant, Constant] | None:
    """Return a and b if a value is written as a·z + b, entry by entry."""
    if value == z:
        return 1.0, 0.0
    if not emit.moves(value):
        return (0.0, value) if value.dtype == z.dtype else None
    made = emit.producer(value)
    if made is None or made.op not in LINEAR:
        return None
    parts: list[Any] = [made.args.get(name) for name in ("self", "other")]
    forms = [_affine(emit, p, z) if isinstance(p, Value) else (0.0, p) for p in parts]
    one, other = forms[0], forms[1]
    kind = made.op.split(".")[1]
    if one is None or other is None or made.args.get("alpha", 1) != 1:
        return None
    if kind == "neg":
        return tuple(_times(emit, c, -1.0) for c in one)  # type: ignore[return-value]
    if kind == "mul":
        level = [form[0] == 0.0 for form in (one, other)]
        if not any(level):
            return None  # a product of two that both move is a square
        factor, rest = (one[1], other) if level[0] else (other[1], one)
        return _times(emit, rest[0], factor), _times(emit, rest[1], factor)
    if kind in ("sub", "rsub"):
        plus, minus = (one, other) if kind == "sub" else (other, one)
        other = _times(emit, minus[0], -1.0), _times(emit, minus[1], -1.0)
        one = plus
    return _plus(emit, one[0], other[0]), _plus(emit, one[1], other[1])


LINEAR = frozenset(
    f"aten.{kind}.{form}"
    for kind in ("add", "sub", "rsub", "mul", "neg")
    for form in ("Tensor", "Scalar", "default")
)
"""Of these a product is affine in z where one factor is constant."""


def _times(emit: Emit, a: Constant, b: Constant) -> Constant:
    if not isinstance(a, Value) and not isinstance(b, Value):
        return a * b
    a, b = (a, b) if isinstance(a, Value) else (b, a)
    assert isinstance(a, Value)
    if not isinstance(b, Value) and b in (0.0, 1.0, -1.0):  # exact, and no constant to compute
        return emit(aten.neg.default, a) if b < 0 else a if b else 0.0
    return emit(aten.mul.Tensor if isinstance(b, Value) else aten.mul.Scalar, a, b)


def _plus(emit: Emit, a: Constant, b: Constant) -> Constant:
    if not isinstance(a, Value) and not isinstance(b, Value):
        return a + b
    a, b = (a, b) if isinstance(a, Value) else (b, a)
    assert isinstance(a, Value)
    if not isinstance(b, Value) and b == 0.0:
        return a
    return emit(aten.add.Tensor if isinstance(b, Value) else aten.add.Scalar, a, b)


def choose(emit: Emit, condition: Value, p: Value, q: Value, like: Value) -> Value | None:
    """Write where(c, p, q) for a condition that the perturbation reaches."""
    if like.dtype != emit.graph.perturbed.dtype:
        return None
    found = _comparison(emit, condition)
    if found is not None and found.z.shape == like.shape:
        forms = _affine(emit, p, found.z), _affine(emit, q, found.z)
        one, other = forms[::-1] if found.opposite else forms
        if one is not None and other is not None:
            if all(_at_once(emit, value, found.z) for value in (p, q)):
                emit.exactly()
            names = ("slope", "shift", "other_slope", "other_shift")
            args = {"input": found.z, "edge": found.edge, "relation": found.relation}
            args |= dict(zip(names, (*one, *other), strict=True))
            return emit.own("autodual.split", split, args)
    indicator = None if _infinite(emit, p) or _infinite(emit, q) else _indicator(emit, condition)
    if indicator is None:
        return None
    if emit.moves(q) and not emit.moves(p):
        p, q, indicator = q, p, _complement(emit, indicator)
    emit.exactly()
    chosen = emit(aten.mul.Tensor, indicator, emit(aten.sub.Tensor, p, q))
    return emit(aten.add.Tensor, chosen, q)


def _at_once(emit: Emit, value: Value, z: Value) -> bool:
    """Return whether a value is z, a constant, or one op of both: it is rounded as the form is."""
    made = emit.producer(value)
    if value == z or not emit.moves(value) or made is None:
        return True
    return all(v == z or not emit.moves(v) for v in made.inputs)


def _infinite(emit: Emit, value: Any) -> bool:
    """Return whether ±∞ was put into a value: 1[c]·(p − q) is no number where one of them is ∞."""
    if not isinstance(value, Value):
        return isinstance(value, float) and math.isinf(value)
    held, made = emit.graph.constants.get(value), emit.producer(value)
    if isinstance(held, Literal):
        return bool(held.tensor.isinf().any())
    if made is None or made.op not in PUT:
        return False
    return any(_infinite(emit, made.args.get(name)) for name in PUT[made.op])


PUT: dict[str, tuple[str, ...]] = {
    "aten.scalar_tensor.default": ("s",),
    "aten.full.default": ("fill_value",),
    "aten.where.self": ("self", "other"),
    "aten.masked_fill.Scalar": ("self", "value"),
    "aten.masked_fill.Tensor": ("self", "value"),
    **dict.fromkeys(
        (f"aten.{op}.default" for op in ("expand", "reshape", "clone", "_to_copy")), ("self",)
    ),
}
"""Ops that take over what is in these arguments."""


def _never_nan(emit: Emit, condition: Value, q: Value) -> bool:
    """Return whether where(c, p, q) is q because c asks whether something that q reads is NaN.

    Where that is not defined neither is q, and nothing is known of the example. If q did not read
    it, nothing would show that.
    """
    made = emit.producer(condition)
    if made is None or made.op != "aten.isnan.default":
        return False
    z, seen, open_values = made.args["self"], set[Value](), [q]
    while open_values:
        value = open_values.pop()
        node = emit.producer(value)
        if value == z:
            return True
        if value not in seen and node is not None:
            seen.add(value)
            open_values += node.inputs
    return False


def _where(emit: Emit, node: Node) -> Value | None:
    condition, p, q = (node.args[name] for name in ("condition", "self", "other"))
    if q.shape == node.out.shape and _never_nan(emit, condition, q):
        emit.exactly()
        return q
    return choose(emit, condition, p, q, node.out) if emit.moves(condition) else None


def _product(emit: Emit, node: Node) -> Value | None:
    """c·p is p where c holds, else 0."""
    a, b = node.args["self"], node.args["other"]
    if not (isinstance(a, Value) and isinstance(b, Value)):
        return None
    mask, p = (_mask(emit, a), b) if _mask(emit, a) is not None else (_mask(emit, b), a)
    if mask is None or p.dtype != node.out.dtype:
        return None
    zero = emit.literal(torch.zeros((), dtype=node.out.dtype))
    return choose(emit, mask, p, zero, node.out)


def _mask(emit: Emit, value: Value) -> Value | None:
    """Return the condition that a factor stands for, itself or as a number."""
    made = emit.producer(value)
    if made is not None and made.op == "aten._to_copy.default":
        value = made.args["self"]
    return value if value.dtype == torch.bool and emit.moves(value) else None


def _number(emit: Emit, node: Node) -> Value | None:
    """A condition as a number."""
    mask = node.args["self"]
    if mask.dtype != torch.bool or node.out.dtype != emit.graph.perturbed.dtype:
        return None
    emit.exactly()
    return _indicator(emit, mask)


def _fill(emit: Emit, node: Node) -> Value | None:
    """Put a number where a mask holds."""
    z, mask, number = (node.args[name] for name in ("self", "mask", "value"))
    if z.shape == node.out.shape and _never_nan(emit, mask, z):
        emit.exactly()
        return z
    if not emit.moves(mask):
        return None
    if not isinstance(number, Value):
        number = emit.literal(torch.tensor(number, dtype=node.out.dtype))
    return choose(emit, mask, number, z, node.out)


def _put(emit: Emit, node: Node) -> Value | None:
    """Write one number where a mask of z's shape holds."""
    z, indices, values = (node.args[name] for name in ("self", "indices", "values"))
    mask = indices[0] if len(indices) == 1 else None
    if not isinstance(mask, Value) or mask.dtype != torch.bool or mask.shape != z.shape:
        return None
    if not emit.moves(mask) or values.shape != () or node.args["accumulate"]:
        return None
    return choose(emit, mask, values, z, node.out)


def _sign(emit: Emit, node: Node) -> Value | None:
    """sign z = 1[z > 0] + 1[z ≥ 0] − 1."""
    z = node.args["self"]
    if z.dtype != emit.graph.perturbed.dtype:
        return None
    emit.exactly()
    above, least = (
        emit.own("autodual.step", step, {"input": z, "edge": 0.0, "relation": relation})
        for relation in ("gt", "ge")
    )
    return emit(aten.sub.Scalar, emit(aten.add.Tensor, above, least), 1.0)


TABLE: dict[str, Decomposition] = {
    "aten.where.self": _where,
    "aten.sign.default": _sign,
    "aten.mul.Tensor": _product,
    "aten._to_copy.default": _number,
    "aten.masked_fill.Scalar": _fill,
    "aten.masked_fill.Tensor": _fill,
    "aten.index_put.default": _put,
}


def decide(graph: Graph) -> Graph:
    """Rewrite choices by conditions that the perturbation reaches."""
    return rewrite(graph, TABLE)
