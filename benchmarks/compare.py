"""How tight the bounds are, beside auto_LiRPA's CROWN, on many small models and four MNIST nets.

    python benchmarks/compare.py [--lirpa CHECKOUT] [--data PATH] [--models TEXT ...]

For each model of ``benchmarks/models`` the mean width of the bounds on its outputs: of autodual
with the thesis's equal slopes and by default, and of CROWN, on the same x and ε.
Every bound is tried with points that descend and climb inside the ball; one that a point crosses
counts for nothing. ``--models`` takes those whose names hold one of the texts. With ``--data``
also the mean margins of four nets on 50 MNIST images, and times of turns in one process.
"""

from __future__ import annotations

import argparse
import copy
import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from models import MODELS, Model
from networks import mnist_test, rvb, wk_mnist
from peers import LiRPA, others
from timing import alternate
from torch import Tensor, nn

import autodual as ad

BATCH = 4
IMAGES = 50
LOOSER = 0.01
"""By which share one width must exceed another to count as wider."""
ROUNDING = 1e-4

Ends = tuple[Tensor, Tensor]
Way = Callable[[nn.Module, Tensor, float], Ends]
"""(model, x, ε) → lower and upper bounds [N, K] on the outputs."""


def ways(peer: LiRPA | None) -> dict[str, Way]:
    """Return what bounds a model's outputs, by the name of the column."""

    def mine(**options: str) -> Way:
        def run(model: nn.Module, x: Tensor, eps: float) -> Ends:
            box = ad.certify(model, eps, **options).bounds(x)
            return box.lower, box.upper

        return run

    def crown(model: nn.Module, x: Tensor, eps: float) -> Ends:
        net = peer.module(copy.deepcopy(model), torch.empty_like(x))
        net.eval()
        inputs = (peer.tensor(x, peer.ball(norm=float("inf"), eps=eps)),)
        return net.compute_bounds(x=inputs, method="CROWN")

    found = {"equal": mine(slopes="equal"), "default": mine()}
    return found if peer is None else {**found, "CROWN": crown}


def reach(model: nn.Module, x: Tensor, eps: float, steps: int = 10) -> Ends:
    """Return the lowest and the highest outputs [N, K] that points of the ball were found to have.

    Random points and corners, and for some outputs signed gradients down and up.
    """
    generator = torch.Generator().manual_seed(0)
    low = high = model(x).flatten(1)

    def see(points: Tensor) -> Tensor:
        nonlocal low, high
        z = model(points).flatten(1)
        low, high = torch.minimum(low, z), torch.maximum(high, z)
        return z

    for i in range(32):
        noise = 2 * torch.rand(x.shape, generator=generator) - 1
        see(x + eps * (noise if i % 2 else noise.sign()))
    for k in range(min(low.shape[1], 4)):
        for sign in (-1, 1):
            point = x
            for _ in range(steps):
                point = point.detach().requires_grad_()
                (slope,) = torch.autograd.grad(see(point)[:, k].sum(), point)
                point = x + (point - x + sign * eps / 4 * slope.sign()).clamp(-eps, eps)
            see(point)
    return low.detach(), high.detach()


def holds(ends: Ends, seen: Ends) -> bool:
    """Return whether bounds hold everything that was seen."""
    (lower, upper), (low, high) = (tuple(e.flatten(1) for e in ends), seen)
    room = ROUNDING * (1 + low.abs().maximum(high.abs()))
    return bool((lower <= low + room).all() and (upper >= high - room).all())


def width(ends: Ends) -> float:
    return float((ends[1] - ends[0]).mean())


