"""Wasserstein balls on MNIST: a net trained for its certificate, attacks, and thesis Figure 5.4.

python benchmarks/wasserstein.py --data PATH [--minutes 6] [--images 200] [--plot wasserstein.png]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from networks import mnist_test, wk_mnist
from torch import Tensor, nn

import autodual as ad

mpl.use("Agg")
import matplotlib.pyplot as plt


def mnist_train(data: Path) -> tuple[Tensor, Tensor]:
    archive = np.load(data / "mnist/train.npz")
    images = torch.tensor(archive["images"]).float().unsqueeze(1) / 255
    return images, torch.tensor(archive["labels"]).long()


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 4, stride=4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(392, 50),
        nn.ReLU(),
        nn.Linear(50, 10),
    )


def train(
    model: nn.Module, x: Tensor, y: Tensor, ball: ad.Wasserstein | None, seconds: float, batch: int
) -> None:
    """Train for a time: plainly, or against the bound with ε growing over the first two thirds."""
    start, step = time.perf_counter(), 0
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    while (share := (time.perf_counter() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, 3.5 * (1 - share))
        pick = torch.randint(len(x), (batch,), generator=generator)
        optimizer.zero_grad()
        if ball is None or step < 100:
            loss = nn.functional.cross_entropy(model(x[pick]), y[pick])
        else:
            eps = float(ball.eps) * min(1.0, max(0.02, share / 0.65))
            loss = ad.robust_loss(model, x[pick], y[pick], ball.with_eps(eps))
        loss.backward()
        optimizer.step()
        step += 1
        if step % 50 == 0:
            print(
                f"  step {step}, {100 * share:.0f} % of the time, loss {float(loss.detach()):.3f}"
            )
    print(f"  {step} steps of {batch}")


def report(name: str, model: nn.Module, x: Tensor, y: Tensor, ball: ad.Wasserstein) -> None:
    """Print clean, attacked and certified accuracy, and the time per image."""
    clean = model(x).argmax(1) == y
    start = time.perf_counter()
    attacked = ~ad.attack.wasserstein(model, x, y, ball, steps=50).success
    attack_time = time.perf_counter() - start
    start = time.perf_counter()
    net = ad.certify(model, ball)
    certified = torch.cat(
        [_verified(net, x[i : i + 20], y[i : i + 20]) for i in range(0, len(x), 20)]
    )
    certify_time = time.perf_counter() - start
    assert bool((attacked | ~certified).all()), "an attack crossed the bound"
    numbers = [100 * float(v.double().mean()) for v in (clean, attacked, certified)]
    print(
        f"{name:24} {ball}: clean {numbers[0]:.1f} %, attacked {numbers[1]:.1f} %, "
        f"certified {numbers[2]:.1f} % of {len(x)}; {1e3 * attack_time / len(x):.0f} and "
        f"{1e3 * certify_time / len(x):.0f} ms an image"
    )


def fooled_at(
    name: str, model: nn.Module, x: Tensor, y: Tensor, method: str, begin: float
) -> Tensor:
    """Return the ε at which each image was fooled, sorted, as ε grows by 1.15 every 5 steps."""
    start = time.perf_counter()
    found = ad.attack.wasserstein(
        model, x, y, begin, method=method, steps=200, growth=1.15, every=5
    )
    seconds = time.perf_counter() - start
    reached = torch.where(found.success, found.eps, torch.inf).sort().values
    print(
        f"{name:24} {method}: ε that fools half of {len(x)} images "
        f"{float(reached[len(x) // 2]):.3f}; {1e3 * seconds / len(x):.0f} ms an image"
    )
    return reached


def _verified(net: ad.Certified, x: Tensor, y: Tensor) -> Tensor:
    certificate = net(x, y)
    assert isinstance(certificate, ad.Certificate)
    return certificate.verified


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder with nets/ and mnist/")
    parser.add_argument("--minutes", type=float, default=6, help="time to train for the bound")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--eps", type=float, default=0.05)
    parser.add_argument("--sinkhorn", type=int, default=10, help="images for Algorithm 8")
    parser.add_argument("--plot", type=Path, default=Path("wasserstein.png"))
    args = parser.parse_args()
    x, y = mnist_train(args.data)
    test_x, test_y = (t[: args.images] for t in mnist_test(args.data))
    ball = ad.Wasserstein(args.eps)
    standard, robust = small_net(), small_net()
    train(standard, x, y, None, min(20, 10 * args.minutes), 128)
    train(robust, x, y, ball, 60 * args.minutes, args.batch)
    nets = {
        "standard": standard,
        "trained for its bound": robust,
        "wk_mnist (ℓ∞ 0.1)": wk_mnist(args.data),
    }
    for name in ("standard", "trained for its bound"):
        report(name, nets[name], test_x, test_y, ball)
    for name, model in nets.items():
        curve = fooled_at(name, model, test_x, test_y, "conjugate", 0.02)
        plt.step(curve.clamp(max=2), 1 - torch.arange(1, len(curve) + 1) / len(curve), label=name)
        fooled_at(name, model, test_x[: args.sinkhorn], test_y[: args.sinkhorn], "sinkhorn", 0.3)
    plt.xlabel("radius ε of the Wasserstein ball")
    plt.ylabel("accuracy under the attack")
    plt.legend()
    plt.savefig(args.plot, dpi=120)
    print(f"wrote {args.plot}")


if __name__ == "__main__":
    main()
