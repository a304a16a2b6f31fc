"""A file: a line, the length of a header, the header in JSON, and arrays, compressed by zlib."""

from __future__ import annotations

import json
import math
import zlib
from typing import Any

import numpy as np

MAGIC, MOST_HEADER, MOST = b"autodual-proof 3\n", 2**22, 2**27
"""How a file starts; how many bytes its header may have, and all of it, packed and unpacked."""


class Unproved(Exception):
    """The answer and why: "invalid", or "unsupported" where a file may be right."""


def need(holds: Any, otherwise: str, answer: str = "invalid") -> None:
    """Raise if something does not hold."""
    if not holds:
        raise Unproved(answer, otherwise)


def read(path: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """Return the nodes and the arrays of a file; nothing is unpickled, nor larger than MOST."""
    with open(path, "rb") as file:
        raw, start, at = file.read(MOST + 1), len(MAGIC) + 8, 0
    other = raw.startswith(MAGIC[:15]) and not raw.startswith(MAGIC)
    need(len(raw) <= MOST and not other, "the file is too large, or of a version", "unsupported")
    need(raw.startswith(MAGIC), "the file is no proof: it starts otherwise")
    end = start + int.from_bytes(raw[len(MAGIC) : start], "little")
    need(end <= min(start + MOST_HEADER, len(raw)), "the header is too long, or cut off")
    header, unzip, arrays = json.loads(raw[start:end]), zlib.decompressobj(), dict[str, Any]()
    data = unzip.decompress(raw[end:], MOST)
    need(unzip.eof and not unzip.unused_data, "arrays: cut off, or too much", "unsupported")
    for name, dtype, shape in header["arrays"]:
        need(type(name) is str and name.isalnum() and name not in arrays, "arrays: no name")
        need(dtype in ("<f4", "<f8", "<i4", "|u1") and len(shape) <= 3, f"{name}: no such array")
        need(all(type(s) is int and 0 < s < 2**31 for s in shape), f"{name}: no such shape")
        array = arrays[name] = np.frombuffer(data, dtype, math.prod(shape), at).reshape(shape)
        parts = np.abs(array if dtype[1] == "f" else np.ones(1), dtype=np.float64)
        inside, at = (parts == 0) | (parts >= 2.0**-200) & (parts <= 2.0**200), at + array.nbytes
        need(inside.all(), f"{name}: NaN, or numbers beyond 2^200 or 2^-200", "unsupported")
    need(at == len(data), "arrays: too few or too many numbers")
    return header["nodes"], arrays
