"""Models of images and of one-dimensional signals: convolutions, pools, residuals, resampling."""

from __future__ import annotations

from functools import partial
from itertools import product

import torch
import torch.nn.functional as F
from torch import nn

from models.base import chain, enter

Conv = nn.Conv2d


def stack(layers: int, padding: int, stride: int, head: bool) -> nn.Module:
    """Convolutions with a kernel of 4, with or without two linear layers on top."""
    parts: list[nn.Module] = []
    for i in range(layers):
        parts += [Conv(3 if i else 1, 3, 4, stride, padding), nn.ReLU()]
    top = [nn.LazyLinear(32), nn.Linear(32, 10)] if head else []
    return settle(nn.Sequential(*parts, nn.Flatten(), *top), 1, 16, 16)


def settle(model: nn.Module, *shape: int) -> nn.Module:
    """Give lazy layers their sizes."""
    model(torch.zeros(1, *shape))
    return model


def pooled(kernel: int, padding: int, around: int) -> nn.Module:
    """A max pool between two convolutions and their ReLUs."""
    pool = nn.MaxPool2d(kernel, kernel, padding)
    parts = [Conv(1, 2, 2, padding=around), nn.ReLU(), pool, Conv(2, 2, 2, padding=around)]
    return settle(nn.Sequential(*parts, nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)), 1, 16, 16)


for layers, padding, stride, head in product((1, 2, 3), (1, 2), (1, 3), (True, False)):
    if not (layers == 3 and padding == 1 and stride == 3):
        top = "two linear layers" if head else "no head"
        enter(
            f"{layers} convolutions, padding {padding}, stride {stride}, {top}",
            partial(stack, layers, padding, stride, head), 1, 16, 16, eps=0.02,
        )  # fmt: skip
for kernel, padding, around in product((2, 3, 4), (0, 1), (0, 1)):
    enter(
        f"max pool {kernel}, padding {padding}, around it {around}",
        partial(pooled, kernel, padding, around), 1, 16, 16, eps=0.3,
    )  # fmt: skip
enter(
    "average pool 3",
    lambda: settle(chain(Conv(1, 4, 3, padding=1), F.relu, nn.AvgPool2d(3, 1, 1), Conv(4, 4, 3),
                         F.relu, nn.AvgPool2d(2), nn.Flatten(), nn.LazyLinear(4)), 1, 8, 8),
    1, 8, 8, eps=0.1,
)  # fmt: skip
