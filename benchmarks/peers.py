"""autodual beside its peers in one process, taking turns: ratios, floors, a table and a plot.

    python benchmarks/peers.py --data PATH [--lirpa PATH] [--runs 5] [--all] [--resnet]
                               [--compile] [--out DIR]

``--lirpa`` is a checkout of auto_LiRPA; convex_adversarial is used if it is installed. Bounds are
compared before anything is timed: autodual's must be equal or tighter.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import torch
import torch.nn.functional as F
from networks import mnist_test, thesis_resnet, wk_mnist
from timing import Job, alternate, count_flops, gemm_rate, peak_gigabytes
from torch import Tensor, nn

import autodual as ad

OPSET = 12
"""The version of ONNX that auto_LiRPA asks torch for."""

CLOSE = 1e-3
"""How far below a peer's margins autodual's may lie, relative to their size: float32 rounding."""


def others(y: Tensor, classes: int) -> Tensor:
    """Return the rows e_y − e_k for k ≠ y, [N, K − 1, K]."""
    unit = torch.eye(classes)
    rank = torch.arange(classes - 1)
    return unit[y].unsqueeze(1) - unit[rank + (rank >= y.unsqueeze(1))]


def margin_loss(margins: Tensor) -> Tensor:
    """The robust loss of margins [N, K − 1]."""
    logits = F.pad(-margins, (1, 0))
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


class AutoDual:
    """The jobs of autodual."""

    name = "autodual"

    def __init__(self, compile: bool = False) -> None:
        self.compile = compile

    def margins(self, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Callable[[], Tensor]:
        net = ad.certify(model, eps, memory="4GB", compile=self.compile, slopes="equal")

        def run() -> Tensor:
            found = net(x, y).margins
            return found.gather(1, others(y, found.shape[1]).argmin(2))

        return run

    def step(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, method: str, r: int = 0
    ) -> Job:
        bounds = {"exact": "ibp&dual", "cauchy": "ibp&dual"}.get(method, method)
        estimator = ad.Cauchy(r) if r else None
        options = {"estimator": estimator, "compile": self.compile, "slopes": "equal"}
        net = ad.certify(model, eps, bounds=bounds, **options)
        return lambda: ad.robust_loss(net, x, y).backward()


def _translate_as_before() -> None:
    """Have torch ≥ 2.9 write graphs out as auto_LiRPA reads them.

    It no longer loads what knows the newer forms of ops on its own, and falls back to old ones:
    clamps are then refused, and squares get a bound that does not hold.
    """
    exporter = "torch.onnx._internal.torchscript_exporter"
    if importlib.util.find_spec(exporter) is None:
        return
    for opset in range(10, OPSET + 1):
        importlib.import_module(f"{exporter}.symbolic_opset{opset}")
    importlib.import_module(f"{exporter}._globals").GLOBALS.export_onnx_opset_version = OPSET


class LiRPA:
    """The jobs of auto_LiRPA, with the slope of the thesis so that the bounds are the same."""

    name = "auto_LiRPA"
    methods: ClassVar = {"exact": "CROWN", "ibp": "IBP", "ibp+dual": "CROWN-IBP"}

    def __init__(self, path: Path) -> None:
        sys.path.insert(0, str(path))
        _translate_as_before()
        from auto_LiRPA import BoundedModule, BoundedTensor
        from auto_LiRPA.perturbations import PerturbationLpNorm

        self.module, self.tensor, self.ball = BoundedModule, BoundedTensor, PerturbationLpNorm

    def bound(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, method: str
    ) -> Callable[[], Tensor]:
        options = {"activation_bound_option": "same-slope"}
        net = self.module(model, torch.empty_like(x), bound_opts=options)
        ball = self.ball(norm=float("inf"), eps=eps)
        spec = others(y, model(x[:1]).shape[1])

        def run() -> Tensor:
            inputs = (self.tensor(x, ball),)
            return net.compute_bounds(x=inputs, C=spec, method=method, bound_upper=False)[0]

        return run

    def margins(self, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Callable[[], Tensor]:
        return torch.no_grad()(self.bound(model, x, y, eps, "CROWN"))

    def step(self, model: nn.Module, x: Tensor, y: Tensor, eps: float, method: str) -> Job:
        bound = self.bound(model, x, y, eps, self.methods[method])
        return lambda: margin_loss(bound()).backward()


class ConvexAdversarial:
    """The jobs of convex_adversarial."""

    name = "convex_adversarial"

    def __init__(self) -> None:
        import convex_adversarial

        self.package: ModuleType = convex_adversarial

    def margins(self, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Callable[[], Tensor]:
        spec = others(y, model(x[:1]).shape[1])

        @torch.no_grad()
        def run() -> Tensor:
            dual = self.package.DualNetwork(model, x, eps, bounded_input=False)
            return dual(spec)

        return run

    def step(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, method: str, r: int = 0
    ) -> Job:
        options = {"proj": r, "norm_type": "l1_median"} if r else {}
        return lambda: self.package.robust_loss(model, eps, x, y, **options)[0].backward()


@dataclass
class Row:
    """One line of the table: the work, each program's median seconds, autodual's FLOPs."""

    work: str
    seconds: dict[str, float]
    flops: int

    def ratio(self, peer: str) -> float:
        return self.seconds[peer] / self.seconds["autodual"]


def compare(work: str, jobs: dict[str, Job], runs: int) -> Row:
    """Time jobs in turns."""
    row = Row(work, alternate(jobs, runs), count_flops(jobs["autodual"]))
    shown = ", ".join(f"{name} {1e3 * s:.1f} ms" for name, s in row.seconds.items())
    print(f"{work}: {shown}", flush=True)
    return row


def check(found: dict[str, Tensor]) -> None:
    """Raise if autodual's margins are looser than a peer's."""
    mine = found["autodual"]
    for name, theirs in found.items():
        below = float(((theirs - mine) / (1 + theirs.abs())).max())
        above = float((mine - theirs).mean())
        print(f"  margins: at most {below:.1e} (relative) below {name}'s, on average {above:+.1e}")
        assert below <= CLOSE, f"autodual is looser than {name}"


def thesis_net(
    data: Path, peers: list[LiRPA | ConvexAdversarial], runs: int, compiled: bool
) -> tuple[list[Row], nn.Module]:
    """Everything on the small MNIST net of the thesis."""
    model, (x, y), eps = wk_mnist(data), mnist_test(data), 0.1
    x, y = x[:50], y[:50]
    mine, rows = AutoDual(), []

    def fresh(job: Job) -> Job:
        def run() -> None:
            model.zero_grad()
            job()

        return run

    for work, count in (("certify, batch 50", 50), ("certify one image", 1)):
        jobs = {p.name: p.margins(model, x[:count], y[:count], eps) for p in (mine, *peers)}
        check({name: job() for name, job in jobs.items()})
        if compiled and count == 1:
            jobs["compiled"] = AutoDual(compile=True).margins(model, x[:1], y[:1], eps)
        rows.append(compare(work, jobs, max(runs, 25) if count == 1 else runs))
    jobs = {p.name: fresh(p.step(model, x, y, eps, "exact")) for p in (mine, *peers)}
    rows.append(compare("training step, batch 50, exact", jobs, runs))
    convex = [p for p in peers if isinstance(p, ConvexAdversarial)]
    for r in (50, 10):
        jobs = {p.name: fresh(p.step(model, x, y, eps, "cauchy", r)) for p in (mine, *convex)}
        rows.append(compare(f"training step, batch 50, Cauchy r = {r}", jobs, runs))
    lirpa = [p for p in peers if isinstance(p, LiRPA)]
    for method in ("ibp+dual", "ibp"):
        jobs = {p.name: fresh(p.step(model, x, y, eps, method)) for p in (mine, *lirpa)}
        if compiled:
            jobs["compiled"] = fresh(AutoDual(compile=True).step(model, x, y, eps, method))
        if method == "ibp":
            jobs["plain step"] = fresh(lambda: F.cross_entropy(model(x), y).backward())
        rows.append(compare(f"{method} training step, batch 50", jobs, max(runs, 25)))
    return rows, model


def whole_test_set(data: Path, model: nn.Module) -> None:
    """Certify all 10,000 images once."""
    net, (x, y) = ad.certify(model, 0.1, slopes="equal"), mnist_test(data)
    net(x[:50], y[:50])
    start = time.perf_counter()
    wrong = sum(
        int((~net(a, b).verified).sum()) for a, b in zip(x.split(50), y.split(50), strict=True)
    )
    print(f"10,000 MNIST test images, exact: {time.perf_counter() - start:.1f} s, {wrong} errors")


def resnet(peers: list[LiRPA | ConvexAdversarial], runs: int) -> list[Row]:
    """The thesis's CIFAR ResNet with random weights, ε = 2/255."""
    torch.manual_seed(0)
    model = thesis_resnet().eval()
    x, y = torch.rand(16, 3, 32, 32), torch.zeros(16, dtype=torch.long)
    mine = AutoDual().margins(model, x[:2], y[:2], 2 / 255)
    jobs: dict[str, Job] = {"autodual": mine}
    found = {"autodual": mine()}
    print(f"ResNet, batch 2: autodual has held {peak_gigabytes():.2f} GB at most")
    start = time.perf_counter()
    AutoDual().margins(model, x, y, 2 / 255)()
    print(f"  batch 16: {time.perf_counter() - start:.1f} s, {peak_gigabytes():.2f} GB")
    for peer in peers:
        if isinstance(peer, LiRPA):
            jobs[peer.name] = peer.margins(model, x[:2], y[:2], 2 / 255)
            found[peer.name] = jobs[peer.name]()
            print(f"  with {peer.name}: {peak_gigabytes():.2f} GB")
    check(found)
    return [compare("ResNet, batch 2, exact", jobs, runs)]


