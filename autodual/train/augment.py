"""Images as they might have been: what multiplies a training set."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from autodual.calls import check_count

Augment = Callable[[Tensor], Tensor]
"""Inputs [N, *] → others of the same shape that deserve the same labels."""


def shifted(pixels: int) -> Augment:
    """Return what moves each image [N, C, H, W] by up to so many pixels, with 0 behind it."""
    check_count("pixels", pixels, 0)

    def move(x: Tensor) -> Tensor:
        places = torch.randint(0, 2 * pixels + 1, (2, len(x), 1), device=x.device)
        rows, columns = (places[i] + torch.arange(x.shape[2 + i], device=x.device) for i in (0, 1))
        padded = F.pad(x, (pixels,) * 4).movedim(1, 3)  # indexed by image, row and column
        each = torch.arange(len(x), device=x.device)[:, None, None]
        return padded[each, rows[:, :, None], columns[:, None, :]].movedim(3, 1).contiguous()

    return move


def flipped(x: Tensor) -> Tensor:
    """Return images, half of them seen in a mirror, as CIFAR's may be and digits may not."""
    mirror = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
    return torch.where(mirror, x.flip(3), x)


def cutout(size: int, value: float = 0.0) -> Augment:
    """Return what blanks a square in each image, about a random pixel (DeVries and Taylor 2017)."""
    check_count("size", size)

    def cut(x: Tensor) -> Tensor:
        inside = torch.ones((), dtype=torch.bool, device=x.device)
        for dim in (2, 3):
            first = torch.randint(x.shape[dim], (len(x), 1), device=x.device) - size // 2
            at = torch.arange(x.shape[dim], device=x.device)
            hit = (at >= first) & (at < first + size)
            inside = inside & (hit[:, None, :, None] if dim == 2 else hit[:, None, None, :])
        return x.masked_fill(inside, value)

    return cut


def together(*steps: Augment) -> Augment:
    """Return what does one after the other."""

    def all_of(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return x

    return all_of
