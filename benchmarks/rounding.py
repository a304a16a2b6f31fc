"""What rounding does to bounds, and what it costs to bound that.

Dense nets made to defeat plain bounds are evaluated exactly, in integers, at corners of the set and
inside: by how many cases (a point and a row of C each) a lower bound is wrong. Then the time of
searches, of linear programs and of bounds that are rounded outward beside plain ones, and how much
looser margins are.

python benchmarks/rounding.py [--cases 1000000] [--data PATH]
"""

from __future__ import annotations

import argparse
import copy
import itertools
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from networks import mnist_test, rvb, wk_mnist
from torch import Tensor, nn

import autodual as ad

METHODS: dict[str, dict[str, object]] = {
    "ibp": {"bounds": "ibp"},
    "ibp+dual": {"bounds": "ibp+dual"},
    "dual": {"bounds": "dual"},
    "ibp&dual": {"bounds": "ibp&dual"},
    "optimised": {"optimize": ad.Steps(3, 2)},
}
INPUTS, UNITS, OUTPUTS, BATCH, ROWS = 6, 8, 3, 32, 4


def paired(net: nn.Sequential) -> float:
    """Give units twins that differ in the last digits, and let the next layer subtract them."""
    scale = 2.0 ** random.randrange(24)
    linear = net[::2]
    for layer in linear[:-1]:
        layer.weight.mul_(scale)
        layer.weight[1::2] = layer.weight[::2] + torch.randn_like(layer.weight[::2])
        layer.bias.mul_(scale)
        layer.bias[1::2] = layer.bias[::2]
    linear[-1].weight[:, 1::2] = -linear[-1].weight[:, ::2]
    return random.choice([0.0, 1e-6, 0.1])


def ordered(net: nn.Sequential) -> float:
    """Let sums begin with large terms, which cancel at their end."""
    for layer in net[::2]:
        large = 2.0 ** random.randrange(10, 30)
        layer.weight[:, 0] += large
        layer.weight[:, -1] -= large
    return random.choice([0.0, 2.0**-20])


def subnormal(net: nn.Sequential) -> float:
    """Take weights whose products underflow."""
    net[0].weight.mul_(torch.finfo(net[0].weight.dtype).tiny * 2.0 ** random.randrange(-12, 12))
    net[0].bias.mul_(torch.finfo(net[0].weight.dtype).tiny)
    return 0.01


def huge(net: nn.Sequential) -> float:
    """Take weights whose sums nearly overflow, or do."""
    net[0].weight.mul_(torch.finfo(net[0].weight.dtype).max * 2.0 ** random.randrange(-16, -4))
    return random.choice([0.0, 0.01])


def hairline(net: nn.Sequential) -> float:
    """Make units stable, or unstable, by less than the last digit."""
    eps = 0.1
    net[0].bias.copy_(-eps * net[0].weight.abs().sum(1))
    return eps


def plain(net: nn.Sequential) -> float:
    """Leave the weights as they are."""
    return random.choice([0.0, 1e-3, 0.1])


FAMILIES = paired, ordered, subnormal, huge, hairline, plain


