"""A file: a line, the length of a header, the header in JSON, and numbers, compressed by zlib.

Nothing is made room for before its size is known to be small enough, and nothing is unpickled.
"""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

MAGIC = b"autodual-proof 1\n"
MOST_FILE, MOST_HEADER, MOST_DATA = 2**28, 2**22, 2**28
"""Bytes of a file, of its header, and of all its numbers."""

DTYPES = "<f4", "<f8", "<i4"


class Invalid(Exception):
    """The file does not prove what it claims: where, and why."""


class Unsupported(Exception):
    """The file may be right, but this program cannot tell."""


def need(holds: bool, otherwise: str) -> None:
    """Raise if something does not hold."""
    if not holds:
        raise Invalid(otherwise)


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the header and the arrays of a file."""
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_FILE + 1)
    except (OSError, ValueError) as error:
        raise Invalid(f"the file cannot be read: {error}") from None
    if len(raw) > MOST_FILE or (raw.startswith(MAGIC[:15]) and not raw.startswith(MAGIC)):
        raise Unsupported("the file is too large, or of another version")
    need(raw.startswith(MAGIC), "the file is no proof: it starts otherwise")
    start, size = len(MAGIC) + 8, int.from_bytes(raw[len(MAGIC) : len(MAGIC) + 8], "little")
    need(size <= min(MOST_HEADER, len(raw) - start), "the header is too long, or cut off")
    try:
        header = json.loads(raw[start : start + size].decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"the header is no JSON: {str(error)[:80]!r}") from None
    need(isinstance(header, dict), "the header is no table")
    return header, _arrays(header.get("arrays"), raw[start + size :])


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a table in which no name stands twice."""
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name stands twice")
    return dict(pairs)


def _arrays(listed: Any, packed: bytes) -> dict[str, np.ndarray]:
    """Return the arrays that the header lists as [name, dtype, shape]."""
    found: dict[str, tuple[np.dtype[Any], list[int]]] = {}
    need(isinstance(listed, list), "arrays: not a list")
    for entry in listed:
        need(isinstance(entry, list) and len(entry) == 3, "arrays: not [name, dtype, shape]")
        name, dtype, shape = entry
        need(isinstance(name, str) and name not in found, "arrays: no name, or one twice")
        need(dtype in DTYPES and isinstance(shape, list), f"array {name[:40]!r}: no such dtype")
        whole = len(shape) <= 3 and all(type(s) is int and 0 < s < 2**31 for s in shape)
        need(whole, f"array {name[:40]!r}: not a shape")
        found[name] = np.dtype(dtype), shape
    sizes = [dtype.itemsize * math.prod(shape) for dtype, shape in found.values()]
    if sum(sizes) > MOST_DATA:
        raise Unsupported("the arrays are too large")
    unzip = zlib.decompressobj()
    try:
        data = unzip.decompress(packed, sum(sizes) + 1)
    except zlib.error as error:
        raise Invalid(f"the arrays are broken: {error}") from None
    need(len(data) == sum(sizes) and unzip.eof and not unzip.unused_data, "arrays: wrong length")
    arrays, start = {}, 0
    for (name, (dtype, shape)), size in zip(found.items(), sizes, strict=True):
        arrays[name] = np.frombuffer(data, dtype, math.prod(shape), start).reshape(shape)
        start += size
        if dtype.kind == "f":
            need(bool(np.isfinite(arrays[name]).all()), f"array {name[:40]!r}: not finite")
            sizes_of = np.abs(arrays[name][arrays[name] != 0].astype(np.float64))
            if sizes_of.max(initial=1) > 2.0**200 or sizes_of.min(initial=1) < 2.0**-200:
                raise Unsupported(f"array {name[:40]!r}: numbers beyond 2^200 or 2^-200")
    return arrays
