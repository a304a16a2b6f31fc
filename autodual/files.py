"""Files that are whole or not there: whatever is killed while it writes leaves the old one."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from autodual.errors import InputError

UNREADABLE = (
    *(RuntimeError, pickle.UnpicklingError, EOFError, ValueError, OSError, struct.error),
    *(LookupError, TypeError, AttributeError, AssertionError),
)
"""What reading a file raises that holds something else."""


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write, which takes the place of the old one when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def save(thing: Any, path: Path) -> None:
    """Write tensors and plain values to a file, in one step."""
    with replacing(path) as file:
        torch.save(thing, file)


def load(path: Path) -> Any:
    """Read them.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    if not path.exists():
        raise InputError(f"there is no file {path}")
    try:
        return torch.load(path, weights_only=True)
    except UNREADABLE as error:
        raise InputError(f"{path} is no whole file of tensors: {error}") from error
