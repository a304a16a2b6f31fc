"""Kill a training at random moments, let it go on each time, and compare the weights at the end.

    python benchmarks/kills.py [--kills 10] [--seed 0]

The same training runs once undisturbed, in a process of its own as well; with one thread each, so
that sums run in one order.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn

import autodual as ad
from autodual import train
from autodual.files import load
from autodual.report.demo import small_net

EPOCHS = 60


def training(out: Path) -> None:
    """A training with everything that has a state: noise, momentum, a schedule, a mean, Dropout."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = train.digits()
    model = small_net()
    model.insert(5, nn.Dropout(0.1))
    recipe = train.Recipe(
        loss=train.Adversarial(train.Adversary(2)),
        epochs=EPOCHS,
        batch=50,
        average=0.99,
        optimizer=partial(torch.optim.Adam, lr=1e-3),
        rate=train.one_cycle(5e-3),
    )
    net = ad.certify(model.train(), ad.LinfBall(0.1, domain=(0, 1)))
    train.fit(net, (data.x, data.y), recipe, out=out, every=5)


def started(out: Path) -> subprocess.Popen[bytes]:
    """Begin it, or let it go on, in a process of its own."""
    return subprocess.Popen([sys.executable, __file__, "--train", out])


def written(path: Path) -> int:
    """When a file was last written, 0 for never."""
    return path.stat().st_mtime_ns if path.exists() else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=Path)
    options = parser.parse_args()
    if options.train is not None:
        training(options.train)
        return
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, parts = Path(folder) / "whole", Path(folder) / "parts"
        began = time.perf_counter()
        assert started(whole).wait() == 0
        alone = time.perf_counter() - began
        print(f"undisturbed: {alone:.0f} s", flush=True)
        kills = 0
        while kills < options.kills:
            process = started(parts)
            before = written(parts / "last.pt")
            while written(parts / "last.pt") == before and process.poll() is None:
                time.sleep(0.01)  # it has begun to work when it has written something
            time.sleep(chance.uniform(0.0, alone / options.kills))
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            last = parts / "last.pt"
            at = load(last)["plain"] if last.exists() else {"epoch": 0, "step": 0}
            print(
                f"kill {kills}: the file is at epoch {at['epoch']}, step {at['step']}", flush=True
            )
        assert started(parts).wait() == 0
        a, b = (load(path / "last.pt") for path in (whole, parts))
        same = all(torch.equal(a["model"][k], b["model"][k]) for k in a["model"])
        mean = all(torch.equal(a["averaged"][k], b["averaged"][k]) for k in a["averaged"])
        print(f"{kills} kills; weights equal to the bit: {same}; so is their mean: {mean}")


if __name__ == "__main__":
    main()
