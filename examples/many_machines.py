"""Train a robust net in several processes, on one machine or many, and certify in all of them.

Each process takes its share of every batch and DistributedDataParallel averages gradients; it runs
alone, too. Needs scikit-learn's digits, autodual[demo]:

    torchrun --nproc-per-node 2 examples/many_machines.py
    torchrun --nnodes 2 --rdzv-backend c10d --rdzv-endpoint HOST:29400 examples/many_machines.py
"""

import argparse
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

import autodual as ad
from autodual import train


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("out/machines"), help="seen by the first")
    parser.add_argument("--eps", type=float, default=0.05)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--images", type=int, help="of each part; all if not given")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo")
    data = train.digits(args.seed).first(args.images, args.images)
    torch.manual_seed(args.seed)  # the same weights everywhere
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 10)),
    )
    net = ad.certify(model, ad.LinfBall(args.eps, domain=(0, 1)), bounds="ibp+dual")
    recipe = train.Recipe(
        loss=train.Robust(fused=True),
        epochs=args.epochs,
        batch=50,
        eps=train.Ramp(0, 1, 0, 0.7 * args.epochs),
        rate=train.one_cycle(5e-3),
        seed=args.seed,
    )
    train.fit(net, (data.x, data.y), recipe, out=args.out)
    test, shared = (data.x_test, data.y_test), dist.is_initialized()
    found = ad.evaluate(net.by(ad.Dual()), test, rungs=(), sharded=shared)  # the whole, everywhere
    ranks = dist.get_world_size() if shared else 1
    if not shared or dist.get_rank() == 0:
        verified, broken = found.count("verified"), found.count("broken", "wrong")
        print(f"{ranks} processes: {verified} of {len(found)} verified, {broken} wrong or broken")
    if shared:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
