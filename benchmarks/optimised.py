"""Bound against time: optimised duals beside auto_LiRPA's α-CROWN, on four MNIST nets.

    python benchmarks/optimised.py --data PATH [--lirpa CHECKOUT] [--runs N] [--programs]

Mean margins of 20 images and the median seconds for them, each way in turn in one process, graphs
captured before. Ours with ever more steps; α-CROWN with its defaults after some iterations, and
with a smaller step and more of them, and by how many times sooner our first bound comes that is no
looser. With ``--programs`` the linear programs on the intervals of the fixed planes: how much of
the way there twenty steps on the same intervals go, and how often twenty steps for all intervals
pass them.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from networks import mnist_test, rvb, wk_mnist
from peers import LiRPA, others
from torch import Tensor, nn

import autodual as ad
from autodual.solve import linear

IMAGES = 20
OURS = {
    "default": None,
    "Steps(1, 0)": ad.Steps(1, 0),
    **{f"optimize={steps}": steps for steps in (2, 5)},
    "Steps(10, 10)": ad.Steps(10, 10),
    **{f"optimize={steps}": steps for steps in (20, 40)},
    "Steps(45, 45)": ad.Steps(45, 45),
}
THEIRS = ((1, 0.5), (5, 0.5), (20, 0.5), (50, 0.1))
"""Iterations and step lengths; 20 and 0.5 are the defaults."""

Way = Callable[[], Tensor]


def ours(model: nn.Module, x: Tensor, eps: float, spec: Tensor) -> dict[str, Way]:
    """Return bounds with ever more steps, by name."""
    found: dict[str, Way] = {}
    for name, steps in OURS.items():
        net = ad.certify(model, eps, optimize=steps)
        found[name] = lambda net=net: net.lower_bound(x, spec)  # type: ignore[misc]
    return found


def theirs(peer: LiRPA, model: nn.Module, x: Tensor, eps: float, spec: Tensor) -> dict[str, Way]:
    """Return CROWN and α-CROWN, by name."""

    def bound(method: str, options: dict[str, object]) -> Tensor:
        net = peer.module(model, torch.empty_like(x), bound_opts=options)
        inputs = (peer.tensor(x, peer.ball(norm=float("inf"), eps=eps)),)
        found: Tensor = net.compute_bounds(x=inputs, C=spec, method=method, bound_upper=False)[0]
        return found.detach()

    found: dict[str, Way] = {"CROWN": lambda: bound("CROWN", {})}
    for iterations, rate in THEIRS:
        args = {"optimize_bound_args": {"iteration": iterations, "lr_alpha": rate}}
        name = f"α-CROWN {iterations}, {rate}"
        found[name] = lambda args=args: bound("CROWN-Optimized", args)  # type: ignore[misc]
    return found


def measure(way: Way, runs: int) -> tuple[float, float]:
    """Return the mean bound and the median seconds; what takes long runs once."""
    seconds: list[float] = []
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        for _ in range(runs):
            start = time.perf_counter()
            bound = way()
            seconds.append(time.perf_counter() - start)
            if seconds[0] > 5:
                break
    return float(bound.detach().mean()), statistics.median(seconds)


def schedule(model: nn.Module, x: Tensor, eps: float, spec: Tensor) -> str:
    """Say what three steps reach at the end of a schedule of ε, warm and anew, and ten anew."""
    few, many = (ad.certify(model, eps, bounds=ad.Optimised(n, 10)) for n in (3, 10))
    ready = few.at(0.8 * eps).prepare(x)
    ready.solve(spec)
    for share in (0.85, 0.9, 0.95, 1.0):
        ready = ready.at(share * eps)
        warm = ready.solve(spec).lower
    cold, ten = (float(net.solve(x, spec).lower.mean()) for net in (few, many))
    return f"{'three steps at ε':20}{cold:12.4f} anew, {float(warm.mean()):.4f} warm; ten {ten:.4f}"


def timed(way: Way) -> tuple[Tensor, float]:
    """Return a bound and the seconds that it took."""
    start = time.perf_counter()
    return way(), time.perf_counter() - start


def beside_the_program(model: nn.Module, x: Tensor, eps: float, spec: Tensor) -> str:
    """Say how far twenty steps go towards the linear program, and how often they pass it."""
    plain = ad.certify(model, eps)
    program, seconds = timed(lambda: plain.lp(x, spec))
    warm, linear.installed = linear.installed, lambda: False
    cold = timed(lambda: plain.lp(x, spec))[1]
    linear.installed = warm
    same, all_ = (
        ad.certify(model, eps, optimize=steps).lower_bound(x, spec).detach()
        for steps in (ad.Steps(20, 0), 20)
    )
    fixed = plain.lower_bound(x, spec).detach()
    share = float((same - fixed).sum() / (program - fixed).sum())
    beaten = float((all_ >= program - 1e-5 * (1 + program.abs())).double().mean())
    ordered = bool((program >= same - 1e-4 * (1 + same.abs())).all())
    line = f"{'linear programs':20}{float(program.mean()):12.4f}{seconds:10.3f}"
    line += f" ({cold:.3f} by scipy, each anew)"
    order = "" if ordered else ", OUT OF ORDER"
    inside = f"with those inside they are no looser for {100 * beaten:.0f} % of the rows"
    return f"{line}   twenty steps go {100 * share:.1f} % of the way there{order}; {inside}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--lirpa", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--programs", action="store_true", help="linear programs too: minutes")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    peer = None if args.lirpa is None else LiRPA(args.lirpa)
    x, y = (part[:IMAGES] for part in mnist_test(args.data))
    nets = (
        ("wk_mnist", wk_mnist(args.data), 0.1),
        ("LPD_MLP_B_0.1", rvb(args.data, "LPD_MLP_B_0.1"), 0.1),
        ("ADV_MLP_B_0.03", rvb(args.data, "ADV_MLP_B_0.03"), 0.03),
        ("wk_mnist", wk_mnist(args.data), 0.2),
    )
    for name, model, eps in nets:
        spec = others(y, 10)
        print(f"\n{name}, ε = {eps}\n{'':20}{'mean bound':>12}{'seconds':>10}")
        for way in ours(model, x, eps, spec).values():
            way()  # captures the graph
        found = {}
        for which, way in ours(model, x, eps, spec).items():
            found[which] = measure(way, args.runs)
            print(f"{which:20}{found[which][0]:12.4f}{found[which][1]:10.3f}", flush=True)
        rivals = {} if peer is None else theirs(peer, model, x, eps, spec)
        for which, way in rivals.items():
            bound, seconds = measure(way, args.runs)
            sooner = [t for b, t in found.values() if b >= bound - 1e-4 * abs(bound)]
            said = f"ours {seconds / min(sooner):.1f} × sooner" if sooner else "ours never"
            print(f"{which:20}{bound:12.4f}{seconds:10.3f}   {said}", flush=True)
        print(schedule(model, x, eps, spec), flush=True)
        if args.programs:
            print(beside_the_program(model, x, eps, spec), flush=True)


if __name__ == "__main__":
    main()
