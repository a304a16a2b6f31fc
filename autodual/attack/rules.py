"""How gradient attacks go on from where they stand."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from autodual.attack.ascent import Memory, Rule
from autodual.attack.problem import Problem, Reading, unit, wide


def ahead(problem: Problem, point: Tensor, gradient: Tensor, rate: float | Tensor) -> Tensor:
    """Return P(x′ + rate · v), with v the set's steepest step and P its projection."""
    return problem.threat.advance(problem.x, point, gradient, rate, problem.generator)


@dataclass(frozen=True)
class Steepest(Rule):
    """x′ ← P(x′ + α argmax {∇ᵀv : ‖v‖ ≤ ε}), the thesis's equation 2.6.

    ``rate`` is α, in radii of the set.
    """

    rate: float

    def step(
        self, problem: Problem, here: Reading, memory: Memory, index: int, steps: int
    ) -> Tensor:
        """Take one step."""
        return ahead(problem, here.x, here.gradient, self.rate)


@dataclass(frozen=True)
class Momentum(Rule):
    """Steepest ascent along g ← μg + ∇/‖∇‖₁ (Dong et al. 2018), with μ the ``decay``."""

    rate: float
    decay: float = 1.0

    def step(
        self, problem: Problem, here: Reading, memory: Memory, index: int, steps: int
    ) -> Tensor:
        """Take one step."""
        scaled = unit(here.gradient)
        size = scaled.flatten(1).abs().sum(1).clamp(min=1)
        along = scaled / wide(size, scaled)
        if index > 0:
            along = along + self.decay * memory["along"]
        memory["along"] = along
        return ahead(problem, here.x, along, self.rate)


@dataclass(frozen=True)
class Plain(Rule):
    """Projected gradient ascent, x′ ← P(x′ + α∇): ``rate`` multiplies the gradient itself."""

    rate: float

    def step(
        self, problem: Problem, here: Reading, memory: Memory, index: int, steps: int
    ) -> Tensor:
        """Take one step."""
        return problem.threat.project(problem.x, here.x + self.rate * here.gradient)
