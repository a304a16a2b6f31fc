"""Two processes that share each batch against one: the same losses, and how many images a second.

    python benchmarks/ranks.py --data PATH [--ranks 2] [--epochs 3] [--examples 4000]

Each process has one thread. The training is against a bound, without noise, by gradient descent,
so that losses differ by rounding alone; each step's loss is the mean over the processes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from experiments import UNIT, fitted, seeded

import autodual as ad
from autodual import train
from autodual.files import load, save
from autodual.train.nets import small


class Losses(train.Hook):
    """Keeps each step's loss over all processes."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def after_step(self, state: train.State, loss: float) -> None:
        total = torch.tensor(loss, dtype=torch.float64)
        if dist.is_initialized():
            dist.all_reduce(total)
            total /= dist.get_world_size()
        self.found.append(float(total))


def training(args: argparse.Namespace, out: Path) -> None:
    """What each process does; the first writes what came of it."""
    torch.set_num_threads(1)
    if args.ranks > 1:
        dist.init_process_group("gloo")
    data, losses = train.load_data(args.data / "mnist").first(args.examples), Losses()
    recipe = train.Recipe(
        loss=train.Robust(fused=True),
        epochs=args.epochs,
        batch=args.batch,
        eps=train.Ramp(0, 1, 0, args.epochs),
        optimizer=partial(torch.optim.SGD, lr=0.05),
        clip=1.0,
    )
    model, ball = seeded(0, lambda: small((1, 28, 28), 10)), ad.LinfBall(0.1, domain=UNIT)
    began = time.perf_counter()
    fitted(model, ball, (data.x, data.y), recipe, hooks=[losses], bounds="ibp+dual")
    seconds = time.perf_counter() - began
    if not dist.is_initialized() or dist.get_rank() == 0:
        save({"losses": losses.found, "seconds": seconds, "model": model.state_dict()}, out)
    if dist.is_initialized():
        dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder with mnist/")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--examples", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=Path("out/ranks"))
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--batch", type=int, default=100, help="of all processes together")
    parser.add_argument("--train", type=Path)
    args = parser.parse_args()
    if args.examples % args.batch or args.batch % args.ranks:
        parser.error("every process needs as many images: --examples, --batch and --ranks divide")
    if args.train is not None:
        training(args, args.train)
        return
    found = {}
    for ranks in (1, args.ranks):
        out, own = args.out / f"{ranks}.pt", ["--ranks", str(ranks)]
        own += ["--data", str(args.data), "--train", str(out), "--batch", str(args.batch)]
        own += ["--epochs", str(args.epochs), "--examples", str(args.examples)]
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        subprocess.run([sys.executable, *torchrun, __file__, *own], check=True)
        found[ranks] = load(out)
        rate = args.epochs * args.examples / found[ranks]["seconds"]
        print(f"processes: {ranks}, images a second: {rate:.0f}", flush=True)
    one, more = found[1], found[args.ranks]
    far = max(abs(a - b) / abs(a) for a, b in zip(one["losses"], more["losses"], strict=True))
    apart = max(float((one["model"][k] - more["model"][k]).abs().max()) for k in one["model"])
    print(
        f"seed 0, {len(one['losses'])} steps, from loss {one['losses'][0]:.4f} to "
        f"{one['losses'][-1]:.4f}: at most {far:.1e} apart, relative; weights at most {apart:.1e}; "
        f"throughput × {one['seconds'] / more['seconds']:.2f}"
    )


if __name__ == "__main__":
    main()
