"""Ctrl-C in long work leaves what is finished, in the form of the whole result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from autodual.errors import Interrupted

Found = TypeVar("Found")
Result = TypeVar("Result")


@contextmanager
def keeping(batch: int) -> Iterator[list[Tensor]]:
    """Give a list for lower bounds on some examples each, in their order.

    Raises:
        Interrupted: Ctrl-C in the block; ``partial`` [batch, *] holds what is in the list, and −∞
            for other examples. While the list is empty it is a plain KeyboardInterrupt.
    """
    done: list[Tensor] = []
    try:
        yield done
    except KeyboardInterrupt:
        if not done:
            raise
        count = sum(map(len, done))
        rest = done[0].new_full((batch - count, *done[0].shape[1:]), -torch.inf)
        said = f"{count} of {batch} examples are finished"
        raise Interrupted(torch.cat([*done, rest]), said) from None


def finish(ask: Callable[[], Found], make: Callable[[Found], Result]) -> Result:
    """Return what is made of an answer; where asking is interrupted, of the part that is there.

    Raises:
        Interrupted: Ctrl-C; ``partial`` is what ``make`` makes of the answer's.
    """
    try:
        found = ask()
    except Interrupted as stop:
        raise Interrupted(make(stop.partial), str(stop)) from None
    return make(found)