def report(rows: list[Row], rate: float, out: Path | None) -> None:
    """Print the table in Markdown; write it and a plot where asked."""
    peers = [n for n in ("auto_LiRPA", "convex_adversarial") if any(n in r.seconds for r in rows)]
    lines = [
        f"| work | autodual | {' | '.join(peers)} | {' | '.join(f'× {p}' for p in peers)} "
        "| floor | × floor |",
        "|---" * (2 * len(peers) + 4) + "|",
    ]
    notes = []
    for row in rows:
        cells = [row.work, _time(row.seconds["autodual"])]
        cells += [_time(row.seconds[p]) if p in row.seconds else "–" for p in peers]
        cells += [f"{row.ratio(p):.1f}" if p in row.seconds else "–" for p in peers]
        floor = row.flops / rate
        cells += [_time(floor), f"{row.seconds['autodual'] / floor:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
        if "compiled" in row.seconds:
            gain = row.seconds["autodual"] / row.seconds["compiled"]
            notes.append(f"{row.work}: compile=True is {gain:.2f} × as fast")
        if "plain step" in row.seconds:
            plain = row.seconds["autodual"] / row.seconds["plain step"]
            notes.append(f"{row.work}: {plain:.2f} × the plain step")
    table = "\n".join([*lines, "", *notes])
    print(
        f"\nmatrix products: {rate / 1e9:.0f} GFLOP/s, {torch.get_num_threads()} threads\n{table}"
    )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "peers.md").write_text(table + "\n")
        _plot(rows, peers, out / "peers.png")


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.1f} ms"


