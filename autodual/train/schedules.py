"""What changes while a net is trained, as functions of how many epochs have passed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from autodual.errors import InputError

Schedule = Callable[[float], float]
"""(epochs passed, 2.5 in the middle of the third) → a value."""

Rate = Callable[[Optimizer, int], LRScheduler]
"""(optimizer, the number of all steps) → what sets its learning rate."""


@dataclass(frozen=True)
class Ramp:
    """From one value to another between two epochs, and constant before and after.

    Args:
        start, end: the values.
        first, last: the epochs between which it moves.
        smooth: start and end without a kink, by a cosine; else straight.

    Raises:
        InputError: it ends before it begins, or a number is not finite.
    """

    start: float
    end: float
    first: float = 0.0
    last: float = 1.0
    smooth: bool = False

    def __post_init__(self) -> None:
        finite = all(map(math.isfinite, (self.start, self.end, self.first, self.last)))
        if not finite or self.last < self.first:
            raise InputError(f"{self} is no ramp: numbers are finite, and first ≤ last")

    def __call__(self, epoch: float) -> float:
        """Return the value."""
        if epoch >= self.last:
            return self.end
        share = max(0.0, epoch - self.first) / (self.last - self.first)
        share = (1 - math.cos(math.pi * share)) / 2 if self.smooth else share
        return self.start + (self.end - self.start) * share


def constant(value: float) -> Ramp:
    """Return the schedule that never changes."""
    return Ramp(value, value, 0.0, 0.0)


def one_cycle(highest: float, rise: float = 0.3) -> Rate:
    """Return a learning rate that rises to its highest in a share of the steps, then falls to 0."""
    return partial(_one_cycle, highest=highest, rise=rise)


def _one_cycle(optimizer: Optimizer, steps: int, highest: float, rise: float) -> LRScheduler:
    return OneCycleLR(optimizer, highest, total_steps=steps, pct_start=rise)
