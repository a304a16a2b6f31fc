"""The exact robust error of the published nets on MNIST test images, and what deciding them takes.

    python benchmarks/exact.py --data PATH [--net wk_mnist] [--eps 0.1] [--images 10000]
                               [--time-limit 120]

Pixels stay in [0, 1]. Prints the error (those falsified, or given a wrong class as they are), how
many examples each rung decided, how long all took, and the longest programs.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from networks import mnist_test, published

import autodual as ad


def main() -> None:
    """Decide the first images of the test set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--net", default="wk_mnist")
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--time-limit", type=float, default=120.0)
    options = parser.parse_args()
    model = published(options.data, options.net)
    x, y = (t[: options.images] for t in mnist_test(options.data))
    net = ad.certify(model, ad.LinfBall(options.eps, domain=(0, 1)))
    start = time.perf_counter()
    verdict = net.exact(x, y, time_limit=options.time_limit)
    took = time.perf_counter() - start
    low, high = (float(t.float().mean()) for t in (verdict.falsified, ~verdict.verified))
    print(verdict)
    print(f"error {low:.2%} to {high:.2%} of {len(x)} images in {took:.0f} s")
    longest = verdict.seconds.sort(descending=True).values[:5].tolist()
    print("longest programs:", ", ".join(f"{s:.1f} s" for s in longest))


if __name__ == "__main__":
    main()
