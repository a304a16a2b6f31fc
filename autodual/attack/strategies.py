"""How gradient attacks go on from where they stand."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from autodual.attack.ascent import Path, Strategy
from autodual.attack.problem import unit
from autodual.threat.base import wide


def ahead(path: Path, point: Tensor, gradient: Tensor, rate: float | Tensor) -> Tensor:
    """Return P(x′ + rate · v), with v the set's steepest step and P its projection."""
    return path.threat.advance(path.x, point, gradient, rate, path.generator)


@dataclass(frozen=True)
class Steepest(Strategy):
    """x′ ← P(x′ + α argmax {∇ᵀv : ‖v‖ ≤ ε}), the thesis's equation 2.6.

    ``rate`` is α, in radii of the set.
    """

    rate: float

    def step(self, path: Path) -> Tensor:
        """Take one step."""
        return ahead(path, path.point, path.gradient, self.rate)


@dataclass(frozen=True)
class Momentum(Strategy):
    """Steepest ascent along g ← μg + ∇/‖∇‖₁ (Dong et al. 2018), with μ the ``decay``."""

    rate: float
    decay: float = 1.0

    def step(self, path: Path) -> Tensor:
        """Take one step."""
        scaled = unit(path.gradient)
        size = scaled.flatten(1).abs().sum(1).clamp(min=1)
        along = scaled / wide(size, scaled)
        if path.index > 0:
            along = along + self.decay * path.memory["along"]
        path.memory["along"] = along
        return ahead(path, path.point, along, self.rate)


@dataclass(frozen=True)
class Plain(Strategy):
    """Projected gradient ascent, x′ ← P(x′ + α∇): ``rate`` multiplies the gradient itself."""

    rate: float

    def step(self, path: Path) -> Tensor:
        """Take one step."""
        return path.threat.project(path.x, path.point + self.rate * path.gradient)
