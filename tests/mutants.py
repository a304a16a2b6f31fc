"""Proofs, changed in every way that one can think of."""

import copy
import math
import struct

import numpy as np

from tests.proofs import Read

SPECIAL = (
    *(0.0, -0.0, 1.0, -1.0, 1e-3, 1e3, 1e-30, 1e30, 1e-300, 1e300, 5e-324, 2.0**53, 2.0**44),
    *(float("nan"), float("inf"), float("-inf"), 2.0**-149, 2.0**63, 2.0**62),
)
WHOLE = -1, 0, 1, 2, 3, 7, 63, 64, 2**15, 2**24, 2**31 - 1, -(2**31), 2**31, 2**63, 2**64, 10**30
ANYTHING = None, True, False, [], {}, "", "x", "linf", "equal", [1], [[]], 0.5, -1, "W1", 1e400


def mutant(raw: bytes, generator: np.random.Generator) -> bytes:
    """Return the bytes of a proof with one to three changes."""
    read = Read(raw)
    read.header = copy.deepcopy(read.header)
    for _ in range(int(generator.integers(1, 4))):
        kind = generator.choice(
            ["array", "header", "bytes", "claim", "shape"], p=[0.45, 0.25, 0.1, 0.1, 0.1]
        )
        if kind == "bytes":
            return _bytes(read.packed(), generator)
        if kind == "claim":
            if "least" in read.arrays:
                claims = read.arrays["least"].copy()
                claims.flat[generator.integers(claims.size)] += 10.0 ** generator.integers(-9, 2)
                read.arrays["least"] = claims
        elif kind == "array":
            name = generator.choice(list(read.arrays))
            read.arrays[name] = _array(read.arrays[name], generator)
        elif kind == "shape":
            name = generator.choice(list(read.arrays))
            read.arrays[name] = _shape(read.arrays[name], generator)
        else:
            read.header = _header(read.header, read, generator)
    return read.packed()


def _array(array, generator):
    array = array.copy()
    for _ in range(int(generator.choice([1, 1, 1, 3, 20]))):
        i = generator.integers(array.size)
        if array.dtype.kind in "iu":
            old = int(array.flat[i])
            more = [old + 1, old - 1, *WHOLE[:12]]
            array.flat[i] = np.int64(more[generator.integers(len(more))]).astype(array.dtype)
        else:
            old = float(array.flat[i])
            near = [math.nextafter(old, math.inf), -old, old / 2, old * 2, old + 0.1, old - 0.1]
            more = [*near, *near, *near, *SPECIAL]
            with np.errstate(all="ignore"):
                array.flat[i] = more[generator.integers(len(more))]
    return array


def _shape(array, generator):
    match generator.integers(6):
        case 0:
            return array.reshape(-1)
        case 1:
            return array[..., :-1] if array.shape[-1] > 1 else array
        case 2:
            return np.moveaxis(array, 0, -1)
        case 3:
            return array.astype("<f4" if array.dtype != "<f4" else "<f8")
        case 4:
            return np.concatenate([array, array])
    return array[None] if array.ndim < 3 else array[0]


def _header(header, read, generator):
    """Change something at some depth."""
    places = []

    def walk(thing):
        for key in thing if isinstance(thing, dict) else range(len(thing)):
            places.append((thing, key))
            if isinstance(thing[key], dict | list):
                walk(thing[key])

    header.pop("arrays", None)
    walk(header)
    if not places:
        return header
    owner, key = places[generator.integers(len(places))]
    old = owner[key]
    match generator.integers(5):
        case 0:
            del owner[key]
        case 1 if isinstance(owner, list):
            owner.insert(key, copy.deepcopy(old))
        case 2 if type(old) is int:
            owner[key] = int(generator.choice([old + 1, old - 1, 2 * old, 0, 1, 40]))
        case 3 if isinstance(old, str):
            names = [*read.arrays, "W1", "I2", "b3", "alpha", "beta", "lower", "x"]
            owner[key] = str(generator.choice(names))
        case _:
            more = [*ANYTHING, *WHOLE]
            owner[key] = more[generator.integers(len(more))]
    return header


def _bytes(raw, generator):
    raw = bytearray(raw)
    match generator.integers(5):
        case 0:
            raw[generator.integers(len(raw))] ^= 1 << int(generator.integers(8))
        case 1:
            return bytes(raw[: generator.integers(len(raw))])
        case 2:
            return bytes(raw) + b"\0" * int(generator.integers(1, 9))
        case 3:
            raw[17:25] = struct.pack("<Q", int(generator.integers(2**62)))
        case 4:
            return generator.bytes(int(generator.integers(200)))
    return bytes(raw)
