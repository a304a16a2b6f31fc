"""Certified errors of published networks, beside the numbers in print.

python benchmarks/published.py --data PATH [--images 10000]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from networks import mnist_test, rvb, wk_mnist
from rich.progress import track

import autodual as ad


def certified_error(
    net: ad.Certified, x: torch.Tensor, y: torch.Tensor, batch: int, name: str
) -> tuple[int, float]:
    """Return how many of the examples are not verified, and the seconds it took."""
    start, wrong = time.perf_counter(), 0
    for i in track(range(0, len(x), batch), description=name):
        certificate = net(x[i : i + batch], y[i : i + batch])
        assert isinstance(certificate, ad.Certificate)
        wrong += int((~certificate.verified).sum())
    return wrong, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder with nets/ and mnist/")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--bounds", nargs="+", default=["dual", "ibp&dual"])
    parser.add_argument("--batch", type=int, default=100)
    args = parser.parse_args()
    x, y = mnist_test(args.data)
    x, y = x[: args.images], y[: args.images]
    runs = [("rvb LPD 0.1", rvb(args.data, "LPD_MLP_B_0.1"), ad.LinfBall(0.1, (0, 1)), "18.32 %")]
    runs += [("wk_mnist", wk_mnist(args.data), ad.LinfBall(0.1), "5.82 %")]
    for name, model, threat, printed in runs:
        for bounds in args.bounds:
            net = ad.certify(model, threat, bounds=bounds, slopes="equal")
            wrong, seconds = certified_error(net, x, y, args.batch, f"{name}, {bounds}")
            error = 100 * wrong / len(x)
            print(
                f"{name:12} {bounds:9} {wrong:5d} of {len(x)} uncertified = {error:.2f} % "
                f"(in print, all 10,000: {printed}), {seconds:.1f} s"
            )


if __name__ == "__main__":
    main()
