"""What a model of the benchmark is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Make = Callable[[], nn.Module]


@dataclass(frozen=True)
class Model:
    """A model, the shape of one input and the ℓ∞ radius it is bounded at."""

    make: Make
    shape: tuple[int, ...]
    eps: float
    spread: float = 1.0

    def build(self) -> nn.Module:
        """Return the model in eval mode."""
        torch.manual_seed(0)
        return self.make().eval()

    def inputs(self, batch: int) -> Tensor:
        """Return normal inputs [batch, *shape], ``spread`` wide."""
        generator = torch.Generator().manual_seed(1)
        return self.spread * torch.randn(batch, *self.shape, generator=generator)


MODELS: dict[str, Model] = {}


def enter(name: str, make: Make, *shape: int, eps: float = 0.1, spread: float = 1.0) -> None:
    """Enter a model under its name."""
    assert name not in MODELS, name
    MODELS[name] = Model(make, shape, eps, spread)


class Do(nn.Module):
    """A function of one tensor as a module; with modules, of these and the tensor."""

    def __init__(self, function: Callable[..., Tensor], *parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.function, self.count = function, len(parts)
        for i, part in enumerate(parts):
            setattr(self, f"part{i}", part if isinstance(part, nn.Module) else nn.Parameter(part))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function."""
        parts: list[Any] = [getattr(self, f"part{i}") for i in range(self.count)]
        return self.function(*parts, x)


def chain(*parts: nn.Module | Callable[[Tensor], Tensor]) -> nn.Sequential:
    """Return modules and functions one after the other."""
    return nn.Sequential(*(part if isinstance(part, nn.Module) else Do(part) for part in parts))


def normed(channels: int, dims: int = 1) -> nn.Module:
    """Return a BatchNorm with statistics, as after training."""
    norm = (nn.BatchNorm1d, nn.BatchNorm2d)[dims - 1](channels)
    nn.init.normal_(norm.weight, 1, 0.2)
    nn.init.normal_(norm.running_mean, 0, 0.2)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm
