"""Draw what nets make of a small box, and each bound's polygon around it (Figures 3.4 and 3.5).

The first row is a random net, the others are one net for the plane after standard and after robust
training. The text says how large each polygon is beside the hull of the true outputs, and what
interval arithmetic leaves of the outputs (thesis, 3.2.3). The thesis's net, in half a minute:

    python examples/polytopes.py --widths 100 100 100 --steps 1000 --directions 64
"""

import argparse
from pathlib import Path

import torch

from autodual.report import polytopes
from autodual.report.small import normal_net, plane_net, spread_points, train


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("out/polytopes.png"))
    parser.add_argument("--widths", type=int, nargs="+", default=[40, 40], help="hidden layers")
    parser.add_argument("--eps", type=float, nargs="+", default=[0.05, 0.1, 0.25])
    parser.add_argument("--directions", type=int, default=24)
    parser.add_argument("--trained", type=float, default=0.06, help="ε of robust training")
    parser.add_argument("--steps", type=int, default=150, help="of training")
    parser.add_argument("--seed", type=int, default=6)
    args = parser.parse_args()
    torch.set_num_threads(1)  # the nets are too small for more
    x, y = spread_points(seed=args.seed)
    widths = [2, *args.widths, 2]
    torch.manual_seed(args.seed)
    nets = {"random": normal_net(widths)}
    for name, eps in {"standard training": 0.0, "robust training": args.trained}.items():
        torch.manual_seed(args.seed)
        nets[name] = train(plane_net(widths), x, y, eps, steps=args.steps)
    rows = {}
    for name, net in nets.items():
        rows[name] = [polytopes.polytopes(net, x[:1], e, args.directions) for e in args.eps]
        for found in rows[name]:
            print(f"{name}, ε = {found.eps:g}: area of the polygon, the true hull's being 1")
            for rung in found.offsets:
                print(f"{found.area(rung) / found.area(polytopes.HULL):>11.3f} {rung}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    polytopes.draw(rows).savefig(args.out, dpi=130)
    print(args.out)


if __name__ == "__main__":
    main()
