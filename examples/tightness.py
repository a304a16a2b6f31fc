"""Draw the dual bound beside the linear program over ε and under training (thesis, Figure 3.8).

Margins of a robust, a random and a standard net on scikit-learn's digits: the thesis's bound, the
program on the same intervals, free slopes, optimised planes, the program on their intervals, and an
attack. Below, how far each lets margins fall as nets are trained. Needs autodual[demo]. Larger
nets, more digits and more ε take two minutes:

    python examples/tightness.py --widths 100 100 --steps 600 --images 20 --marks 12 --radii 12
"""

import argparse
from pathlib import Path

import torch

from autodual.report import tightness
from autodual.report.small import mlp, train
from autodual.train import digits

PIXELS = (0.0, 1.0)
BATCH = 50


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("out/tightness.png"))
    parser.add_argument("--widths", type=int, nargs="+", default=[24, 24], help="hidden layers")
    parser.add_argument("--eps", type=float, default=0.1, help="of robust training")
    parser.add_argument("--steps", type=int, default=60, help="of training, 50 digits each")
    parser.add_argument("--images", type=int, default=2, help="how many test digits")
    parser.add_argument(
        "--radii", type=int, default=4, help="how many ε, to twice that of training"
    )
    parser.add_argument("--marks", type=int, default=3, help="how often to look during training")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)  # the nets are too small for more
    data = digits(args.seed)
    x, y = data.x.flatten(1), data.y
    x_test, y_test = data.x_test.flatten(1)[: args.images], data.y_test[: args.images]
    radii = [2 * args.eps * (i + 1) / args.radii for i in range(args.radii)]
    every = max(args.steps // args.marks, 1)

    def trained(eps: float) -> tuple[torch.nn.Module, dict[float, tightness.Margins]]:
        torch.manual_seed(args.seed)
        model, seen = mlp([64, *args.widths, 10]), {}

        def look(step: int) -> None:
            if step % every == 0:
                found = tightness.margins(model, x_test, y_test, [args.eps], PIXELS)
                seen[step * BATCH / len(x)] = found

        train(model, x, y, eps, steps=args.steps, batch=BATCH, domain=PIXELS, each=look)
        return model, seen

    torch.manual_seed(args.seed)
    random = mlp([64, *args.widths, 10])
    (robust, growing), (standard, falling) = trained(args.eps), trained(0.0)
    nets = {"robust training": robust, "random": random, "standard training": standard}
    panels = {
        name: tightness.margins(net, x_test, y_test, radii, PIXELS) for name, net in nets.items()
    }
    for name, found in panels.items():
        print(f"{name}: margin over ε = {', '.join(f'{eps:.3g}' for eps in radii)}")
        rows = {**found.lower, "an attack": found.attacked}
        for rung, values in rows.items():
            print("".join(f"{v:>9.3f}" for v in values.mean(1).tolist()), rung)
    history = {"under robust training": growing, "under standard training": falling}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    tightness.draw(panels, history, args.eps).savefig(args.out, dpi=130)
    print(args.out)


if __name__ == "__main__":
    main()