def _plot(rows: list[Row], peers: list[str], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 0.6 * len(rows) + 1.5), layout="constrained")
    height = 0.8 / max(1, len(peers))
    for i, peer in enumerate(peers):
        at = [j + i * height for j, row in enumerate(rows) if peer in row.seconds]
        ratios = [row.ratio(peer) for row in rows if peer in row.seconds]
        bars = axes.barh(at, ratios, height, label=peer)
        axes.bar_label(bars, fmt="%.1f ×", padding=3)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yticks([j + height / 2 for j in range(len(rows))], [row.work for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("times as long as autodual takes")
    axes.margins(x=0.15)
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder with nets/ and mnist/")
    parser.add_argument("--lirpa", type=Path, help="a checkout of auto_LiRPA")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--all", action="store_true", help="also all 10,000 test images")
    parser.add_argument("--resnet", action="store_true", help="also the CIFAR ResNet (minutes)")
    parser.add_argument("--compile", action="store_true", help="also autodual with compile=True")
    parser.add_argument("--out", type=Path, help="a folder for the table and the plot")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    peers: list[LiRPA | ConvexAdversarial] = []
    if args.lirpa is None:
        print("no --lirpa: auto_LiRPA is left out")
    else:
        peers.append(LiRPA(args.lirpa))
    try:
        peers.append(ConvexAdversarial())
    except ImportError:
        print("convex_adversarial is not installed and is left out")
    rate = gemm_rate()
    rows, model = thesis_net(args.data, peers, args.runs, args.compile)
    if args.all:
        whole_test_set(args.data, model)
    if args.resnet:
        rows += resnet(peers, args.runs)
    report(rows, rate, args.out)


if __name__ == "__main__":
    main()
