"""Arithmetic, comparisons and functions of each entry, with the broadcasting of the format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from autodual.formats.onnx.reading import DTYPES, FLOATS
from autodual.formats.onnx.value import Node, Op, Value, together


def each(function: Callable[[Tensor], Tensor]) -> Op:
    """Return the op of a function of one entry."""
    return lambda node, z: z.like(function(z.tensor))


def pair(function: Callable[[Tensor, Tensor], Tensor]) -> Op:
    """Return the op of a function of two entries."""

    def op(node: Node, a: Value, b: Value) -> Value:
        (left, right), lead = together((a, b))
        return Value(function(left, right), lead)

    return op


def several(function: Callable[[Tensor, Tensor], Tensor]) -> Op:
    """Return the op that joins one value or more, from the first to the last."""

    def op(node: Node, *values: Value) -> Value:
        tensors, lead = together(values)
        return Value(reduce(function, tensors), lead)

    return op


def divided(a: Tensor, b: Tensor) -> Tensor:
    """a / b; of whole numbers, what C makes of it."""
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def power(node: Node, z: Value, exponent: Value) -> Value:
    """z^p, of a number p where it is one."""
    if node.given(1) and exponent.tensor.numel() == 1 and exponent.rank <= z.rank:
        number = node.constant(1, "exponent").item()
        return z.like(torch.pow(z.tensor, int(number) if float(number).is_integer() else number))
    (base, p), lead = together((z, exponent))
    return Value(torch.pow(base, p), lead)


def clip(node: Node, z: Value, low: Value | None = None, high: Value | None = None) -> Value:
    """Clip to bounds that are attributes, or since opset 11 inputs."""
    for position, bound in ((1, low), (2, high)):
        if bound is not None:
            node.constant(position, "bound")
    lower, upper = node.number("min", 1), node.number("max", 2)
    if lower is None and upper is None:
        return z
    return z.like(torch.clamp(z.tensor, lower, upper))


def where(node: Node, condition: Value, a: Value, b: Value) -> Value:
    """A where the condition holds, b elsewhere."""
    (choose, left, right), lead = together((condition, a, b))
    return Value(torch.where(choose, left, right), lead)


def cast(node: Node, z: Value) -> Value:
    """Another type; all floats are of one, where the model is converted."""
    to = DTYPES.get(node.whole("to", 0))
    if to is None:
        raise node.refuse(f"casts to numbers of type {node.whole('to', 0)}, which are not read")
    if node.dtype is not None and to in FLOATS:
        to = node.dtype
    return z if z.tensor.dtype == to else z.like(z.tensor.to(to))


def identity(node: Node, z: Value, *given: Value | None) -> Value:
    """Z itself."""
    return z


def dropout(node: Node, z: Value, *given: Value | None) -> Value:
    """Z itself: a network at work drops nothing."""
    training = node.given(2) and bool(node.constant(2, "training_mode").any())
    if training or (len(given) > 1 and given[1] is not None and not node.given(2)):
        raise node.refuse("it drops entries at random, in training mode")
    return z


def prelu(node: Node, z: Value, slope: Value) -> Value:
    """Max(z, 0) − slope · max(−z, 0)."""
    if node.given(1) and slope.tensor.numel() == 1 and slope.rank <= z.rank:
        return z.like(F.leaky_relu(z.tensor, float(node.constant(1, "slope").item())))
    (at, by), lead = together((z, slope))
    return Value(torch.relu(at) - by * torch.relu(-at), lead)


def hard_sigmoid(node: Node, z: Value) -> Value:
    """αz + β between 0 and 1."""
    alpha, beta = node.real("alpha", 0.2), node.real("beta", 0.5)
    return z.like(torch.clamp(z.tensor * alpha + beta, 0.0, 1.0))


def gelu(node: Node, z: Value) -> Value:
    """Z Φ(z), or its approximation by tanh."""
    return z.like(F.gelu(z.tensor, approximate=node.text("approximate", "none")))


def selu(node: Node, z: Value) -> Value:
    """γ · elu(z; α)."""
    alpha = node.real("alpha", 1.67326319217681884765625)
    return z.like(F.elu(z.tensor, alpha) * node.real("gamma", 1.05070102214813232421875))


TABLE: Mapping[str, Op] = {
    "Add": pair(torch.add),
    "Sub": pair(torch.sub),
    "Mul": pair(torch.mul),
    "Div": pair(divided),
    "Pow": power,
    "Sum": several(torch.add),
    "Min": several(torch.minimum),
    "Max": several(torch.maximum),
    "Neg": each(torch.neg),
    "Abs": each(torch.abs),
    "Sign": each(torch.sign),
    "Floor": each(torch.floor),
    "Ceil": each(torch.ceil),
    "Reciprocal": each(torch.reciprocal),
    "Exp": each(torch.exp),
    "Log": each(torch.log),
    "Sqrt": each(torch.sqrt),
    "Sin": each(torch.sin),
    "Cos": each(torch.cos),
    "Erf": each(torch.erf),
    "Relu": each(torch.relu),
    "Sigmoid": each(torch.sigmoid),
    "Tanh": each(torch.tanh),
    "Softplus": each(F.softplus),
    "Softsign": each(F.softsign),
    "HardSwish": each(F.hardswish),
    "Mish": each(F.mish),
    "LeakyRelu": lambda node, z: z.like(F.leaky_relu(z.tensor, node.real("alpha", 0.01))),
    "Elu": lambda node, z: z.like(F.elu(z.tensor, node.real("alpha", 1.0))),
    "Celu": lambda node, z: z.like(F.celu(z.tensor, node.real("alpha", 1.0))),
    "Selu": selu,
    "Gelu": gelu,
    "HardSigmoid": hard_sigmoid,
    "PRelu": prelu,
    "Clip": clip,
    "Greater": pair(torch.gt),
    "GreaterOrEqual": pair(torch.ge),
    "Less": pair(torch.lt),
    "LessOrEqual": pair(torch.le),
    "Equal": pair(torch.eq),
    "And": pair(torch.logical_and),
    "Or": pair(torch.logical_or),
    "Not": each(torch.logical_not),
    "Where": where,
    "Cast": cast,
    "Identity": identity,
    "Dropout": dropout,
}
