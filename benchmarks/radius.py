"""How many bounds a certified radius takes, and whether each is the largest that its bound gives.

    python benchmarks/radius.py --data PATH [--images 50]

For every published net: the number of bounds tried per radius (median and worst), how many radii
hold just inside (1 − 1e-5 of ε) and fail just outside (1 + 1e-5), and how long they took together,
beside 40 halvings of a bracket and beside steps of Newton's method with the derivative itself.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from networks import PUBLISHED, mnist_test, published
from torch import Tensor

import autodual as ad
from autodual.ladder import radius as search

INSIDE, OUTSIDE = 1 - 1e-5, 1 + 1e-5


class Counted(search.Brackets):
    """Brackets that can be looked at when the search is over."""

    last: search.Brackets

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        Counted.last = self


search.Brackets = Counted


def least(net: ad.Certified, x: Tensor, y: Tensor, eps: Tensor) -> Tensor:
    """Return each example's least margin at its own ε."""
    margins = net.at(eps).margins(x, y)
    return margins.scatter(1, y.unsqueeze(1), torch.inf).amin(1)


def by_halving(net: ad.Certified, x: Tensor, y: Tensor, count: int) -> None:
    """Halve a bracket ``count`` times."""
    low, high = torch.zeros(len(x)), torch.ones(len(x))
    with torch.no_grad():
        for _ in range(count):
            middle = (low + high) / 2
            holds = least(net, x, y, middle) > 0
            low, high = torch.where(holds, middle, low), torch.where(holds, high, middle)


def by_newton(net: ad.Certified, x: Tensor, y: Tensor, start: float) -> Tensor:
    """Return how many steps with the derivative each example takes to 1e-6 of its radius."""
    eps, steps = torch.full((len(x),), start), torch.zeros(len(x))
    nominal = least(net, x, y, torch.zeros(len(x))).detach()
    left = nominal > 0
    for _ in range(40):
        if not bool(left.any()):
            break
        now = eps.clone().requires_grad_()
        margin = least(net, x, y, now)
        (slope,) = torch.autograd.grad(margin.sum(), now)
        fall = (nominal - margin.detach()).clamp(min=1e-9)
        power = (-eps * slope / fall).clamp(0.5, 8)  # d log fall / d log ε
        move = ((nominal / fall).log() / power).clamp(-1.0, 1.0)
        steps += left
        eps = torch.where(left, eps * move.exp(), eps)
        left = left & (move.abs() > 2.0**-20)
    return steps


def main() -> None:
    """Measure all nets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=50)
    options = parser.parse_args()
    x, y = (t[: options.images] for t in mnist_test(options.data))
    for name, eps in PUBLISHED.items():
        model = published(options.data, name)
        for ball in (ad.LinfBall(eps, domain=(0, 1)), ad.L2Ball(10 * eps)):
            net = ad.certify(model, ball)
            net(x, y)
            start = time.perf_counter()
            radius = net.radius(x, y)
            took = time.perf_counter() - start
            right = radius > 0
            tried = Counted.last.tried[right].double()
            inside = net.at(radius * INSIDE)(x, y).verified[right]
            outside = net.at(radius * OUTSIDE)(x, y).verified[right]
            start = time.perf_counter()
            by_halving(net, x, y, 40)
            halving = time.perf_counter() - start
            start = time.perf_counter()
            steps = by_newton(net, x, y, eps if not isinstance(ball, ad.L2Ball) else 10 * eps)
            newton = time.perf_counter() - start
            print(
                f"{name} {ball}: {int(tried.median())} bounds, at most {int(tried.max())}; "
                f"{int(inside.sum())} hold inside and {int((~outside).sum())} fail outside of "
                f"{int(right.sum())}; {took:.2f} s; 40 halvings {halving:.2f} s; with derivatives "
                f"{int(steps[right].median())} steps, at most {int(steps[right].max())}, "
                f"{newton:.2f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
