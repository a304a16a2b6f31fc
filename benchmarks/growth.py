"""Time and memory against hidden units: exact bounds and Cauchy estimates (thesis, Figure 3.20).

    python benchmarks/growth.py [--r 10] [--most 4200000] [--exact 100000] [--runs 3] [--out DIR]

One 3×3 convolution with more and more filters on 10 MNIST-sized examples, then a linear layer to
10 classes. A robust training step at every size; every measurement runs in a process of its own,
so that its peak of memory is its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from timing import alternate, peak_gigabytes
from torch import nn

import autodual as ad

PIXELS = 28 * 28


def measure(filters: int, r: int, runs: int) -> dict[str, float]:
    """Time one training step; r = 0 is exact."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, filters, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(PIXELS * filters, 10),
    )
    x, y = torch.rand(10, 1, 28, 28), torch.randint(10, (10,))
    before = peak_gigabytes()
    net = ad.certify(model, 0.1, estimator=ad.Cauchy(r) if r else None, memory="4GB")

    def step() -> None:
        model.zero_grad()
        ad.robust_loss(net, x, y).backward()

    seconds = alternate({"step": step}, runs)["step"]
    return {"seconds": seconds, "gigabytes": peak_gigabytes() - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--r", type=int, default=10)
    parser.add_argument("--most", type=int, default=4_200_000, help="hidden units, projected")
    parser.add_argument("--exact", type=int, default=100_000, help="hidden units, exact")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one, args.runs)))
        return
    found: dict[str, list[tuple[int, float, float]]] = {}
    for name, r, most in (("exact", 0, args.exact), (f"Cauchy({args.r})", args.r, args.most)):
        filters = 1
        while filters * PIXELS <= 1.02 * most:
            call = [
                sys.executable,
                __file__,
                "--one",
                str(filters),
                str(r),
                "--runs",
                str(args.runs),
            ]
            done = subprocess.run(call, capture_output=True, text=True)
            if done.returncode != 0:
                print(f"{name}, {filters * PIXELS} hidden units: failed\n{done.stderr[-500:]}")
                break
            result = json.loads(done.stdout.splitlines()[-1])
            point = filters * PIXELS, result["seconds"], result["gigabytes"]
            found.setdefault(name, []).append(point)
            print(
                f"{name}: {point[0]:>9,} hidden units  {point[1]:8.3f} s  {point[2]:6.2f} GB",
                flush=True,
            )
            filters = min(2 * filters, most // PIXELS) if filters < most // PIXELS else most
    if args.out is not None:
        plot(found, args.out)


def plot(found: dict[str, list[tuple[int, float, float]]], out: Path) -> None:
    """Draw time and memory against hidden units."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, points in found.items():
        units, seconds, memory = zip(*points, strict=True)
        axes[0].loglog(units, seconds, marker="o", label=name)
        axes[1].loglog(units, [max(m, 1e-3) for m in memory], marker="o", label=name)
    for axis, label in zip(axes, ("seconds per training step", "peak memory, GB"), strict=True):
        axis.set_xlabel("hidden units")
        axis.set_ylabel(label)
        axis.legend()
        axis.grid(alpha=0.3)
    figure.savefig(out / "growth.png", dpi=150)


if __name__ == "__main__":
    main()
