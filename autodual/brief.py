"""How objects are told in a line: tensors by their shape and range."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

MOST = 60
"""How many characters of anything else are told."""

FIRST = 8
"""How many of a list's entries are told."""


def brief(value: object) -> str:
    """Tell a value in a few words."""
    if isinstance(value, Tensor) and value.dim() > 0:
        return f"tensor{list(value.shape)}{_span(value)}"
    if isinstance(value, Tensor):
        return repr(value.item())
    if isinstance(value, np.ndarray):
        return brief(torch.from_numpy(value)).replace("tensor", "array", 1)
    if type(value) in (tuple, list):
        some: list[object] = list(value)[:FIRST]  # type: ignore[call-overload]
        more = ["…"] if len(value) > FIRST else []  # type: ignore[arg-type]
        inside = ", ".join([*map(brief, some), *more])
        return f"({inside})" if isinstance(value, tuple) else f"[{inside}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k!r}: {brief(v)}' for k, v in value.items())}}}"
    if type(value).__repr__ is object.__repr__:
        return type(value).__name__
    said = getattr(value, "__qualname__", None) or repr(value)
    return said if len(said) <= MOST else f"{type(value).__name__}(…)"


def told(thing: object, parts: Mapping[str, object]) -> str:
    """Tell an object by its class and some of its parts."""
    return f"{type(thing).__name__}({', '.join(f'{k}={brief(v)}' for k, v in parts.items())})"


def _span(tensor: Tensor) -> str:
    """Return the range of a tensor's values, and whether any is NaN."""
    if tensor.numel() == 0 or tensor.dtype == torch.bool or tensor.is_complex() or tensor.is_meta:
        return ""
    known = tensor.detach()[~tensor.detach().isnan()]
    if known.numel() == 0:
        return " of NaN"
    low, high = (float(end) for end in known.aminmax())
    span = f" of {low:g}" if low == high else f" from {low:g} to {high:g}"
    return span if known.numel() == tensor.numel() else f"{span}, and NaN"
