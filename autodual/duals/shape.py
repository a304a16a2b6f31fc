"""Ops that move, copy, drop or pad entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from autodual.duals.affine import (
    Affine,
    Transpose,
    Window,
    behind,
    copies,
    no_sums,
    pair,
    picks,
    summed,
    sums,
    transpose_by_vjp,
)
from autodual.duals.base import Call, Hole


def transpose_reshape(call: Call, nu: Tensor, shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
    """ν_in has the input's shape and ν_out's entries, in the same order."""
    return (nu.reshape(nu.shape[0], *shapes[0]),)


def transpose_permute(call: Call, nu: Tensor, shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
    """ν_in is ν_out with its dimensions in their first order."""
    dims = [d % len(shapes[0]) for d in call["dims"]]
    return (nu.permute(0, *(1 + dims.index(d) for d in range(len(dims)))),)


def transpose_transpose(call: Call, nu: Tensor, shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
    """ν_in is ν_out with both dimensions exchanged again."""
    return (nu.transpose(behind(call["dim0"]), behind(call["dim1"])),)


def transpose_expand(call: Call, nu: Tensor, shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
    """ν_in is the sum of ν_out over the copies."""
    return (summed(nu, shapes[0]),)


def transpose_slice(call: Call, nu: Tensor, shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
    """ν_in is ν_out where the slice lies, and 0 elsewhere."""
    start, end = call["start"] or 0, call["end"]
    last = shapes[0][call["dim"]] if end is None else end
    return (_within(nu, shapes[0], call["dim"], start, last, call["step"]),)


def transpose_split(call: Call, nu: Tensor, shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
    """ν_in is ν_out where the part lies, and 0 elsewhere."""
    assert call.index is not None
    start = sum(call["split_sizes"][: call.index])
    end = start + call["split_sizes"][call.index]
    return (_within(nu, shapes[0], call["dim"], start, end, 1),)


def _within(nu: Tensor, shape: torch.Size, dim: int, start: int, end: int, step: int) -> Tensor:
    """Return rows that are ν on a slice of an argument [*shape] and 0 elsewhere."""
    size = [len(nu), *shape]
    found: Tensor = torch.ops.aten.slice_backward(nu, size, behind(dim), start, end, step)
    return found


def transpose_select(call: Call, nu: Tensor, shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
    """ν_in is ν_out at the index, and 0 elsewhere."""
    size, dim = [len(nu), *shapes[0]], behind(call["dim"])
    return (torch.ops.aten.select_backward(nu, size, dim, call["index"]),)


def transpose_index_select(
    call: Call, nu: Tensor, shapes: Sequence[torch.Size]
) -> Sequence[Tensor]:
    """ν_in sums ν_out over the places where an entry went."""
    zeros = nu.new_zeros(len(nu), *shapes[0])
    return (zeros.index_add(behind(call["dim"]), call["index"], nu),)


def transpose_cat(call: Call, nu: Tensor, shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
    """ν_in is the part of ν_out where an argument went."""
    dim, start, pulled = call["dim"], 0, {}
    for part in call["tensors"]:
        shape = shapes[part.index] if isinstance(part, Hole) else part.shape
        size = 0 if shape == (0,) else shape[dim]
        if isinstance(part, Hole):
            pulled[part.index] = nu.narrow(behind(dim), start, size)
        start += size
    return [pulled[i] for i in range(len(shapes))]


def transpose_stack(call: Call, nu: Tensor, shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
    """ν_in is the layer of ν_out where an argument went."""
    holes = [(part, i) for i, part in enumerate(call["tensors"]) if isinstance(part, Hole)]
    pulled = {part.index: nu.select(behind(call["dim"]), i) for part, i in holes}
    return [pulled[i] for i in range(len(shapes))]


def transpose_where(call: Call, nu: Tensor, shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
    """ν_in is ν_out where an argument was taken, and 0 elsewhere."""
    taken = {"self": call["condition"], "other": ~call["condition"]}
    masks = [mask for name, mask in taken.items() if isinstance(call[name], Hole)]
    return [
        summed(torch.where(mask, nu, 0), shape) for mask, shape in zip(masks, shapes, strict=True)
    ]


def _stacked_channels(call: Call) -> Window | None:
    """Return the window of a concatenation of perturbed images along their channels."""
    pixelwise = call["dim"] == 1 and all(isinstance(t, Hole) for t in call["tensors"])
    return Window() if pixelwise else None


def _sliced(call: Call) -> Window | None:
    """Return the window of a slice of an image [N, C, H, W]: along its channels, or its pixels."""
    dim, start, step = call["dim"], call["start"] or 0, call["step"]
    if dim == 1:
        return Window()
    if dim not in (2, 3) or start < 0:
        return None
    stride, shift = [1, 1], [0, 0]
    stride[dim - 2], shift[dim - 2] = step, -start
    return Window((1, 1), pair(stride), pair(shift), {"start": 0, "end": None})


def _padded(call: Call) -> Window | None:
    """Return the window of an image with pixels around it."""
    right_to_left = [*call["pad"], 0, 0, 0, 0]
    if len(call["pad"]) > 4:
        return None
    shift = right_to_left[2], right_to_left[0]
    return Window((1, 1), (1, 1), shift, {"pad": [0, 0, 0, 0]})


RESHAPE = Affine(
    together=("self",), transpose=transpose_reshape, linear=True, reads_one=True, terms=no_sums
)


def _move(transpose: Transpose = transpose_by_vjp) -> Affine:
    """Return the dual layer of an op that moves entries, each to one place at most."""
    return Affine(
        together=("self",), transpose=transpose, linear=True, reads_one=True, terms=no_sums
    )


MOVE = _move()
SLICE = Affine(
    together=("self",),
    transpose=transpose_slice,
    linear=True,
    window=_sliced,
    reads_one=True,
    terms=no_sums,
)
PICK = Affine(together=("self",), linear=True, reads_one=True, repeats=True, terms=picks)
PAD = Affine(together=("self",), reads_one=True, repeats=True, terms=picks)
CONSTANT_PAD = Affine(together=("self",), window=_padded, reads_one=True, terms=no_sums)

TABLE = {
    "aten.reshape.default": RESHAPE,
    "aten.unsqueeze.default": RESHAPE,
    "aten.squeeze.default": RESHAPE,
    "aten.squeeze.dim": RESHAPE,
    "aten.squeeze.dims": RESHAPE,
    "aten.flatten.using_ints": RESHAPE,
    "aten.permute.default": _move(transpose_permute),
    "aten.transpose.int": _move(transpose_transpose),
    "aten.t.default": MOVE,
    "aten.expand.default": replace(_move(transpose_expand), terms=copies),
    "aten.repeat.default": replace(MOVE, terms=copies),
    "aten.slice.Tensor": SLICE,
    "aten.select.int": _move(transpose_select),
    "aten.narrow.default": MOVE,
    "aten.split.Tensor": MOVE,
    "aten.split_with_sizes.default": _move(transpose_split),
    "aten.chunk.default": MOVE,
    "aten.unbind.int": MOVE,
    "aten.diagonal.default": MOVE,
    "aten.flip.default": MOVE,
    "aten.roll.default": MOVE,
    "aten.index_select.default": replace(PICK, transpose=transpose_index_select),
    "aten.index.Tensor": PICK,
    "aten.gather.default": PICK,
    "aten.constant_pad_nd.default": CONSTANT_PAD,
    "aten.pad.default": PAD,
    "aten.reflection_pad1d.default": PICK,
    "aten.reflection_pad2d.default": PICK,
    "aten.reflection_pad3d.default": PICK,
    "aten.replication_pad1d.default": PICK,
    "aten.replication_pad2d.default": PICK,
    "aten.replication_pad3d.default": PICK,
    "aten.pixel_shuffle.default": MOVE,
    "aten.pixel_unshuffle.default": MOVE,
    "aten.cat.default": Affine(
        together=("tensors",), transpose=transpose_cat, window=_stacked_channels, terms=no_sums
    ),
    "aten.stack.default": Affine(together=("tensors",), transpose=transpose_stack, terms=no_sums),
    "aten.where.self": Affine(together=("self", "other"), transpose=transpose_where, terms=copies),
    "aten.index_put.default": Affine(together=("self", "values"), terms=sums),
    "aten.scatter_add.default": Affine(together=("self", "src"), terms=sums),
    "aten.slice_scatter.default": Affine(together=("self", "src"), terms=no_sums),
    "aten.select_scatter.default": Affine(together=("self", "src"), terms=no_sums),
}