def whole(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Return integers and an exponent s: floats are these times 2^−s."""
    mantissas, exponents = np.frexp(values.astype(np.float64))
    shift = 53 - int(exponents[values != 0].min(initial=0))
    flat = [
        int(m) << (int(e) - 53 + shift) if v else 0
        for m, e, v in zip(
            np.ldexp(mantissas, 53).ravel(), exponents.ravel(), values.ravel(), strict=True
        )
    ]
    found = np.empty(len(flat), dtype=object)
    found[:] = flat
    return found.reshape(values.shape), shift


def exact(net: nn.Sequential, points: np.ndarray, shift: int) -> tuple[np.ndarray, int]:
    """Return outputs [K, P] at points [n, P], both integers times 2^−shift."""
    for layer in net:
        if isinstance(layer, nn.ReLU):
            points = np.maximum(points, 0)
            continue
        weight, w = whole(layer.weight.detach().numpy())
        bias, b = whole(layer.bias.detach().numpy())
        points, shift = weight.dot(points), shift + w
        common = max(shift, b)
        points = points * 2 ** (common - shift) + bias[:, None] * 2 ** (common - b)
        shift = common
    return points, shift


def corners(net: nn.Sequential, x: Tensor, C: Tensor, eps: float) -> Iterator[np.ndarray]:
    """Yield directions [N, n] in {−1, 0, 1}: against each row's gradient, random, and the center.

    Points are x + direction·ε.
    """
    for row in C:
        z = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((net(z) @ row).sum(), z)
        yield -gradient.sign().numpy()
    for _ in range(3):
        yield np.sign(np.random.randn(*x.shape))
    yield np.zeros(x.shape)


def violated(low: Tensor, C: Tensor, values: np.ndarray, shift: int) -> np.ndarray:
    """Return [S, N] where a lower bound [N, S] exceeds C z for outputs z [K, N] · 2^−shift."""
    rows, r = whole(C.numpy())
    bound, b = whole(np.where(np.isfinite(low.T.numpy()), low.T.numpy(), 0))
    common = max(shift + r, b)
    over = bound * 2 ** (common - b) > rows.dot(values) * 2 ** (common - shift - r)
    return over & np.isfinite(low.T.numpy())


def cases(wanted: int) -> None:
    """Count the cases in which bounds are wrong, and print them by family."""
    wrong, done, lost = Counter[object](), Counter[object](), Counter[object]()
    nets = {}
    for dtype, hidden in itertools.product((torch.float32, torch.float64), (0, 1, 2)):
        sizes = [INPUTS, *[UNITS] * hidden, OUTPUTS]
        layers = [m for n, k in itertools.pairwise(sizes) for m in (nn.Linear(n, k), nn.ReLU())]
        net = nn.Sequential(*layers[:-1]).to(dtype)
        kinds = itertools.product(METHODS, (None, "outward"))
        nets[dtype, hidden] = (
            net,
            {k: ad.certify(net, 0.0, **METHODS[k[0]], rounding=k[1]) for k in kinds},
        )
    turn = itertools.cycle(itertools.product(nets, FAMILIES))
    start = time.perf_counter()
    while sum(done.values()) < wanted:
        (dtype, hidden), family = next(turn)
        net, bounds = nets[dtype, hidden]
        with torch.no_grad():
            for layer in net[::2]:
                layer.reset_parameters()
            eps = family(net)
        x = torch.randn(BATCH, INPUTS, dtype=dtype)
        x = torch.zeros_like(x) if family is hairline else x
        C = torch.randn(ROWS, OUTPUTS, dtype=dtype)
        low = {k: b.at(eps).lower_bound(x, C).detach() for k, b in bounds.items()}
        center, s = whole(x.numpy().T)
        step, e = whole(np.array([eps]))
        shift = max(s, e)
        for direction in corners(net, x, C, eps):
            moved = direction.T.astype(int).astype(object) * int(step[0]) * 2 ** (shift - e)
            values, scale = exact(net, center * 2 ** (shift - s) + moved, shift)
            for kind, bound in low.items():
                found = violated(bound, C, values, scale)
                wrong[(family.__name__, *kind)] += int(found.sum())
            done[family.__name__] += found.size
        for kind, bound in low.items():
            lost[(family.__name__, *kind)] += int((~bound.isfinite()).sum())
    seconds = time.perf_counter() - start
    count = sum(done.values())
    print(f"{count} cases, each for {len(METHODS)} methods, plain and outward, {seconds:.0f} s")
    print("wrong, plain / outward (bounds of −∞, plain / outward)")
    for family in FAMILIES:
        name = family.__name__
        told = "  ".join(
            f"{m} {wrong[name, m, None]} / {wrong[name, m, 'outward']} "
            f"({lost[name, m, None]} / {lost[name, m, 'outward']})"
            for m in METHODS
        )
        print(f"  {name:10} {done[name]:8}  {told}")
    assert not any(count for key, count in wrong.items() if key[-1] == "outward")


def costs(data: Path, batch: int, rounds: int) -> None:
    """Print times (of the processor) and margins of bounds, taken in turn in one process."""
    x, y = mnist_test(data)
    x, y = x[:batch], y[:batch]
    models: list[tuple[str, nn.Module, ad.LinfBall]] = [
        ("wk_mnist", wk_mnist(data), ad.LinfBall(0.1)),
        ("rvb LPD", rvb(data, "LPD_MLP_B_0.1"), ad.LinfBall(0.1, (0, 1))),
        ("residual", residual(), ad.LinfBall(0.01)),
    ]
    print(
        "net, dtype, bounds: plain s, outward s, ratio, deployed ratio, of bfloat16; verified so;"
    )
    print("  how much lower margins are, relative to |margin|: median, and to the largest output")
    for (name, model, threat), dtype in itertools.product(models, (torch.float32, torch.float64)):
        model, z = model.to(dtype), x.to(dtype)
        scale = float(model(z).detach().abs().max())
        for method in METHODS:
            kinds = [None, "outward", "deployed"]
            kinds += ["bfloat16"] if dtype == torch.float32 else []
            stored = {"bfloat16": copy.deepcopy(model).bfloat16().float()}
            inputs = {"bfloat16": z.bfloat16().float()}
            nets = {
                r: ad.certify(stored.get(r, model), threat, **METHODS[method], rounding=r)
                for r in kinds
            }
            seconds: dict[str | None, list[float]] = {r: [] for r in kinds}
            found: dict[str | None, ad.Certificate] = {}
            for _, kind in itertools.product(range(rounds + 1), kinds):
                begin = time.process_time()
                found[kind] = nets[kind](inputs.get(kind, z), y)
                seconds[kind].append(time.process_time() - begin)
            first, *others = (statistics.median(seconds[r][1:]) for r in kinds)
            ratios = " ".join(f"{other / first:.2f}" for other in others)
            here = found[None].margins != 0
            lost = (found[None].margins - found["outward"].margins)[here]
            share = lost / found[None].margins[here].abs()
            counts = " / ".join(str(int(found[r].verified.sum())) for r in kinds)
            print(
                f"{name:9} {str(dtype)[6:]} {method:9} {first:.3f} {others[0]:.3f}  "
                f"{ratios}  {counts}  "
                f"{float(share.median()):.1e} {float(lost.median()) / scale:.1e}"
            )


def programs(data: Path) -> None:
    """Print times of linear programs and the bounds they come to, plain and outward, in float64."""
    C = (torch.eye(10)[:3] - torch.eye(10)[3:6]).double()
    x = mnist_test(data)[0][:5].double()
    models = (
        (wk_mnist(data), ad.LinfBall(0.1)),
        (rvb(data, "LPD_MLP_B_0.1"), ad.LinfBall(0.1, (0, 1))),
    )
    print("linear programs: plain s, outward s; mean bound, plain, outward")
    for model, threat in models:
        nets = [ad.certify(model.double(), threat, rounding=r) for r in (None, "outward")]
        nets[0].lp(x[:1], C)  # what is loaded once
        seconds, found = [], []
        for net in nets:
            begin = time.process_time()
            found.append(float(net.lp(x, C).mean()))
            seconds.append(time.process_time() - begin)
        print(f"  {seconds[0]:.2f} {seconds[1]:.2f}  {found[0]:.9f} {found[1]:.9f}")


def searches() -> None:
    """Print times and sub-problems of searches over boxes of five inputs, plain and outward."""
    print("searches, 5 inputs, three layers of 24: plain s, outward s; sub-problems; verdicts")
    for seed in range(3):
        torch.manual_seed(seed)
        layers = [m for n in (5, 24, 24) for m in (nn.Linear(n, 24), nn.ReLU())]
        net = nn.Sequential(*layers, nn.Linear(24, 3)).double()
        with torch.no_grad():
            most = float(net(2 * torch.rand(200_000, 5).double() - 1).amax(0)[0])
        region, asked = ad.Region(-torch.ones(5), torch.ones(5)), ad.Y[0] < round(most + 0.03, 1)
        seconds, found = [], []
        for rounding in (None, "outward"):
            begin = time.process_time()
            found.append(ad.verify(net, region, asked, timeout=60, rounding=rounding))
            seconds.append(time.process_time() - begin)
        count, status = ([getattr(v, name) for v in found] for name in ("bounded", "status"))
        print(f"  {seconds[0]:.2f} {seconds[1]:.2f}  {count}  {status}")


class Block(nn.Module):
    """z ↦ relu(z + f(z)), f two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, z: Tensor) -> Tensor:
        """Add the input."""
        return torch.relu(z + self.inner(z))


def residual() -> nn.Module:
    """Return a small residual network for MNIST, as it is initialised."""
    start = nn.Conv2d(1, 8, 4, stride=4), nn.ReLU(), Block(8), Block(8)
    return nn.Sequential(*start, nn.Flatten(), nn.Linear(8 * 49, 10))


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--data", type=Path, help="the folder with nets/ and mnist/")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    np.random.seed(args.seed)
    random.seed(args.seed)
    if args.cases:
        cases(args.cases)
    searches()
    if args.data:
        programs(args.data)
        costs(args.data, args.batch, args.rounds)


if __name__ == "__main__":
    main()
