"""How good the estimates are: relative error by r (thesis, Figure 3.19), and coverage.

    python benchmarks/estimates.py [--data PATH] [--draws 1000] [--out DIR]

The relative error of Cauchy estimates of every row's sum at a layer, for r = 10, 50, 100, of a
random net and of a trained one (``wk_mnist`` with --data). Then the share of high-probability
bounds that are violated in ``--draws`` draws, and the constants of thesis 3.4.6.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from networks import mnist_test, wk_mnist
from torch import Tensor, nn

import autodual as ad
from autodual.bound.estimators.statistics import margin, tail

COUNTS = (10, 50, 100)


@torch.no_grad()
def widths(model: nn.Module, x: Tensor, estimator: ad.Cauchy | None) -> Tensor:
    """Return how far the bounds of every output lie apart, [N, K]."""
    net = ad.certify(model, 0.1, bounds="ibp+dual", estimator=estimator)
    box = net.relax(x).interval(net.graph.output)
    return box.upper - box.lower


def errors(model: nn.Module, x: Tensor) -> dict[int, Tensor]:
    """Return the relative errors of the estimated widths, by r."""
    exact = widths(model, x, None)
    known = exact > 1e-6
    found = {}
    for r in COUNTS:
        estimated = widths(model, x, ad.Cauchy(r))
        found[r] = ((estimated - exact) / exact)[known]
    return found


def coverage(draws: int) -> None:
    """Count violated high-probability bounds."""
    torch.manual_seed(0)
    layers = [nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 4)]
    model = nn.Sequential(*layers).double()
    x, y = torch.rand(1, 8, dtype=torch.float64), torch.tensor([0])
    exact = ad.certify(model, 0.05, bounds="dual", slopes="equal")(x, y).margins
    for delta in (0.01, 0.1, 0.5):
        estimator = ad.Geometric(r=50, repeats=2, delta=delta)
        net = ad.certify(model, 0.05, bounds="dual", estimator=estimator)
        broken, slack = 0, []
        for _ in range(draws):
            margins = net(x, y).margins
            broken += bool((margins > exact + 1e-9).any())
            slack.append(float((exact - margins).mean()))
        looser = sum(slack) / draws
        print(f"δ = {delta}: {broken} of {draws} violated; margins {looser:.3f} lower on average")


def constants() -> None:
    """Print thesis 3.4.6's example beside the constants computed here."""
    delta, estimates, repeats, r = 0.01, 6572, 10, 200
    each = (delta / estimates) ** (1 / repeats)
    t = margin(r, repeats, delta / estimates)
    print(f"3.4.6, δ = {delta}, N = {estimates}, {repeats} repeats, r = {r}:")
    print(f"  δ̂ = {each:.4f} (printed 0.26)")
    print(
        f"  t = {t:.4f} (printed 0.22); chance at 0.22: {tail(0.22, r):.4f}; "
        f"1/(1 − t) = {1 / (1 - t):.4f}"
    )


def plot(found: dict[str, dict[int, Tensor]], out: Path) -> None:
    """Draw the distributions of the relative error."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, len(found), figsize=(5 * len(found), 4), layout="constrained")
    for axis, (name, by_count) in zip(
        [axes] if len(found) == 1 else axes, found.items(), strict=True
    ):
        for r, error in by_count.items():
            axis.hist(
                error.clamp(-1, 2).numpy(), bins=60, density=True, histtype="step", label=f"r = {r}"
            )
        axis.set_title(name)
        axis.set_xlabel("relative error of the estimate")
        axis.legend()
    figure.savefig(out / "estimates.png", dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    random = nn.Sequential(
        nn.Conv2d(1, 16, 4, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
    )  # fmt: skip
    nets, x = {"random layer": random}, torch.rand(10, 1, 28, 28)
    if args.data is None:
        print("no --data: the trained layer is left out")
    else:
        nets["trained layer"] = wk_mnist(args.data)[:3]
        x = mnist_test(args.data)[0][:10]
    found = {name: errors(model, x) for name, model in nets.items()}
    for name, by_count in found.items():
        for r, error in by_count.items():
            low, middle, high = torch.quantile(error[:100_000], torch.tensor([0.05, 0.5, 0.95]))
            print(
                f"{name}, r = {r}: relative error median {middle:+.3f}, "
                f"5 % to 95 % from {low:+.3f} to {high:+.3f}, mean size {error.abs().mean():.3f}"
            )
    coverage(args.draws)
    constants()
    if args.out is not None:
        plot(found, args.out)


if __name__ == "__main__":
    main()
