"""Clean against certified error, by how much of the bound is in the loss (De Palma et al. 2024).

    python benchmarks/tradeoff.py --data PATH [--seeds 1] [--eps 0.1] [--epochs 6] [--exact 10]

MTL-IBP and CC-IBP for coefficients from 0, adversarial training, to 1, training against intervals.
Errors are certified by the default bound and then, of what is left, by optimised planes (--exact S:
by mixed-integer programs of S seconds each as well). Learning curves of each run are by intervals.
"""

from __future__ import annotations

from functools import partial

from experiments import (
    UNIT,
    Curve,
    Rows,
    fitted,
    images,
    interval_net,
    lines,
    options,
    saved,
    seeded,
)

import autodual as ad
from autodual import train

COEFFICIENTS = 0.0, 0.02, 0.1, 0.5, 1.0
NAMES = {"mtl": "MTL-IBP", "cc": "CC-IBP"}


def regularised(loss: train.Loss, ramp: train.Ramp, now: float) -> train.Loss:
    """The loss of a moment: with Shi et al.'s regularisers while ε grows."""
    return train.Regularised(loss, 0.5 * (1 - ramp(now)))


def validation(data: train.Dataset, net: ad.Certified) -> dict[str, float]:
    """Errors by the net's own bound, intervals."""
    found = ad.evaluate(net, (data.x_test, data.y_test), rungs=(), attack=10)
    return {"clean": found.clean, "attacked": found.attacked, "error": found.certified}


def main() -> None:
    parser = options(__doc__, "tradeoff", epochs=6, examples=8000, tests=300)
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--coefficients", type=float, nargs="+", default=COEFFICIENTS)
    parser.add_argument("--exact", type=float, help="seconds for each example that is left")
    args = parser.parse_args()
    data, ball = images(args), ad.LinfBall(args.eps, domain=UNIT)
    rows, points = Rows(args.out / "rows.csv"), dict[str, Curve]()
    for seed in range(args.seeds):
        for combine, kind in NAMES.items():
            for share in args.coefficients:
                name = f"{kind} {share:g}"
                loss = train.Expressive(share, combine)
                ramp = train.Ramp(0, 1, 0, args.epochs / 2, smooth=True)
                recipe = train.Recipe(
                    loss_at=partial(regularised, loss, ramp),
                    epochs=args.epochs,
                    eps=ramp,
                    rate=train.one_cycle(5e-3),
                    clip=10.0,
                    seed=seed,
                )
                model = seeded(seed, interval_net)
                state = fitted(
                    model,
                    ball,
                    (data.x, data.y),
                    recipe,
                    validate=partial(validation, data),
                    hooks=[train.Curves(args.out / f"{combine}, {share:g}, {seed}.png")],
                    bounds="ibp",
                )
                net = ad.certify(model, ball)
                found = ad.evaluate(net, (data.x_test, data.y_test), exact=args.exact)
                numbers = {
                    "clean %": 100 * found.clean,
                    "attacked %": 100 * found.attacked,
                    "certified %": 100 * found.certified,
                    "by intervals %": 100 * state.history[-1]["error"],
                    "s": state.seconds,
                }
                rows.add(name, seed, numbers)
    for kind in NAMES.values():
        names = [f"{kind} {share:g}" for share in args.coefficients]
        clean = [rows.median(name, "clean %") for name in names]
        points[kind] = clean, [rows.median(name, "certified %") for name in names]
    rows.show(f"errors at ε = {args.eps} by the coefficient of the bound")
    picture = lines(points, "clean error, %", "certified error, %", marker="o")
    for (places, heights), kind in zip(points.values(), NAMES.values(), strict=True):
        for share, place, height in zip(args.coefficients, places, heights, strict=True):
            label = f"{share:g}" if kind == "MTL-IBP" else f"  {share:g}"
            picture.axes[0].annotate(label, (place, height), fontsize=8, va="bottom")
    saved(picture, args.out / "tradeoff.png")


if __name__ == "__main__":
    main()
