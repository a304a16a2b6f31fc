"""Batches side by side: a thread for each core, in which torch itself takes one.

Sub-problems are many small products. To cut each of these among cores costs more than it saves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class Threads:
    """As many threads as torch would use; while the block runs torch uses one in each."""

    def __init__(self) -> None:
        self.count = torch.get_num_threads()
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(self.count, initializer=_alone) if self.count > 1 else None

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Apply a function, without gradients, to each of some items."""
        if self._pool is None or len(items) == 1:
            return [function(item) for item in items]
        mine = [copy_context() for _ in items]  # the time limit, and where progress is shown
        alone = torch.no_grad()(function)
        return list(self._pool.map(lambda c, item: c.run(alone, item), mine, items))

    def __enter__(self) -> Threads:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self.count)


def _alone() -> None:
    torch.set_num_threads(1)
