"""Ops that move, copy, drop or pad entries."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autodual.duals.affine import Affine, Window, pair
from autodual.duals.base import Call, Hole


def transpose_reshape(call: Call, nu: Tensor, shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
    """ν_in has the input's shape and ν_out's entries, in the same order."""
    return (nu.reshape(nu.shape[0], *shapes[0]),)


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


RESHAPE = Affine(together=("self",), transpose=transpose_reshape, linear=True, reads_one=True)
MOVE = Affine(together=("self",), linear=True, reads_one=True)
SLICE = Affine(together=("self",), linear=True, window=_sliced, reads_one=True)
PICK = Affine(together=("self",), linear=True, reads_one=True, repeats=True)
PAD = Affine(together=("self",), reads_one=True, repeats=True)
CONSTANT_PAD = Affine(together=("self",), window=_padded, reads_one=True)

TABLE = {
    "aten.reshape.default": RESHAPE,
    "aten.unsqueeze.default": RESHAPE,
    "aten.squeeze.default": RESHAPE,
    "aten.squeeze.dim": RESHAPE,
    "aten.squeeze.dims": RESHAPE,
    "aten.flatten.using_ints": RESHAPE,
    "aten.permute.default": MOVE,
    "aten.transpose.int": MOVE,
    "aten.t.default": MOVE,
    "aten.expand.default": MOVE,
    "aten.repeat.default": MOVE,
    "aten.slice.Tensor": SLICE,
    "aten.select.int": MOVE,
    "aten.narrow.default": MOVE,
    "aten.split.Tensor": MOVE,
    "aten.split_with_sizes.default": MOVE,
    "aten.chunk.default": MOVE,
    "aten.unbind.int": MOVE,
    "aten.diagonal.default": MOVE,
    "aten.flip.default": MOVE,
    "aten.roll.default": MOVE,
    "aten.index_select.default": PICK,
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
    "aten.cat.default": Affine(together=("tensors",), window=_stacked_channels),
    "aten.stack.default": Affine(together=("tensors",)),
    "aten.where.self": Affine(together=("self", "other")),
    "aten.index_put.default": Affine(together=("self", "values")),
    "aten.scatter_add.default": Affine(together=("self", "src")),
    "aten.slice_scatter.default": Affine(together=("self", "src")),
    "aten.select_scatter.default": Affine(together=("self", "src")),
}
