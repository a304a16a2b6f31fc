"""Search without direction: random points of any set, corners of a box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autodual.attack import losses
from autodual.attack.ascent import Path, Strategy, ascend
from autodual.attack.finding import Attack
from autodual.attack.options import Options, pose
from autodual.attack.problem import Model
from autodual.errors import InputError
from autodual.inputs import Inputs
from autodual.labels import Labels
from autodual.threat import Eps

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True)
class Anywhere(Strategy):
    """Try a random point of each set."""

    gradients = False

    def step(self, path: Path) -> Tensor:
        """Draw the next point."""
        return path.threat.random_start(path.x, path.generator)


@dataclass(frozen=True)
class Corners(Strategy):
    """Try the corners of each box: one after the other if there are few, else at random."""

    gradients = False

    def step(self, path: Path) -> Tensor:
        """Choose the next corner."""
        x = path.x
        box, entries = path.threat.interval(x), x[0].numel()
        if entries < 32 and 2**entries <= path.steps:
            digits = torch.arange(entries, device=x.device)
            up = ((path.index >> digits) % 2 == 1).reshape(1, *x.shape[1:])
        else:
            up = torch.randint(2, x.shape, device=x.device, generator=path.generator).bool()
        return path.threat.project(x, torch.where(up, box.upper, box.lower))


def search(
    model: Model,
    x: Tensor | Inputs,
    y: Labels | None,
    eps: Eps,
    *,
    steps: int = 100,
    corners: bool = False,
    **options: Unpack[Options],
) -> Attack:
    """Try ``steps`` random points of each set, or corners of each box; needs scores only.

    Args:
        corners: try corners, all of them where ``steps`` suffice. Boxes only.
        model, x, y, eps: as for ``pgd``.
        options: see ``ad.attack.Options``.

    Raises:
        InputError: as for ``pgd``; the set has no corners.
    """
    problem = pose(search, model, x, y, eps, {"loss": losses.margin, **options})
    if corners and problem.threat.weights(problem.x) is None:
        raise InputError(f"{problem.threat} is no box: it has no corners to try")
    return ascend(problem, Corners() if corners else Anywhere(), steps)
