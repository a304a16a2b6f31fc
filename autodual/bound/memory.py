"""How much memory a bound may use."""

from __future__ import annotations

import ctypes
import os
import re
from functools import cache
from typing import Any

import torch

from autodual.errors import InputError

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}

LEAST = 2**24
"""The smallest budget in bytes: below it the model itself would not fit."""


def parse_memory(memory: int | str | None) -> int | None:
    """Return a budget in bytes from a number of bytes or text like ``"2GiB"``; None stays None.

    Raises:
        InputError: neither of these, or less than 16 MiB.
    """
    if memory is None:
        return None
    size = memory
    if isinstance(memory, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]I?B|B)\s*", memory.upper())
        size = int(float(match[1]) * UNITS[match[2]]) if match else 0
    if isinstance(size, bool) or not isinstance(size, int) or size < LEAST:
        raise InputError(
            f'memory={memory!r} is no budget: give bytes, or text like "500MB" or "2GiB", '
            "at least 16 MiB"
        )
    return size


def default_memory(device: torch.device) -> int:
    """Return half of what is free on the device now, at least 256 MiB."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        try:
            free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError, AttributeError):
            free = 2**31
    return max(free // 2, 2**28)


def give_back() -> None:
    """Return what is freed to the system, where the C library can be asked to (glibc).

    It keeps holes between blocks otherwise, and a process grows beyond what it uses.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
