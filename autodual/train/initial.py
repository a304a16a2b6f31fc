"""How nets for interval training begin, and what keeps them well: Shi et al. 2021."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autodual.bound.plan import METHODS
from autodual.certified import Certified
from autodual.interval import Interval
from autodual.train.losses import Loss

TINY = 1e-12


@torch.no_grad()
def start_for_intervals(model: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draw weights of linear layers and convolutions so that intervals keep their width.

    Normal with a standard deviation of √(2π) / n for n inputs, which a ReLU layer's intervals
    neither widen nor narrow; biases of 0.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            inputs = module.weight[0].numel()
            module.weight.normal_(0.0, math.sqrt(2 * math.pi) / inputs, generator=generator)
            if module.bias is not None:
                module.bias.zero_()


@dataclass(frozen=True)
class Regularised:
    """A loss and the two regularisers of Shi et al. 2021, which matter while ε grows.

    One keeps intervals inside the network from growing wide beside that of the input, the other
    keeps units that are surely on and surely off in balance.

    Args:
        loss: what they are added to.
        weight: of both; it should fall to 0 as ε reaches its end:
            ``Recipe(loss_at=lambda t: Regularised(loss, 0.5 * (1 - eps(t))), …)``.
        tolerance: the ratio τ beneath which they begin to count.
    """

    loss: Loss
    weight: float = 0.5
    tolerance: float = 0.5

    def __call__(self, net: Certified, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss and what is added."""
        loss = self.loss(net, x, y)
        if self.weight == 0:
            return loss
        box, inside = boxes(net, x)
        return loss + self.weight * (
            tightness(box, inside, self.tolerance) + balance(inside, self.tolerance)
        )


def boxes(net: Certified, x: Tensor) -> tuple[Interval, Sequence[Interval]]:
    """Return the box around x, and by interval arithmetic those that nonlinear ops read."""
    plain = net.with_options(method=METHODS["ibp"]).by_last(None)
    found = plain.admitted(x, confirm=False)
    threat = plain.around(found)
    bound = found.program(found.env, threat)
    return threat.interval(found.x), [*bound.boxes.values()]


def tightness(box: Interval, inside: Sequence[Interval], tolerance: float) -> Tensor:
    """Return the mean of max(0, τ − w₀/w)/τ over the mean widths w of what ops read."""
    first = (box.upper - box.lower).mean()
    ratios = [first / (b.upper - b.lower).mean().clamp(min=TINY) for b in inside]
    return torch.stack([F.relu(tolerance - r) for r in ratios]).mean() / tolerance


def balance(inside: Sequence[Interval], tolerance: float) -> Tensor:
    """Return the mean of max(0, τ − r)/τ over two ratios r ≤ 1 of each of the intervals.

    They compare units that are surely on with those that are surely off: the means of their
    centers, and the sums of the centers' squared distances from the mean of all.
    """
    found = []
    for b in inside:
        center, on, off = (b.lower + b.upper) / 2, b.lower > 0, b.upper < 0
        spread = (center - center.mean()).square()
        pairs = (center, -center), (spread, spread)
        for up, down in pairs:
            above, below = (up * on).mean(), (down * off).mean()
            ratio = above / below.clamp(min=TINY)
            found.append(F.relu(tolerance - torch.minimum(ratio, 1 / ratio.clamp(min=TINY))))
    return torch.stack(found).mean() / tolerance
