"""Square: random search with scores alone (Andriushchenko et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autodual.attack import losses
from autodual.attack.ascent import Path, Strategy, ascend
from autodual.attack.finding import Attack
from autodual.attack.options import Options, pose
from autodual.attack.problem import Model, Problem
from autodual.calls import check_count
from autodual.errors import InputError
from autodual.inputs import Inputs
from autodual.labels import Labels
from autodual.threat import Eps, L2Ball
from autodual.threat.base import wide

if TYPE_CHECKING:
    from typing_extensions import Unpack

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Of 10,000 steps, those after which the share of pixels in a square is halved."""


@dataclass(frozen=True)
class Squares(Strategy):
    """Change a random square of the best point found; keep what the loss likes better.

    An input [C, H, W] is a picture, [H, W] one of a single channel, [D] a line of pixels.
    ``share`` is the part of all pixels that the first squares cover.
    """

    share: float
    gradients = False

    def step(self, path: Path) -> Tensor:
        """Take what the last square improved, and propose the next."""
        problem, memory, point, index = path.problem, path.memory, path.point, path.index
        if index < 2:  # the path starts at the first pattern, not at x
            memory.update(best=point, loss=path.loss)
        better = path.loss > memory["loss"]
        memory["best"] = torch.where(wide(better, point), point, memory["best"])
        memory["loss"] = torch.where(better, path.loss, memory["loss"])
        height, width = picture(point).shape[2:]
        share = self.share / 2 ** sum(10_000 * index > halving * path.steps for halving in HALVINGS)
        h = min(max(round((share * height * width) ** 0.5), 1), height)
        w = min(max(round(share * height * width / h), 1), width)
        if isinstance(path.threat, L2Ball):
            radius = path.threat.radius(path.x).reshape(-1, 1, 1, 1)
            found = _disc(problem, memory["best"], (h, w), radius, index == 0)
        else:
            found = _box(problem, memory["best"], (h, w), index == 0)
        return path.threat.project(path.x, found.reshape(point.shape))


def picture(x: Tensor) -> Tensor:
    """Return x [N, *] as [N, C, H, W]."""
    if x.dim() == 2:
        return x[:, None, None, :]
    if x.dim() == 3:
        return x.unsqueeze(1)
    return x.flatten(1, -3)


def _box(problem: Problem, best: Tensor, size: tuple[int, int], first: bool) -> Tensor:
    """Set a square to one of the box's two ends, per channel; at first, each column."""
    box = problem.threat.interval(problem.x)
    low, high, best = (picture(z) for z in (box.lower, box.upper, best))
    n, channels, height, width = best.shape
    if first:
        return torch.where(_coins(problem, n, channels, 1, width), low, high)
    ends = torch.where(_coins(problem, n, channels, 1, 1), low, high)
    rows, columns = _corner(problem, n, height, width, size)
    row = torch.arange(height, device=best.device) - rows
    column = torch.arange(width, device=best.device) - columns
    inside = ((row >= 0) & (row < size[0]))[:, None, :, None] & (
        (column >= 0) & (column < size[1])
    )[:, None, None, :]
    return torch.where(inside, ends, best)


