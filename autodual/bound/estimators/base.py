"""What an estimator must answer: how the sums over rows of a bound are found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from autodual.bound.estimators.noise import CauchyNoise
from autodual.bound.layer import Layer
from autodual.bound.relaxation import Relaxation
from autodual.bound.rows import Seeds
from autodual.bound.travel import Observer
from autodual.front.ir import Value


@dataclass(frozen=True)
class Setting:
    """What a bound tells its estimators.

    Attributes:
        targets: the values that are asked about.
        seed: where noise comes from; the same for all parts of a batch.
        memory: a budget in bytes.
        select: whether the host may look at data.
        shared: noise that all parts of a batch read, where it is kept for them.
        observe: told of every step that rows have passed.
    """

    targets: tuple[Value, ...]
    seed: int
    memory: int
    select: bool
    shared: CauchyNoise | None = None
    observe: Observer | None = None

    def noise(self, like: Tensor) -> CauchyNoise:
        """Return the noise of this bound, in the dtype and on the device of ``like``."""
        return CauchyNoise(like, self.seed) if self.shared is None else self.shared.rewind()


class Sums(ABC):
    """How far C·z can fall below and rise above C·z⁰, for rows C at any value of a network.

    Attributes:
        parallel: whether every op must be enclosed by parallel planes, so that it is linear.
    """

    parallel: ClassVar[bool] = True

    def __init__(self, network: Relaxation) -> None:
        self.network = network

    def extend(self, network: Relaxation, layer: Layer) -> None:
        """Hear that the network has grown by a layer."""
        self.network = network

    def columns(self, value: Value) -> int:
        """Return how many columns have just been pushed to a value, over the batch."""
        return 0

    def few(self, seeds: Seeds) -> bool:
        """Return whether rows take so little that it pays to take more of them in one go."""
        return False

    @abstractmethod
    def deviations(self, seeds: Seeds, both: bool) -> Tensor:
        """Return both distances [E, R]; one row if they are equal or only the fall is wanted."""


class Estimator(ABC):
    """How sums over rows are found.

    Attributes:
        delta: the chance, per example, that what it finds is wrong; 0 for what always holds.
        caveat: why it guarantees nothing, if so: what it finds trains and reports only.
        kept: how many numbers it keeps per unit of the network.
        generator: where noise comes from; torch's own generator if None.
    """

    delta: float = 0.0
    caveat: str | None = None
    kept: int = 0
    generator: torch.Generator | None = field(default=None, repr=False)

    @abstractmethod
    def start(self, network: Relaxation, setting: Setting) -> Sums:
        """Return what finds the sums of a network, which grows layer by layer."""

    def seed(self) -> int:
        """Draw the seed of one bound."""
        return int(torch.randint(2**62, (), generator=self.generator))
