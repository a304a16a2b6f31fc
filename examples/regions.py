"""Draw the regions of a standard and of a robust classifier of the plane (thesis, Figure 3.3).

Boxes of half side ε stand around the training points, coloured by the first bound that certifies
them. The thesis's net and ε, a minute or two:

    python examples/regions.py --widths 100 100 100 100 --eps 0.08 --steps 3000 --rate 0.003
"""

import argparse
from pathlib import Path

import torch

from autodual.report import regions
from autodual.report.small import plane_net, spread_points, train


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("out/regions.png"))
    parser.add_argument("--widths", type=int, nargs="+", default=[50, 50], help="hidden layers")
    parser.add_argument("--points", type=int, default=12)
    parser.add_argument("--eps", type=float, default=0.065, help="half the side of the boxes")
    parser.add_argument("--steps", type=int, default=200, help="of training")
    parser.add_argument("--rate", type=float, default=0.015, help="the largest learning rate")
    parser.add_argument("--seed", type=int, default=6)
    args = parser.parse_args()
    torch.set_num_threads(1)  # the net is too small for more
    x, y = spread_points(args.points, seed=args.seed)
    panels = {}
    for name, eps in {"standard training": 0.0, "robust training": args.eps}.items():
        torch.manual_seed(args.seed)
        model = train(plane_net([2, *args.widths, 2]), x, y, eps, steps=args.steps, rate=args.rate)
        panels[name] = found = regions.regions(model, x, y, args.eps)
        print(f"{name}, {len(x)} boxes of ε = {args.eps:g}")
        for by in dict.fromkeys(found.by):
            print(f"{found.by.count(by):>7} {by}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    regions.draw(panels).savefig(args.out, dpi=130)
    print(args.out)


if __name__ == "__main__":
    main()
