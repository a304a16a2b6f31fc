"""Small nets to begin with, for images of any size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

Shape = tuple[int, ...]
"""Channels, height and width of an image."""


def _headed(body: Sequence[nn.Module], shape: Shape, hidden: int, classes: int) -> nn.Sequential:
    """Return convolutions with two linear layers behind them."""
    flat = nn.Sequential(*body, nn.Flatten())
    with torch.no_grad():
        size = flat(torch.zeros(1, *shape)).shape[1]
    return nn.Sequential(*flat, nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, classes))


def small(shape: Shape, classes: int) -> nn.Sequential:
    """Return the thesis's small MNIST net: two convolutions and two linear layers."""
    first, second = nn.Conv2d(shape[0], 16, 4, 2, 1), nn.Conv2d(16, 32, 4, 2, 1)
    return _headed([first, nn.ReLU(), second, nn.ReLU()], shape, 100, classes)


def medium(shape: Shape, classes: int, width: int = 32) -> nn.Sequential:
    """Return a net of three convolutions and two linear layers."""
    sizes = (shape[0], width, 5, 2, 2), (width, 2 * width, 3, 1, 1), (2 * width, 2 * width, 4, 2, 1)
    body = [layer for size in sizes for layer in (nn.Conv2d(*size), nn.ReLU())]
    return _headed(body, shape, 256, classes)


NETS: dict[str, Callable[[Shape, int], nn.Module]] = {"small": small, "medium": medium}
"""By the names that the command line knows."""
