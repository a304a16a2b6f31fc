"""Standard Cauchy noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class CauchyNoise:
    """Standard Cauchy noise by a seed, the same at every reading.

    Args:
        like: a tensor of the noise's dtype and device.
        seed: the seed.
        keep: hold on to what was drawn, for the next ``rewind``.
    """

    def __init__(self, like: Tensor, seed: int, keep: bool = False) -> None:
        self.like, self.keep = like, keep
        self.generator = torch.Generator(like.device).manual_seed(seed)
        self._kept: list[Tensor] = []
        self._next = 0

    def rewind(self) -> CauchyNoise:
        """Start reading from the beginning."""
        self._next = 0
        return self

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        """Return the next noise, of this shape."""
        if self._next < len(self._kept):
            noise = self._kept[self._next]
        else:
            noise = self._draw(shape)
            if self.keep:
                self._kept.append(noise)
        self._next += 1
        return noise

    def _draw(self, shape: tuple[int, ...]) -> Tensor:
        """Return tan(π(u − ½)) for uniform u in steps of 2⁻ᵇ, moved by half a step off 0."""
        like, steps = self.like, 2 ** (25 if self.like.dtype == torch.float32 else 54)
        uniform = torch.rand(shape, dtype=like.dtype, device=like.device, generator=self.generator)
        return uniform.sub_(0.5).add_(1 / steps).mul_(math.pi).tan_()
