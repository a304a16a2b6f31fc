"""What a domain costs and brings: balls with one and without, taking turns in one process.

    python benchmarks/domains.py --data PATH [--images 8] [--runs 5]

Seconds are CPU seconds of one thread, medians. The prices of pixels that a Wasserstein ball's mass
would overflow are found in a few steps; what more of these would gain is said for its margins, the
median over images and classes, and the most. For the other balls the search runs to its end.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from networks import mnist_test, wk_mnist
from torch import Tensor

import autodual as ad
from autodual.threat import prices

DOMAIN = (0.0, 1.0)
BALLS: Mapping[str, Callable[[ad.threat.base.Domain | None], ad.ThreatModel]] = {
    "L2Ball(0.5)": lambda domain: ad.L2Ball(0.5, domain),
    "L1Ball(2)": lambda domain: ad.L1Ball(2.0, domain),
    "Wasserstein(0.05)": lambda domain: ad.Wasserstein(0.05, domain=domain),
    "LinfBall(0.05)": lambda domain: ad.LinfBall(0.05, domain),
}
LONG = 12
"""Steps of dual ascent after which prices of pixels hardly fall."""


def turns(jobs: Mapping[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Return the median CPU seconds of each job, after one turn to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(runs + 1):
        for name, job in jobs.items():
            start = time.process_time()
            job()
            if turn > 0:
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


@contextmanager
def searched_long() -> Iterator[None]:
    """Give prices of pixels more steps."""
    kept, prices.STEPS = prices.STEPS, LONG
    try:
        yield
    finally:
        prices.STEPS = kept


def gained(net: ad.Certified, margins: Callable[[ad.Certified], Tensor]) -> str:
    """Return how much tighter margins are by more steps, in their own size."""
    found = margins(net)
    with searched_long():
        long = margins(net)
    gain = (long - found) / long.abs()
    return f"{100 * float(gain.median()):7.3f} {100 * float(gain.max()):7.3f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder with nets/ and mnist/")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, (x, y) = wk_mnist(args.data), mnist_test(args.data)
    x, y = x[: args.images], y[: args.images]

    def step(net: ad.Certified) -> Callable[[], None]:
        def run() -> None:
            model.zero_grad()
            ad.robust_loss(net, x, y).backward()

        return run

    def margins(net: ad.Certified) -> Tensor:
        with torch.no_grad():
            found = net(x, y).margins
        return found[torch.arange(found.shape[1]) != y[:, None]]

    print(f"wk_mnist, {len(x)} images, domain {DOMAIN}, one thread, median of {args.runs} turns")
    heads = "certify: without, with", "step: without, with", "by more steps"
    print(f"{'set':18} {heads[0]:>24} {heads[1]:>24} {heads[2]:>18}")
    for name, ball in BALLS.items():
        free, cut = (ad.certify(model, ball(domain)) for domain in (None, DOMAIN))
        jobs = {
            "free": lambda net=free: margins(net),
            "cut": lambda net=cut: margins(net),
            "free step": step(free),
            "cut step": step(cut),
        }
        seconds = turns(jobs, args.runs)
        times = [
            f"{seconds['free' + what]:8.3f} {seconds['cut' + what]:7.3f} s"
            f" × {seconds['cut' + what] / seconds['free' + what]:4.2f}"
            for what in ("", " step")
        ]
        gains = gained(cut, margins) if isinstance(cut.threat, ad.Wasserstein) else "–"
        print(f"{name:18} {times[0]:>24} {times[1]:>24} {gains:>18}", flush=True)


if __name__ == "__main__":
    main()
