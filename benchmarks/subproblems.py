"""Sub-problems of branch and bound a second, where the time goes, and the floor.

    python benchmarks/subproblems.py [--nets NET.onnx SPEC.vnnlib] [--seconds 5]

Without files: a net of six layers of 50 units on five inputs (the shape of ACAS Xu's), cut at its
inputs, and one of three layers of 100 units on 784, cut at its units. Points are not tried, so that
all time is for bounds. The floor is the time that the products and convolutions alone would take
at the rate of a large product of matrices on one thread.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import pstats
import time
from collections import Counter
from pathlib import Path

import torch
from torch import nn

import autodual as ad
from autodual.bound.flops import Flops
from autodual.formats.vnnlib import read_vnnlib

PARTS = {
    "intervals and planes": ("bound/", "duals/", "interval.py", "front/"),
    "cuts and what is kept": ("verifier/",),
    "torch": ("torch", "built-in", "method", "functools"),
}


def rate(dtype: torch.dtype) -> float:
    """Operations a second of a large product."""
    a = torch.rand(1024, 1024, dtype=dtype)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return float(2 * 1024**3 / sorted(times)[3])


def questions(args: argparse.Namespace) -> dict[str, tuple[nn.Module, object, object, str]]:
    """Models, regions, properties and what is cut."""
    if args.nets:
        net, spec = args.nets
        return {net.stem: (ad.load_onnx(net, torch.float64), None, read_vnnlib(spec), "auto")}
    torch.manual_seed(0)

    def mlp(*sizes: int) -> nn.Module:
        layers = [
            part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())
        ]
        return nn.Sequential(*layers[:-1]).double()

    small, wide = mlp(5, *[50] * 6, 5), mlp(784, 100, 100, 100, 10)
    x = torch.rand(784).double()
    y = int(wide(x[None]).argmax())
    keeps = ad.all_of(*[ad.Y[y] > ad.Y[k] for k in range(10) if k != y])
    ends = -torch.ones(5).double(), torch.ones(5).double()
    with torch.no_grad():
        lowest = float(small(torch.rand(10_000, 5).double() * 2 - 1)[:, 0].amin())
    return {
        "5 inputs, 6 × 50 units": (small, ends, ad.Y[0] > lowest - 0.02, "inputs"),
        "784 inputs, 3 × 100 units": (wide, ad.Region.around(x, 0.03), keeps, "units"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", nargs=2, type=Path, default=None, help="a network and a property")
    parser.add_argument("--seconds", type=float, default=5.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    speed = rate(torch.float64)
    print(f"one thread, float64, a large product at {speed / 1e9:.1f} GFLOP/s")
    for name, (model, region, prop, branch) in questions(args).items():

        def run(seconds: float) -> ad.Verdict:
            return ad.verify(model, region, prop, seconds, branch=branch, attack=False)  # noqa: B023

        run(0.5)
        verdict = run(args.seconds)
        with Flops() as flops:
            counted = run(args.seconds)
        profile = cProfile.Profile()
        profile.runcall(run, args.seconds)
        each = verdict.seconds / max(1, verdict.bounded)
        floor = flops.total / max(1, counted.bounded) / speed
        print(
            f"{name}: {verdict.status} ({verdict.reason}), {verdict.bounded} sub-problems, "
            f"{1 / each:.0f} a second, {1e6 * each:.0f} µs each; floor {1e6 * floor:.1f} µs, "
            f"{flops.total / max(1, counted.bounded) / 1e6:.2f} MFLOP"
        )
        shares = Counter[str]()
        for (file, _, function), (_, _, own, _, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
            place = f"{file} {function}"
            part = next((p for p, marks in PARTS.items() if any(m in place for m in marks)), "rest")
            shares[part] += own
        total = sum(shares.values())
        told = (f"{part} {100 * own / total:.0f} %" for part, own in shares.most_common())
        print("  profile, own time: " + ", ".join(told))


if __name__ == "__main__":
    main()
