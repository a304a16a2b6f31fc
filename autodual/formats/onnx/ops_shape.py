"""The same entries in another order or shape, and copies of them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from autodual.formats.onnx.value import Node, Op, Value, along, reshaped, room


def reshape(node: Node, z: Value, *given: Value) -> Value:
    """Reshape: 0 keeps a size, −1 is what is left."""
    shape = node.ints("shape", 1)
    if shape is None:
        raise node.refuse("its shape must be a constant")
    if not node.flag("allowzero", False):
        if any(size == 0 and i >= z.rank for i, size in enumerate(shape)):
            raise node.refuse(f"shape {shape} keeps a size that {list(z.shape)} has not")
        shape = [z.shape[i] if size == 0 else size for i, size in enumerate(shape)]
    total, known = math.prod(z.shape), math.prod(size for size in shape if size != -1)
    if shape.count(-1) == 1 and known > 0:
        shape = [total // known if size == -1 else size for size in shape]
    if any(size < 0 for size in shape) or math.prod(shape) != total:
        raise node.refuse(f"makes {shape} of {list(z.shape)}")
    return reshaped(z, shape)


def flatten(node: Node, z: Value) -> Value:
    """Make a matrix: what is before an axis, and the rest."""
    axis = node.whole("axis", 1)
    if not -z.rank <= axis <= z.rank:
        raise node.refuse(f"axis {axis} is none of {z.rank} dimensions")
    axis = axis + z.rank if axis < 0 else axis
    return reshaped(z, [math.prod(z.shape[:axis]), math.prod(z.shape[axis:])])


def squeeze(node: Node, z: Value, given: Value | None = None) -> Value:
    """Drop dimensions of size 1, all of them where none are given."""
    axes = node.axes(z, position=1)
    if given is not None:
        node.constant(1, "axes")
    axes = [i for i, size in enumerate(z.shape) if size == 1] if axes is None else axes
    if any(z.shape[axis] != 1 for axis in axes):
        raise node.refuse(f"squeezes dimensions {axes} of {list(z.shape)}")
    return reshaped(z, [size for i, size in enumerate(z.shape) if i not in axes])


def unsqueeze(node: Node, z: Value, *given: Value) -> Value:
    """Insert dimensions of size 1."""
    axes = node.ints("axes", 1)
    if axes is None:
        raise node.refuse("its axes must be a constant")
    rank = z.rank + len(axes)
    places = {node.axis(axis, rank) for axis in axes}
    if len(places) != len(axes):
        raise node.refuse(f"axes {axes} are not distinct")
    rest = iter(z.shape)
    return reshaped(z, [1 if i in places else next(rest) for i in range(rank)])


def transpose(node: Node, z: Value) -> Value:
    """Permute dimensions; reverse them where no order is given."""
    order = node.ints("perm") or list(range(z.rank))[::-1]
    if sorted(order) != list(range(z.rank)):
        raise node.refuse(f"perm {order} is no order of {z.rank} dimensions")
    if z.lead == 0 and order[0] == 0:
        return Value(z.tensor.permute(order), 0)
    return Value(z.stacked.permute(0, *(axis + 1 for axis in order)), 1)


def expand(node: Node, z: Value, *given: Value) -> Value:
    """Repeat along dimensions of size 1, and along new ones in front."""
    target = node.ints("shape", 1)
    if target is None:
        raise node.refuse("its shape must be a constant")
    shape = list(np.broadcast_shapes(z.shape, target))
    room(shape)
    count = z.tensor.shape[0]
    if z.lead == 0 and len(shape) == z.rank and shape[0] == 1:
        return Value(z.tensor.expand(count, *shape[1:]), 0)
    padded = z.stacked.reshape(count, *[1] * (len(shape) - z.rank), *z.shape)
    return Value(padded.expand(count, *shape), 1)


def tile(node: Node, z: Value, *given: Value) -> Value:
    """Repeat all of it along each dimension."""
    times = node.ints("repeats", 1)
    if times is None or len(times) != z.rank:
        raise node.refuse(f"its repeats must be {z.rank} constants")
    room([size * n for size, n in zip(z.shape, times, strict=True)])
    moved = [axis for axis, n in enumerate(times) if n != 1]
    tensor, _, lead = along(z, moved)
    return Value(tensor.repeat(1, *(times if lead else times[1:])), lead)


TABLE: Mapping[str, Op] = {
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": transpose,
    "Expand": expand,
    "Tile": tile,
}
