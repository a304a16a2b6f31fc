"""Attack ≥ MILP ≥ LP ≥ optimised with the LP's intervals ≥ fixed ≥ IBP, on the published nets.

    python benchmarks/order.py --data PATH [--images 100] [--time-limit 120]

One row for each image, towards the class whose default bound is lowest. For every rung: the mean
bound, the seconds, and how many rows lie below the rung before by more than rounding, which must be
none. The time limit is for the mixed-integer programs of one net; rows that it stops keep the best
that was proved. Then the same order on random nets of every family of ops, with all rows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from networks import PUBLISHED, mnist_test, published
from peers import others
from torch import Tensor, nn

import autodual as ad
from autodual.attack import losses

LADDER = ad.IBP(), ad.Dual(), ad.Optimised(20), ad.LP(10), ad.MILP(10)

SLACK = 2e-5
"""By which part of 1 + |bound| a bound may lie below the one before: HiGHS's tolerance."""

FAMILIES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "leaky_relu": lambda z: F.leaky_relu(z, 0.1),
    "hardtanh": F.hardtanh,
    "relu6": lambda z: F.relu6(8 * z),
    "abs": torch.abs,
    "hardswish": lambda z: F.hardswish(4 * z),
    "maximum": lambda z: torch.maximum(z, -0.5 * z.flip(1)),
    "max_pool1d": lambda z: F.max_pool1d(torch.cat([z, -z], 1)[:, None], 2)[:, 0],
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "exp": lambda z: torch.exp(0.5 * z),
    "softplus": F.softplus,
    "square": torch.square,
    "product": lambda z: z * z.flip(1).sigmoid(),
    "softmax": lambda z: z.softmax(1) * 4,
    "layer_norm": lambda z: F.layer_norm(z, z.shape[1:]),
    "where": lambda z: torch.where(z > 0, z, 0.1 * z),
}


class Family(nn.Module):
    """Three layers with one kind of op in between."""

    def __init__(self, op: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.op = op
        self.layers = nn.ModuleList([nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)])

    def forward(self, x: Tensor) -> Tensor:
        """Return three logits."""
        for layer in self.layers[:-1]:
            x = self.op(layer(x))
        return self.layers[-1](x)


def attacked(
    model: nn.Module, x: Tensor, y: Tensor, target: Tensor, ball: ad.ThreatModel
) -> Tensor:
    """Return the least z_y − z_target that attacks find, [N]."""
    found = []
    for attack in (ad.attack.pgd, ad.attack.apgd):
        made = attack(model, x, y, ball, targets=target, loss=losses.margin, restarts=2)
        found.append(made.margins.gather(1, target.unsqueeze(1)).squeeze(1))
    return torch.stack(found).amin(0)


def main() -> None:
    """Compare rung by rung."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--time-limit", type=float, default=120.0)
    options = parser.parse_args()
    images, labels = (t[: options.images] for t in mnist_test(options.data))
    for name, eps in PUBLISHED.items():
        model = published(options.data, name)
        ball = ad.LinfBall(eps, domain=(0, 1))
        net = ad.certify(model, ball)
        every = others(labels, 10)
        target = net(images, labels).margins.scatter(1, labels.unsqueeze(1), torch.inf).argmin(1)
        rank = target - (target > labels).long()
        C = every[torch.arange(len(rank)), rank].unsqueeze(1)
        before = None
        for rung in LADDER:
            start = time.perf_counter()
            limit = options.time_limit if isinstance(rung, ad.MILP) else float("inf")
            solution = net.by(rung).solve(images, C, time_limit=limit)
            took, lower = time.perf_counter() - start, solution.lower[:, 0]
            before = tell(f"{name} {rung}", lower, before, took)
            late = solution.reasons.count("time is over")
            if late:
                print(f"    {late} of {len(lower)} rows were stopped by the time limit")
        start = time.perf_counter()
        found = attacked(model, images, labels, target, ball)
        tell(f"{name} attack", found, before, time.perf_counter() - start)
    for name, op in FAMILIES.items():
        torch.manual_seed(0)
        model = Family(op).double()
        x = torch.rand(4, 4, dtype=torch.float64)
        y = model(x).argmax(1)
        before, start = None, time.perf_counter()
        for rung in LADDER:
            try:
                lower = ad.certify(model, 0.2, bounds=rung).solve(x, others(y, 3).double()).lower
            except ad.errors.InputError:
                continue  # no op of pieces: no mixed-integer program
            wrong = below(lower, before)
            assert not wrong, (name, rung, wrong)
            before = lower
        target = torch.stack([(y + 1) % 3, (y + 2) % 3], 1).sort(1).values
        found = torch.stack(
            [attacked(model, x, y, k, ad.LinfBall(0.2)) for k in target.unbind(1)], 1
        )
        assert not below(found, before), name
        print(f"{name}: in order, {time.perf_counter() - start:.1f} s", flush=True)


def below(bound: Tensor, before: Tensor | None) -> int:
    """Return how many bounds lie below those before."""
    if before is None:
        return 0
    return int((bound < before - SLACK * (1 + before.abs())).sum())


def tell(name: str, bound: Tensor, before: Tensor | None, took: float) -> Tensor:
    """Print a rung and return its bounds."""
    mean = float(bound.detach().mean())
    print(f"{name}: mean {mean:.4f} in {took:.2f} s, {below(bound, before)} below", flush=True)
    return bound


if __name__ == "__main__":
    main()
