"""Small nets and points in the square, as the thesis's pictures take them, and their training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autodual.errors import InputError
from autodual.loss import robust_loss
from autodual.report.rungs import EQUAL
from autodual.threat import LinfBall
from autodual.threat.base import Domain

TRIES = 10_000
"""How many points are drawn for one that is far from all others."""


def spread_points(count: int = 12, apart: float = 0.16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw points of the square [0, 1]² one by one, each far from all before (thesis, 3.2.1).

    Args:
        count: how many.
        apart: the least ℓ∞ distance of two.
        seed: of the points and of their labels, which are 0 or 1 by chance.

    Returns:
        The points [count, 2] and their labels [count].

    Raises:
        InputError: there is no room for so many.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.empty(0, 2)
    for _ in range(count):
        drawn = torch.rand(TRIES, 2, generator=generator)
        far = (drawn.unsqueeze(1) - x).abs().amax(2).ge(apart).all(1)
        if not bool(far.any()):
            raise InputError(f"{count} points {apart} apart do not fit into the square: take fewer")
        x = torch.cat([x, drawn[far][:1]])
    return x, torch.randint(2, (count,), generator=generator)


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Return a fully connected ReLU net with layers of these widths, PyTorch's initial weights."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def plane_net(widths: Sequence[int]) -> nn.Sequential:
    """Return a net for the square whose first kinks are lines through points of it.

    With these and weights three times as large it learns regions in hundreds of steps.
    """
    net = mlp(widths)
    first = net[0]
    assert isinstance(first, nn.Linear)
    with torch.no_grad():
        first.weight.mul_(3)
        first.bias.copy_(-(first.weight * torch.rand_like(first.weight)).sum(1))
    return net


def normal_net(widths: Sequence[int]) -> nn.Sequential:
    """Return a random net as in the thesis, 3.2.2: weights N(0, 1/√n), biases N(0, 1)."""
    net = mlp(widths)
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, nn.Linear):
                layer.weight.normal_(0, layer.in_features**-0.5)
                layer.bias.normal_()
    return net


def train(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float = 0.0,
    *,
    steps: int,
    rate: float = 0.01,
    batch: int | None = None,
    domain: Domain | None = None,
    each: Callable[[int], None] | None = None,
) -> nn.Module:
    """Train a net by Adam; with ε against the thesis's bound, ε growing over the first half.

    Args:
        model: the net, returned in evaluation mode.
        x, y: inputs [N, *] and labels [N].
        eps: of the ℓ∞ balls; 0 trains on the inputs themselves.
        steps: of the optimizer.
        rate: the largest learning rate of a cycle.
        batch: how many examples each step takes by chance; all if not given.
        domain: of the inputs.
        each: called with the number of steps done, after each and before the first.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    net = EQUAL.net(model, LinfBall(eps, domain))
    for step in range(steps):
        if each is not None:
            each(step)
        index = slice(None) if batch is None else torch.randperm(len(x))[:batch]
        now = LinfBall(eps * min(1.0, 2 * (step + 1) / steps), domain)
        if eps > 0:
            loss = robust_loss(net, x[index], y[index], now)
        else:
            loss = F.cross_entropy(model(x[index]), y[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    if each is not None:
        each(steps)
    return model.eval()