def _disc(
    problem: Problem, best: Tensor, size: tuple[int, int], radius: Tensor, first: bool
) -> Tensor:
    """Move the length of one window into another, and what is left of ε² (Algorithm 3).

    The pattern put into a window is two heaps of opposite sign. At first, they tile the picture.
    Lengths are in units of ε, so that their squares do not overflow.
    """
    x, best = picture(problem.x), picture(best)
    n, channels, height, width = x.shape
    radius = radius.clamp(min=torch.finfo(x.dtype).tiny)
    if first:
        side = (max(height // 5, 1), max(width // 5, 1))
        tile = heaps(*side, x).repeat(-(-height // side[0]), -(-width // side[1]))[:height, :width]
        cells = _coins(problem, n, channels, -(-height // side[0]), -(-width // side[1]))
        signs = cells.repeat_interleave(side[0], 2).repeat_interleave(side[1], 3)
        delta = tile * (1 - 2 * signs[:, :, :height, :width].to(x))
        return x + delta * (radius / _energy(delta).sqrt())
    delta = (best - x) / radius
    pattern = heaps(*size, x)
    if bool(_coins(problem, 1)):
        pattern = heaps(size[1], size[0], x).mT
    to, source = (_window(problem, n, channels, height, width, size) for _ in range(2))
    old = delta[to]
    left = (1 - _energy(delta)).clamp(min=0)
    freed = delta.clone()
    freed[to] = 0
    freed[source] = 0
    signs = 1 - 2 * _coins(problem, n, channels, 1, 1).to(x)
    new = signs * pattern / _energy(pattern).sqrt() + old / _energy(old, (2, 3)).sqrt()
    share = _energy(delta, (2, 3)) - _energy(freed, (2, 3)) + left / channels
    delta[source] = 0
    delta[to] = new / _energy(new, (2, 3)).sqrt() * share.clamp(min=0).sqrt()
    return x + delta * radius


def heaps(height: int, width: int, x: Tensor) -> Tensor:
    """Return [h, w]: a heap above and one below of the other sign, highest in their middles."""
    return torch.cat([_heap(height // 2, width, x), -_heap(height - height // 2, width, x)])


def _heap(height: int, width: int, x: Tensor) -> Tensor:
    """Return Σ_{k ≤ M} 1/(n + 1 − k)² with M = n − (the distance from the middle), n = ⌊h/2⌋."""
    n = max(height, width) // 2
    row = (torch.arange(height, device=x.device) - (height - 1) // 2).abs()
    column = (torch.arange(width, device=x.device) - (width - 1) // 2).abs()
    depth = n - torch.maximum(row.unsqueeze(1), column.unsqueeze(0)).clamp(max=n)
    steps = 1 / (n + 1 - torch.arange(n + 1, device=x.device, dtype=x.dtype)).square()
    return steps.cumsum(0)[depth]


def _energy(x: Tensor, dims: tuple[int, ...] | None = None) -> Tensor:
    """Return the sum of squares over the picture, or over ``dims``; at least tiny."""
    dims = tuple(range(-min(x.dim(), 3), 0)) if dims is None else dims
    return x.square().sum(dims, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)


def _coins(problem: Problem, *shape: int) -> Tensor:
    device = problem.x.device
    return torch.randint(2, shape, device=device, generator=problem.generator).bool()


def _corner(
    problem: Problem, n: int, height: int, width: int, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return where the windows of ``size`` begin: rows [n, 1] and columns [n, 1]."""
    device, generator = problem.x.device, problem.generator
    ends = (height - size[0] + 1, width - size[1] + 1)
    rows, columns = (torch.randint(e, (n, 1), device=device, generator=generator) for e in ends)
    return rows, columns


def _window(
    problem: Problem, n: int, channels: int, height: int, width: int, size: tuple[int, int]
) -> tuple[Tensor, ...]:
    """Return the index of a random window [n, C, h, w] per example."""
    device = problem.x.device
    rows, columns = _corner(problem, n, height, width, size)
    return (
        torch.arange(n, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[None, :, None, None],
        (rows + torch.arange(size[0], device=device))[:, None, :, None],
        (columns + torch.arange(size[1], device=device))[:, None, None, :],
    )


def square(
    model: Model,
    x: Tensor | Inputs,
    y: Labels | None,
    eps: Eps,
    *,
    steps: int = 1000,
    share: float = 0.8,
    **options: Unpack[Options],
) -> Attack:
    """Search squares at random; asks the model for scores only, one forward pass per step.

    Args:
        model: anything that can be called; no gradients are needed.
        x, y: as for ``pgd``.
        eps: a number, a box or an ``L2Ball``.
        steps: queries per start.
        share: the part of all pixels that the first squares cover, (0, 1]; it shrinks.
        options: see ``ad.attack.Options``, with one loss per example.

    Raises:
        InputError: as for ``pgd``; the set is neither a box nor an ``L2Ball``.
    """
    problem = pose(square, model, x, y, eps, {"loss": losses.margin, **options})
    if not isinstance(problem.threat, L2Ball) and problem.threat.weights(problem.x) is None:
        raise InputError(f"square attacks boxes and L2Ball, not {problem.threat}")
    if not 0 < share <= 1:
        raise InputError(f"share={share}: give a part of the pixels, above 0 and at most 1")
    return ascend(problem, Squares(share), check_count("steps", steps))
