"""A file's bytes, and the tensors and attributes of its parts; nothing is believed unchecked."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from autodual.errors import InputError

if TYPE_CHECKING:  # a user without these packages never comes here
    from onnx import AttributeProto, ModelProto, NodeProto, TensorProto

LARGEST = 2**31
"""Bytes of the largest file that protocol buffers can hold."""

CHUNK = 2**20

DTYPES: Mapping[int, torch.dtype] = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
}
"""The types of numbers that are read, by their number in the format."""

FLOATS = frozenset((torch.float16, torch.float32, torch.float64))

INSTALL = "ONNX files need two packages: pip install onnx onnxruntime"


def read_bytes(path: Path) -> bytes:
    """Return what a file holds, decompressed if its name ends in ``.gz``.

    Raises:
        InputError: it is no file, or larger than ``LARGEST``, or no whole gzip file.
    """
    if not path.is_file():
        raise InputError("is no file")
    try:
        if path.stat().st_size >= LARGEST:
            raise InputError(f"has {path.stat().st_size} bytes; {LARGEST} are too many")
        return _decompressed(path) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, zlib.error, EOFError) as error:
        raise InputError(f"cannot be read: {error}") from None


def _decompressed(path: Path) -> bytes:
    """Read a gzip file piece by piece, so that a bomb stops at the limit."""
    import gzip

    found = bytearray()
    with gzip.open(path) as file:
        while piece := file.read(CHUNK):
            found += piece
            if len(found) >= LARGEST:
                raise InputError(f"has more than {LARGEST} bytes when decompressed")
    return bytes(found)


def parse(data: bytes) -> ModelProto:
    """Return the model that bytes describe.

    Raises:
        InputError: they describe none; ``onnx`` is not installed.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise InputError(INSTALL) from None
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, RuntimeError, ValueError):
        raise InputError("is no ONNX model, or not a whole one") from None
    return model


def tensor_of(proto: TensorProto, dtype: torch.dtype | None) -> Tensor:
    """Return a stored tensor; floats in ``dtype``, if it is given.

    Raises:
        InputError: its type is not among ``DTYPES``; its data lie elsewhere, or are not as many as
            its shape says.
    """
    from onnx import numpy_helper

    what = f"tensor {proto.name[:80]!r}"
    if proto.data_location or proto.external_data:
        raise InputError(f"{what} lies in another file, and only data in the model itself is read")
    if proto.data_type not in DTYPES:
        raise InputError(f"{what} has numbers of type {proto.data_type}, which are not read")
    kind = DTYPES[proto.data_type]
    held = sum(
        len(getattr(proto, f"{name}_data")) for name in ("float", "int32", "int64", "double")
    )
    held = len(proto.raw_data) // kind.itemsize if proto.raw_data else held
    shape = tuple(proto.dims)
    if any(size < 0 for size in shape) or math.prod(shape) != held:
        raise InputError(f"{what} holds {held} numbers, and its shape is {list(shape)[:8]}")
    try:
        array = np.array(numpy_helper.to_array(proto))
        found = torch.from_numpy(array).to(kind).reshape(shape)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"{what} cannot be read: {error}") from None
    return converted(found, dtype)


def converted(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return floats in ``dtype``, and all else as it is."""
    return tensor if dtype is None or tensor.dtype not in FLOATS else tensor.to(dtype)


def attributes_of(node: NodeProto, dtype: torch.dtype | None) -> Mapping[str, Any]:
    """Return a node's attributes: numbers, text, lists of them, tensors.

    Raises:
        InputError: an attribute holds a graph, or a kind of value that is not read.
    """
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.name in found or attribute.ref_attr_name:
            raise InputError(f"attribute {attribute.name[:80]!r} is given twice, or elsewhere")
        found[attribute.name] = _value(attribute, dtype)
    return found


def _value(attribute: AttributeProto, dtype: torch.dtype | None) -> Any:
    """Return the value of an attribute: its kind is a number in the format."""
    match attribute.type:
        case 1:
            return float(attribute.f)
        case 2:
            return int(attribute.i)
        case 3:
            return _text(attribute.s)
        case 4:
            return tensor_of(attribute.t, dtype)
        case 6:
            return _listed(attribute.floats)
        case 7:
            return _listed(attribute.ints)
        case 8:
            return [_text(text) for text in attribute.strings]
    raise InputError(
        f"attribute {attribute.name[:80]!r} is no number, text, list or tensor (graphs inside "
        "nodes are not read)"
    )


def _listed(values: Iterable[Any]) -> list[Any]:
    return list(values)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
