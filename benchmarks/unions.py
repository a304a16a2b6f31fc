"""Nets trained for one norm and for the union of three (thesis, Table 5.2).

    python benchmarks/unions.py --data PATH [--seeds 1] [--share 0.5] [--epochs 6] [--steps 5]

Adversarial training for ℓ∞, ℓ2 and ℓ1 balls alone, and for their union: at the worst member's
point, at all of them, and by multi steepest descent. Rows are attacks, as in the thesis: PGD with
restarts in each ball, and for the union all of these and multi steepest descent, the worst for each
image. Radii are ``--share`` times the thesis's 0.3, 1.5 and 12; with few steps a net does not
learn at the whole of these. In print at the whole, P∞ P2 P1 worst average MSD: ℓ∞ 90.3 0.4 0.0
68.4 83.7 63.7 %, ℓ2 45.3 87.0 70.3 82.1 75.0 82.6 %, ℓ1 1.4 43.4 71.8 54.6 15.6 62.3 %, all 1.4 0.4
0.0 53.7 15.6 58.7 %, by more attacks than these.
"""

from __future__ import annotations

import torch
from experiments import UNIT, Rows, chosen, fitted, images, options, percent, resists, right, seeded
from torch import Tensor, nn

import autodual as ad
from autodual import train
from autodual.attack import msd
from autodual.train.nets import small

RADII = {"ℓ∞": 0.3, "ℓ2": 1.5, "ℓ1": 12.0}


def balls(share: float) -> dict[str, ad.ThreatModel]:
    kinds = ad.LinfBall, ad.L2Ball, ad.L1Ball
    pairs = zip(RADII.items(), kinds, strict=True)
    return {name: kind(share * eps, domain=UNIT) for (name, eps), kind in pairs}


def trainings(share: float) -> dict[str, tuple[ad.ThreatModel, str]]:
    """Each net's set, and how a union is attacked."""
    alone = balls(share)
    whole = ad.Union(*alone.values())
    found = {f"P{name[1:]}": (ball, "worst") for name, ball in alone.items()}
    return found | {kind: (whole, kind) for kind in ("worst", "average", "msd")}


def held(
    model: nn.Module, data: tuple[Tensor, Tensor], share: float, steps: int, restarts: int
) -> dict[str, float]:
    """Accuracy without an attack, under each, and under all of them, in per cent."""
    found, every = {"clean %": percent(right(model, data))}, torch.ones(len(data[0])).bool()
    for name, ball in balls(share).items():
        resisted = resists(model, data, ball, steps, restarts)
        found[f"{name} %"], every = percent(resisted), every & resisted
    union = ad.Union(*balls(share).values())
    some = every.nonzero().squeeze(1)
    for index in some.split(100) if len(some) else ():
        attack = msd(model, data[0][index], data[1][index], union, steps=steps, early_stop=True)
        every[index] = ~attack.success
    return found | {"all %": percent(every)}


def main() -> None:
    parser = options(__doc__, "unions", epochs=6, examples=4000, tests=200, only=True)
    parser.add_argument("--share", type=float, default=0.5, help="of the thesis's radii")
    parser.add_argument("--steps", type=int, default=5, help="in training; the thesis: 50 to 100")
    parser.add_argument("--attack", type=int, default=30, help="steps of PGD; 100 to 200")
    parser.add_argument("--restarts", type=int, default=2, help="10 in the thesis")
    args = parser.parse_args()
    data, rows = images(args), Rows(args.out / "rows.csv")
    if args.share < 1:
        print(f"radii are {args.share:g} times the thesis's: its numbers are for larger sets")
    for seed in range(args.seeds):
        for name in chosen(args, trainings(args.share)):
            threat, union = trainings(args.share)[name]
            recipe = train.Recipe(
                loss=train.Adversarial(train.Adversary(args.steps, union=union)),
                epochs=args.epochs,
                eps=train.Ramp(0, 1, 0, args.epochs / 2),
                rate=train.one_cycle(5e-3),
                seed=seed,
            )
            model = seeded(seed, lambda: small((1, 28, 28), 10))
            state = fitted(model, threat, (data.x, data.y), recipe)
            numbers = held(
                model, (data.x_test, data.y_test), args.share, args.attack, args.restarts
            )
            rows.add(name, seed, numbers | {"s": state.seconds})
    radii = ", ".join(f"{args.share * eps:g} ({name})" for name, eps in RADII.items())
    rows.show(f"accuracy in balls of {radii}, and in their union")


if __name__ == "__main__":
    main()
