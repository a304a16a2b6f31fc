"""What is known without the input: constants, and the shapes of values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from autodual.formats.onnx.reading import converted
from autodual.formats.onnx.value import Node, Value, room

Source = Callable[[Node, Sequence[Value]], Tensor]
"""Computes a constant: ``source(node, values)``, of which only the shapes count if they vary."""


def constant(node: Node, values: Sequence[Value]) -> Tensor:
    """Return a tensor that is written in the graph."""
    kinds = {"value", "value_float", "value_floats", "value_int", "value_ints"}
    name, *more = [*node.attributes, ""]
    if name not in kinds or more != [""]:
        raise node.refuse("it has no value that is read")
    value = node.attributes[name]
    if isinstance(value, Tensor):
        return value
    dtype = torch.int64 if "int" in name else torch.float32
    return converted(torch.tensor(value, dtype=dtype), node.dtype)


def constant_of_shape(node: Node, values: Sequence[Value]) -> Tensor:
    """Return a tensor of one number."""
    shape = node.constant(0, "shape").flatten().tolist()
    room(shape)
    value = node.attributes.get("value")
    if value is None:
        return converted(torch.zeros(shape), node.dtype)
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise node.refuse("its value is no single number")
    return value.reshape(()).expand(shape).clone()


def range_(node: Node, values: Sequence[Value]) -> Tensor:
    """Return numbers of equal distance."""
    inputs = [node.constant(i, "limits") for i in range(3)]
    if any(t.size != 1 for t in inputs):
        raise node.refuse("its limits are no single numbers")
    start, limit, delta = (t.item() for t in inputs)
    if delta == 0 or not all(map(math.isfinite, (start, limit, delta))):
        raise node.refuse(f"counts from {start} to {limit} by {delta}")
    count = max(math.ceil((limit - start) / delta), 0)
    room([count])
    dtype = torch.from_numpy(inputs[0]).dtype
    return start + delta * torch.arange(count, dtype=dtype)


def shape(node: Node, values: Sequence[Value]) -> Tensor:
    """Return the shape of a value, of a batch of one."""
    sizes = values[0].shape
    end = node.whole("end", len(sizes))
    return torch.tensor(sizes[node.whole("start", 0) : end], dtype=torch.int64)


def size(node: Node, values: Sequence[Value]) -> Tensor:
    """Return how many entries a value has, of a batch of one."""
    return torch.tensor(math.prod(values[0].shape))


TABLE: Mapping[str, Source] = {
    "Constant": constant,
    "ConstantOfShape": constant_of_shape,
    "Range": range_,
    "Shape": shape,
    "Size": size,
}
