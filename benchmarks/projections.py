"""Train against bounds from random projections and against exact ones (thesis, Figure 3.21).

    python benchmarks/projections.py --data PATH [--seeds 1] [--epochs 10] [--examples 4000] [--k 1]

The net is trained with ε growing from 0.01 to 0.1, against the bound with every sum in full, and
with sums estimated by r Cauchy projections. What is estimated certifies nothing: all errors here
are by the exact bound, on test images and on as many training images. In print for r = 50: Wide(1)
6.51 %, small 4.99 %, small by exact sums 4.48 % (Tables 3.5 and 3.6), with 60 epochs of all images
(--epochs 60 --ramp 0.333 --halving --examples 60000).
"""

from __future__ import annotations

from functools import partial

from experiments import (
    ADAM,
    Curve,
    Rows,
    chosen,
    fitted,
    halving,
    images,
    lines,
    options,
    saved,
    seeded,
    wide,
)

import autodual as ad
from autodual import train

EPS = 0.1
ESTIMATORS = {"exact": None, "r = 50": ad.Cauchy(50), "r = 10": ad.Cauchy(10)}
BOUND = {"bounds": "dual", "slopes": "equal"}
"""The thesis's; projections have parallel lines in any case."""


def validation(data: train.Dataset, net: ad.Certified) -> dict[str, float]:
    """Errors by the exact bound, whatever the net was trained by."""
    exact = ad.certify(net.model, EPS, **BOUND)
    count = len(data.x_test)
    test = ad.evaluate(exact, (data.x_test, data.y_test), rungs=(), attack=0)
    own = ad.evaluate(exact, (data.x[:count], data.y[:count]), rungs=(), attack=0)
    return {"clean": test.clean, "error": test.certified, "training": own.certified}


def main() -> None:
    parser = options(__doc__, "projections", epochs=10, examples=4000, tests=300, only=True)
    parser.add_argument("--k", type=int, default=1, help="the width of the net, Wide(k)")
    parser.add_argument("--ramp", type=float, default=0.6, help="share of time in which ε grows")
    parser.add_argument("--halving", action="store_true", help="the thesis's rates, for 60 epochs")
    args = parser.parse_args()
    data = images(args)
    rows, curves = Rows(args.out / "rows.csv"), dict[str, Curve]()
    for seed in range(args.seeds):
        for name in chosen(args, ESTIMATORS):
            recipe = train.Recipe(
                loss=train.Robust(),
                epochs=args.epochs,
                batch=50,
                eps=train.Ramp(0.1, 1.0, 0, args.ramp * args.epochs),
                optimizer=ADAM,
                rate=halving if args.halving else train.one_cycle(5e-3),
                seed=seed,
            )
            state = fitted(
                seeded(seed, lambda: wide(args.k)),
                ad.LinfBall(EPS),
                (data.x, data.y),
                recipe,
                validate=partial(validation, data),
                hooks=[train.Table(args.out / f"{name}, {seed}.csv")],
                estimator=ESTIMATORS[name],
                **BOUND,
            )
            last, each = state.history[-1], state.seconds / args.epochs
            numbers = {
                "clean %": 100 * last["clean"],
                "certified %": 100 * last["error"],
                "certified, training %": 100 * last["training"],
                "s/epoch": each,
            }
            if exact := rows.of("exact", "s/epoch"):
                numbers["of exact"] = each / exact[-1]
            rows.add(name, seed, numbers)
            if seed == 0:
                epochs = [row["epoch"] for row in state.history]
                curves[f"{name}, test"] = epochs, [100 * row["error"] for row in state.history]
                told = [100 * row["training"] for row in state.history]
                curves[f"{name}, training"] = epochs, told
    rows.show(f"errors at ε = {EPS} by the exact bound, Wide({args.k})")
    saved(lines(curves, "epoch", "error by the exact bound, %"), args.out / "curves.png")


if __name__ == "__main__":
    main()
