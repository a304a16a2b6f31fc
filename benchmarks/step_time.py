"""The cost of the bound beside the plain step, as ratios within one run.

    python benchmarks/step_time.py [--data PATH] [--runs 7] [--compile]

Without --data only the demo's net is timed. Runs alternate; medians are shown.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from networks import mnist_test, wk_mnist
from timing import alternate
from torch import Tensor, nn

import autodual as ad
from autodual.bound.plan import METHODS
from autodual.report.demo import small_net
from autodual.train import digits as embedded


def work(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, compiled: bool
) -> dict[str, Callable[[], object]]:
    """Return everything that is timed on one net, by name."""

    def step(loss: Callable[[], Tensor]) -> Callable[[], None]:
        def run() -> None:
            model.zero_grad()
            loss().backward()

        return run

    jobs: dict[str, Callable[[], object]] = {
        "plain training step": step(lambda: F.cross_entropy(model(x), y)),
        "plain forward pass": torch.no_grad()(lambda: model(x)),
    }
    for name, compile in {"fused": False, "compiled": True}.items():
        if compiled or not compile:
            net = ad.certify(model, eps, bounds="ibp+dual", compile=compile)
            jobs[f"robust training step, {name}"] = step(
                lambda net=net: ad.robust_loss(net, x, y, fused=True)
            )
    for bounds in METHODS:
        net = ad.certify(model, eps, bounds=bounds)
        jobs[f"certify, {bounds}"] = lambda net=net: net(x, y)
        jobs[f"robust training step, {bounds}"] = step(lambda net=net: ad.robust_loss(net, x, y))
    return jobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the folder with nets/ and mnist/")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="fused steps compiled, too: minutes")
    args = parser.parse_args()
    torch.manual_seed(0)
    digits = embedded()
    cases = [("demo net", small_net(), digits.x[:50], digits.y[:50])]
    if args.data is None:
        print("no --data: wk_mnist is left out")
    else:
        x, y = mnist_test(args.data)
        cases.append(("wk_mnist", wk_mnist(args.data), x[:50], y[:50]))
    for name, model, x, y in cases:
        median = alternate(work(model, x, y, 0.1, args.compile), args.runs)
        print(f"{name}, batch {len(x)}, ε = 0.1, median of {args.runs}")
        for job, seconds in median.items():
            base = "plain training step" if "training" in job else "plain forward pass"
            print(f"  {job:34} {1e3 * seconds:9.2f} ms  {seconds / median[base]:8.1f} × {base}")


if __name__ == "__main__":
    main()