def measure(name: str, model: Model, jobs: dict[str, Way], notes: list[str]) -> dict[str, float]:
    """Return the mean width of each way with sound, finite bounds; note why others have none."""
    net, x = model.build(), model.inputs(BATCH)
    seen, found = reach(net, x, model.eps), {}
    for way, job in jobs.items():
        try:
            with torch.no_grad(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                ends = job(net, x, model.eps)
        except Exception as error:
            first = next(iter(str(error).strip().splitlines()), "")
            notes.append(f"{name}: {way}: {type(error).__name__}: {first[:140]}")
            continue
        if not holds(ends, seen):
            notes.append(f"{name}: {way}: UNSOUND, a point crosses it")
        elif not torch.isfinite(torch.stack(ends)).all():
            notes.append(f"{name}: {way}: not finite")
        else:
            found[way] = width(ends)
    return found


def verdict(mine: float | None, theirs: float | None) -> str:
    """Say whether the first is looser than the second, tighter, or neither."""
    if mine is None or theirs is None:
        return "–"
    if abs(mine - theirs) <= LOOSER * min(mine, theirs) + 1e-6:
        return "equal"
    return "LOOSER" if mine > theirs else "tighter"


def widths(names: Sequence[str], peer: LiRPA | None) -> None:
    """Print a line per model and what they come to."""
    jobs, notes = ways(peer), list[str]()
    rows = []
    print(f"\nmean widths\n{'model':52}" + "".join(f"{way:>10}" for way in jobs))
    for name in names:
        found = measure(name, MODELS[name], jobs, notes)
        said = [verdict(found.get(way), found.get("CROWN")) for way in ("equal", "default")]
        cells = "".join(f"{found[way]:10.4g}" if way in found else f"{'–':>10}" for way in jobs)
        print(f"{name:52}{cells}   {said[0]:8} {said[1]}", flush=True)
        rows.append(said)
    for i, way in enumerate(("equal", "default")):
        counts = {
            word: sum(row[i] == word for row in rows) for word in ("LOOSER", "equal", "tighter")
        }
        both = sum(counts.values())
        told = ", ".join(f"{word.lower()} {count}" for word, count in counts.items())
        print(f"{way} against CROWN on {both} models that both bound: {told}")
    print("\n".join(notes))


def margins(data: Path, peer: LiRPA | None, runs: int) -> None:
    """Print the mean margins of four nets, and how long each way takes beside the default."""
    x, y = (part[:IMAGES] for part in mnist_test(data))
    nets = (
        ("wk_mnist", wk_mnist(data), 0.1),
        ("wk_mnist", wk_mnist(data), 0.2),
        ("LPD_MLP_B_0.1", rvb(data, "LPD_MLP_B_0.1"), 0.1),
        ("ADV_MLP_B_0.03", rvb(data, "ADV_MLP_B_0.03"), 0.03),
    )
    print(f"\nmean margins, and times as multiples of the default's\n{'net':16}{'ε':>6}")
    for name, model, eps in nets:
        spec = others(y, 10)
        jobs = {
            "equal": _lower(model, x, eps, spec, "equal"),
            "default": _lower(model, x, eps, spec),
        }
        if peer is not None:
            jobs["CROWN"] = _crown(peer, model, x, eps, spec)
        with torch.no_grad(), redirect_stdout(StringIO()):
            mean = {way: float(job().mean()) for way, job in jobs.items()}
            seconds = alternate(jobs, runs)
        cells = [
            f"{way} {mean[way]:8.2f} ×{seconds[way] / seconds['default']:5.2f}" for way in jobs
        ]
        print(f"{name:16}{eps:6g}   {'   '.join(cells)}", flush=True)


def _lower(
    model: nn.Module, x: Tensor, eps: float, spec: Tensor, slopes: str | None = None
) -> Callable[[], Tensor]:
    net = ad.certify(model, eps, **({} if slopes is None else {"slopes": slopes}))
    return lambda: net.lower_bound(x, spec)


def _crown(
    peer: LiRPA, model: nn.Module, x: Tensor, eps: float, spec: Tensor
) -> Callable[[], Tensor]:
    net = peer.module(model, torch.empty_like(x))
    ball = peer.ball(norm=float("inf"), eps=eps)

    def run() -> Tensor:
        inputs = (peer.tensor(x, ball),)
        return net.compute_bounds(x=inputs, C=spec, method="CROWN", bound_upper=False)[0]

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lirpa", type=Path, help="a checkout of auto_LiRPA")
    parser.add_argument("--data", type=Path, help="the folder with nets/ and mnist/")
    parser.add_argument("--runs", type=int, default=5, help="turns of the MNIST nets")
    parser.add_argument("--models", nargs="*", help="texts in the names of the models; none: skip")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable()
    peer = None if args.lirpa is None else LiRPA(args.lirpa)
    if args.data is not None:
        margins(args.data, peer, args.runs)
    texts = [""] if args.models is None else args.models
    names = [name for name in MODELS if any(text in name for text in texts)]
    if names:
        widths(names, peer)


if __name__ == "__main__":
    main()
