"""All that a value holds, in bytes: is a search that was stopped one of this problem?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from autodual.errors import InputError

PLAIN = str, bytes, bool, int, float, complex, np.generic, torch.dtype, torch.device


def written(value: object, depth: int = 8) -> Iterator[bytes]:
    """Yield the bytes of numbers, texts and arrays, of what holds them and of its attributes.

    Raises:
        InputError: it holds a function, or something nested too deeply, which has no bytes.
    """
    yield type(value).__qualname__.encode()
    if isinstance(value, Tensor):
        yield f"{tuple(value.shape)} {value.dtype}".encode()
        yield value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray) and value.dtype != object:
        yield f"{value.shape} {value.dtype}".encode() + value.tobytes()
    elif value is None or isinstance(value, PLAIN):
        yield repr(value).encode()
    elif callable(value) or depth == 0:
        raise InputError(
            f"resume= tells searches apart by all that a set holds, and {type(value).__name__} "
            "cannot be written down: leave it out"
        )
    else:
        yield from _inside(value, depth - 1)


def _inside(value: object, depth: int) -> Iterator[bytes]:
    """Yield the bytes of what a container or an object holds."""
    if isinstance(value, Mapping):
        parts: Sequence[object] = [part for item in value.items() for part in item]
    elif isinstance(value, Sequence | torch.Size):
        parts = list(value)
    elif isinstance(value, set | frozenset):
        parts = sorted(value, key=repr)
    else:
        parts = [part for item in sorted(vars(value).items()) for part in item]
    yield str(len(parts)).encode()
    for part in parts:
        yield from written(part, depth)
