"""A file: a line, the length of a header, the header in JSON, and numbers, compressed by zlib.

Nothing is made room for before its size is known to be small enough, nothing is unpickled.
"""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from autodual_check.numbers import Invalid, Unsupported

MAGIC = b"autodual-proof 1\n"
MOST_FILE, MOST_HEADER, MOST_DATA = 2**28, 2**22, 2**28
"""Bytes of a file, of its header, and of all its numbers."""

DTYPES = ("<f4", "<f8", "<i4")


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the header and the arrays of a file.

    Raises:
        Invalid: it is no such file, or it is broken.
        Unsupported: it is too large, or of another version.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_FILE + 1)
    except OSError as error:
        raise Invalid(f"the file cannot be read: {error.strerror}") from None
    if len(raw) > MOST_FILE:
        raise Unsupported(f"the file is larger than {MOST_FILE} bytes")
    if not raw.startswith(MAGIC):
        if raw.startswith(MAGIC[:15]):
            raise Unsupported("the file is of another version")
        raise Invalid("the file is no proof: it starts otherwise")
    start = len(MAGIC) + 8
    size = int.from_bytes(raw[len(MAGIC) : start], "little")
    if size > MOST_HEADER or len(raw) < start + size:
        raise Invalid("the header is too long, or cut off")
    try:
        header = json.loads(
            raw[start : start + size].decode(), object_pairs_hook=_once, parse_constant=_no_number
        )
    except (ValueError, RecursionError) as error:
        raise Invalid(f"the header is no JSON: {str(error)[:80]!r}") from None
    if not isinstance(header, dict):
        raise Invalid("the header is no table")
    return header, _arrays(header.get("arrays"), raw[start + size :])


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a table in which no name stands twice."""
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name stands twice")
    return dict(pairs)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _arrays(listed: Any, packed: bytes) -> dict[str, np.ndarray]:
    """Return the arrays that the header lists as [name, dtype, shape]."""
    found: dict[str, tuple[np.dtype[Any], list[int]]] = {}
    if not isinstance(listed, list):
        raise Invalid("arrays: no list")
    for entry in listed:
        if not (isinstance(entry, list) and len(entry) == 3 and isinstance(entry[0], str)):
            raise Invalid("arrays: an entry is not [name, dtype, shape]")
        name, dtype, shape = entry
        if dtype not in DTYPES or not isinstance(shape, list) or name in found:
            raise Invalid(f"array {name[:40]!r}: no such dtype, no shape, or there twice")
        if not (len(shape) <= 4 and all(type(s) is int and 0 < s < 2**31 for s in shape)):
            raise Invalid(f"array {name[:40]!r}: not a shape")
        found[name] = np.dtype(dtype), shape
    sizes = [dtype.itemsize * math.prod(shape) for dtype, shape in found.values()]
    if sum(sizes) > MOST_DATA:
        raise Unsupported(f"the arrays have more than {MOST_DATA} bytes")
    unpacking = zlib.decompressobj()
    try:
        data = unpacking.decompress(packed, sum(sizes) + 1)
    except zlib.error as error:
        raise Invalid(f"the arrays are broken: {error}") from None
    if len(data) != sum(sizes) or not unpacking.eof or unpacking.unused_data:
        raise Invalid("the arrays are shorter or longer than the header says")
    arrays, start = {}, 0
    for (name, (dtype, shape)), size in zip(found.items(), sizes, strict=True):
        array = np.frombuffer(data, dtype, math.prod(shape), start).reshape(shape)
        arrays[name], start = _plain(array, name), start + size
    return arrays


def _plain(array: np.ndarray, name: str) -> np.ndarray:
    """Return numbers if they are finite, and none so small or large that shifts would round."""
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise Invalid(f"array {name[:40]!r} holds NaN or infinity")
        size = np.abs(array.astype(np.float64))
        if size.max() > 2.0**200 or size[size > 0].min(initial=1.0) < 2.0**-200:
            raise Unsupported(f"array {name[:40]!r}: a number beyond 2^±200")
    return array
