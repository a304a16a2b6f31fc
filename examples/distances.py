"""Draw how far digits lie from where their class changes (thesis, Figure 3.7).

What bounds certify and what an attack finds, for a standard and for a robust net on scikit-learn's
digits; needs autodual[demo]. All test digits and the demo's convolutional net take two minutes:

    python examples/distances.py --conv --steps 600 --images 360
"""

import argparse
from pathlib import Path

import torch

from autodual.report import demo, distances
from autodual.report.small import mlp, train
from autodual.train import digits

PIXELS = (0.0, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("out/distances.png"))
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 32], help="hidden layers")
    parser.add_argument("--conv", action="store_true", help="the demo's convolutional net")
    parser.add_argument("--eps", type=float, default=0.1, help="of robust training")
    parser.add_argument("--steps", type=int, default=120, help="of training, 50 digits each")
    parser.add_argument("--images", type=int, default=100, help="how many test digits, up to 360")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)  # the nets are too small for more
    data = digits(args.seed)
    shape = (1, 8, 8) if args.conv else (64,)
    x, y = data.x.reshape(-1, *shape), data.y
    x_test, y_test = data.x_test.reshape(-1, *shape)[: args.images], data.y_test[: args.images]
    panels = {}
    for name, eps in {"standard training": 0.0, "robust training": args.eps}.items():
        torch.manual_seed(args.seed)
        model = demo.small_net() if args.conv else mlp([64, *args.widths, 10])
        model = train(model, x, y, eps, steps=args.steps, batch=50, domain=PIXELS)
        panels[name] = found = distances.distances(model, x_test, y_test, PIXELS)
        wrong = int((~found.right).sum())
        print(f"{name}: {wrong} of {len(y_test)} digits misclassified; ℓ∞ distance, median")
        for rung, sizes in found.certified.items():
            print(f"{sizes.median():>11.4f} certified by {rung}")
        print(f"{found.attacked.median():>11.4f} found by an attack")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    distances.draw(panels, args.eps).savefig(args.out, dpi=130)
    print(args.out)


if __name__ == "__main__":
    main()
