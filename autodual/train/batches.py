"""Batches in an order that is known beforehand, so that training can go on from the middle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.utils.data import DataLoader, DistributedSampler

from autodual.brief import brief
from autodual.calls import check_count
from autodual.errors import InputError

Batch = tuple[Tensor, Tensor]
"""Inputs [N, *] and labels."""

Data = tuple[Tensor, Tensor] | DataLoader[Any]
"""All inputs and labels, or what gives them batch by batch."""


def own_rank() -> tuple[int, int]:
    """Return which process this is, and of how many: 0 of 1 without torch.distributed's group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


@dataclass(frozen=True)
class Batches:
    """The batches of each epoch.

    Tensors are shuffled anew for each epoch, by the seed and its number alone; each of several
    processes takes its share of every batch. A DataLoader keeps its own order, and its own
    sampler for several processes.

    Args:
        data: a pair of tensors, or a DataLoader of pairs.
        size: how many examples of a pair of tensors one batch has; the last one may have fewer.
        seed: of the order.
        shuffle: whether there is another order in each epoch.
        rank, ranks: which of how many processes this is.

    Raises:
        InputError: the data is neither, or empty, or x and y do not fit.
    """

    data: Data
    size: int = 100
    seed: int = 0
    shuffle: bool = True
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        if check_count("batch", self.size) < self.ranks:
            raise InputError(f"a batch of {self.size} has nothing for each of {self.ranks} ranks")
        if isinstance(self.data, DataLoader):
            return
        pair = isinstance(self.data, tuple | list) and len(self.data) == 2
        if not pair or not all(isinstance(part, Tensor) for part in self.data):
            raise InputError(
                f"data is a pair of tensors (x, y) or a DataLoader of them, not {brief(self.data)}"
            )
        x, y = self.data
        if len(x) == 0 or len(x) != len(y):
            raise InputError(f"x has {len(x)} examples and y {len(y)}: as many, and at least one")

    def __len__(self) -> int:
        if isinstance(self.data, DataLoader):
            return len(self.data)
        return -(-len(self.data[0]) // self.size)

    def of(self, epoch: int, done: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch after the first ``done``."""
        if isinstance(self.data, DataLoader):
            yield from self._loaded(epoch, self.data, done)
            return
        x, y = self.data
        order = torch.arange(len(x))
        if self.shuffle:
            generator = torch.Generator().manual_seed(2**32 * self.seed + epoch)
            order = torch.randperm(len(x), generator=generator)
        for index in order.split(self.size)[done:]:
            own = index if len(index) < self.ranks else index[self.rank :: self.ranks]
            yield x[own.to(x.device)], y[own.to(y.device)]

    def _loaded(self, epoch: int, loader: Iterable[Any], done: int) -> Iterator[Batch]:
        """Yield what a DataLoader gives; what is done is loaded, and left out."""
        sampler = getattr(loader, "sampler", None)
        if isinstance(sampler, DistributedSampler):
            sampler.set_epoch(epoch)
        for i, batch in enumerate(loader):
            if not isinstance(batch, tuple | list) or len(batch) != 2:
                raise InputError(f"a DataLoader gives pairs (x, y), not {brief(batch)}")
            if i >= done:
                yield batch[0], batch[1]
