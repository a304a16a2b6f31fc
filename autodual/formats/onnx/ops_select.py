"""Parts of a tensor, several joined, and borders around them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from autodual.formats.onnx.value import MANY, Node, Op, Value, along, room
from autodual.formats.onnx.windows import on_images


def concat(node: Node, *values: Value) -> Value:
    """Join values along a dimension; constants are the same for each example."""
    axis = node.axis(node.whole("axis", -1 if node.opset < 4 else 0), values[0].rank)
    count = next(len(v.tensor) for v in values if v.varies)
    shapes = [v.shape for v in values]
    room((*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :]))
    inside = axis > 0 and all(v.lead == 0 if v.varies else v.shape[:1] == (1,) for v in values)

    def part(value: Value) -> Tensor:
        tensor = value.tensor if inside else value.stacked
        return tensor if value.varies else tensor.expand(count, *tensor.shape[1:])

    return Value(torch.cat([part(v) for v in values], axis + (not inside)), 0 if inside else 1)


def split(node: Node, z: Value, given: Value | None = None) -> tuple[Value, ...]:
    """Cut a dimension into parts."""
    axis = node.axis(node.whole("axis", 0), z.rank)
    if given is not None:
        node.constant(1, "sizes")
    parts = node.ints("split", 1)
    size, count = z.shape[axis], node.whole("num_outputs", node.outputs)
    if parts is None:
        if count > MANY:
            raise node.refuse(f"cuts {size} into {count} parts")
        each = -(-size // max(count, 1))
        parts = [min(each, size - each * i) for i in range(count)]
    if sum(parts) != size or min(parts, default=-1) < 0 or len(parts) < node.outputs:
        raise node.refuse(f"cuts {size} into {parts}")
    tensor, (dim,), lead = along(z, [axis])
    return tuple(Value(part, lead) for part in torch.split(tensor, parts, dim))


def slice_(node: Node, z: Value, *given: Value | None) -> Value:
    """Take a range of some dimensions; what lies outside is left out, as in numpy."""
    for position, value in enumerate(given, 1):
        if value is not None:
            node.constant(position, "ranges")
    starts, ends = node.ints("starts", 1), node.ints("ends", 2)
    if starts is None or ends is None:
        raise node.refuse("its starts and ends must be constants")
    axes = node.axes(z, position=3)
    axes = list(range(len(starts))) if axes is None else axes
    steps = node.ints("steps", 4) or [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise node.refuse("starts, ends, axes and steps do not fit each other")
    for axis, *part in zip(axes, starts, ends, steps, strict=True):
        size = z.shape[node.axis(axis, z.rank)]
        z = _ranged(z, axis, range(*slice(*part).indices(size)))
    return z


def _ranged(z: Value, axis: int, kept: range) -> Value:
    """Keep some entries of a dimension."""
    size = z.shape[axis]
    if kept == range(size):
        return z
    tensor, (dim,), lead = along(z, [axis])
    if kept.step > 0:
        stop = min(kept.stop, size)
        part = torch.ops.aten.slice.Tensor(
            tensor, dim, kept.start, max(stop, kept.start), kept.step
        )
    else:
        part = tensor.index_select(dim, torch.tensor(list(kept), device=tensor.device))
    return Value(part, lead)


def gather(node: Node, z: Value, indices: Value) -> Value:
    """Take entries of a dimension by constant indices."""
    axis = node.axis(node.whole("axis", 0), z.rank)
    wanted = node.constant(1, "indices")
    size = z.shape[axis]
    if wanted.size and not (-size <= wanted.min() and wanted.max() < size):
        raise node.refuse(f"takes entries that a dimension of size {size} has not")
    wanted = np.where(wanted < 0, wanted + size, wanted).astype(np.int64)
    tensor, (dim,), lead = along(z, [axis])
    if wanted.ndim == 0:
        return Value(tensor.select(dim, wanted.item()), lead)
    room([*z.shape[:axis], wanted.size, *z.shape[axis + 1 :]])
    picked = tensor.index_select(dim, torch.tensor(wanted.ravel().tolist(), device=tensor.device))
    if wanted.ndim == 1:
        return Value(picked, lead)
    return Value(
        picked.reshape([*picked.shape[:dim], *wanted.shape, *picked.shape[dim + 1 :]]), lead
    )


MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}


def pad(node: Node, z: Value, *given: Value | None) -> Value:
    """Put a border around some dimensions."""
    pads = node.ints("pads", 1)
    if pads is None:
        raise node.refuse("its pads must be constants")
    axes = node.axes(z, position=3)
    axes = list(range(z.rank)) if axes is None else axes
    mode = MODES.get(node.text("mode", "constant"))
    if mode is None or len(pads) != 2 * len(axes) or len({*axes}) != len(axes):
        raise node.refuse(f"its mode or its pads {pads} are not read")
    if len(given) > 1 and given[1] is not None:
        node.constant(2, "value")
    value = node.number("value", 2) or 0.0
    by = {axis: pads[i :: len(axes)] for i, axis in enumerate(axes) if any(pads[i :: len(axes)])}
    if not by:
        return z
    room([size + sum(by.get(axis, [])) for axis, size in enumerate(z.shape)])
    tensor, _, lead = along(z, list(by))
    sides = [n for axis in range(z.rank - 1, min(by) - 1, -1) for n in by.get(axis, [0, 0])]
    if mode == "constant":
        return Value(F.pad(tensor, sides, value=value), lead)
    return Value(F.pad(tensor, sides, mode=mode), lead)


def resize(node: Node, z: Value, *given: Value | None) -> Value:
    """Repeat each pixel a whole number of times."""
    scales = _scales(node, z)
    if node.text("mode", "nearest") != "nearest" or z.rank < 3 or scales[:2] != [1, 1]:
        raise node.refuse("only images are resized, and only by copies of their pixels")
    policy = node.text("keep_aspect_ratio_policy", "stretch")
    if (
        policy != "stretch"
        or not _copies(node, scales)
        or any(s < 1 or int(s) != s for s in scales)
    ):
        raise node.refuse(f"scales by {scales}, and only whole numbers of copies are read")
    times = [int(s) for s in scales[2:]]
    room([size * n for size, n in zip(z.shape, [1, 1, *times], strict=True)])
    sizes = [size * n for size, n in zip(z.shape[2:], times, strict=True)]
    return on_images(node, z, lambda images: F.interpolate(images, sizes, mode="nearest"))


def _scales(node: Node, z: Value) -> list[float]:
    """Return by how much each dimension grows."""
    first = 1 if node.op == "Upsample" or node.opset < 11 else 2
    found = node.attributes.get("scales")
    if found is None and node.given(first):
        found = node.constant(first, "scales").flatten().tolist()
    if not found:
        sizes = node.constant(3, "sizes").flatten().tolist()
        axes = node.axes(z) or list(range(z.rank))
        if len(sizes) != len(axes) or 0 in z.shape:
            raise node.refuse(f"sizes {sizes} do not fit {list(z.shape)}")
        found = [size / z.shape[axis] for size, axis in zip(sizes, axes, strict=True)]
    axes = node.axes(z) or list(range(z.rank))
    if len(found) != len(axes):
        raise node.refuse(f"scales {found} do not fit {list(z.shape)}")
    by = dict(zip(axes, found, strict=True))
    return [by.get(axis, 1.0) for axis in range(z.rank)]


def _copies(node: Node, scales: list[float]) -> bool:
    """Return whether the rule for nearest pixels repeats each pixel ``scale`` times."""
    if node.op == "Upsample" or node.opset < 11:
        return True
    place = node.text("coordinate_transformation_mode", "half_pixel")
    nearest = node.text("nearest_mode", "round_prefer_floor")
    if place == "asymmetric":
        return nearest == "floor" or (nearest == "round_prefer_floor" and max(scales) <= 2)
    centred = place in ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel")
    return centred and nearest in ("round_prefer_floor", "round_prefer_ceil")


TABLE: Mapping[str, Op] = {
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Gather": gather,
    "Pad": pad,
    "Resize": resize,
    "Upsample": resize,
}
