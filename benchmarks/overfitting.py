"""Robust overfitting, and what helps against it (thesis, 4.3.9 and 4.4, Table 4.13; Rice et al.).

    python benchmarks/overfitting.py --data PATH [--seeds 1] [--epochs 45] [--examples 1000]

Adversarial training on a part of Fashion-MNIST, with rates that fall to a tenth at a half and at
three quarters. For each remedy the robust test error at the end, the mean over the last five
epochs, and the best of all epochs, with the clean errors there. Early stopping waits for the error
on images held back, and its end is the epoch that was best there. Batches of the semi-supervised
row are half of images that a net trained on the others has labelled. In print on CIFAR-10, end and
best: early stopping 46.9 and 46.7 %, ℓ1 53.0 and 48.6 %, ℓ2 55.2 (46.4) %, cutout 48.8 and 46.7 %,
mixup 49.1 and 46.3 %, semi-supervised 47.1 and 40.2 %; nothing 51.4 and 43.2 % (a wider net).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from experiments import (
    UNIT,
    Curve,
    Pair,
    Rows,
    chosen,
    fitted,
    images,
    lines,
    options,
    percent,
    resists,
    right,
    saved,
    seeded,
)
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

import autodual as ad
from autodual import train
from autodual.train.nets import small

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
PGD = train.Adversarial(train.Adversary(10))


def falling(optimizer: Optimizer, steps: int) -> LRScheduler:
    """A tenth from a half of all steps on, and a hundredth from three quarters on."""
    return LambdaLR(optimizer, lambda s: 0.1 ** ((2 * s >= steps) + (4 * s >= 3 * steps)))


def remedies(plain: train.Recipe) -> dict[str, Callable[[], train.Recipe]]:
    """Each with the best parameter of the thesis, where there is one."""
    decayed = partial(SGD, weight_decay=5e-3)
    patience = max(1, plain.epochs // 4)
    return {
        "nothing": lambda: plain,
        "early stopping": lambda: replace(plain, patience=patience),
        "ℓ1": lambda: replace(plain, l1=5e-5),
        "ℓ2": lambda: replace(plain, optimizer=decayed),
        "shifts": lambda: replace(plain, augment=train.shifted(2)),
        "cutout": lambda: replace(plain, augment=train.cutout(12)),
        "mixup": lambda: replace(plain, loss=train.Mixup(PGD, alpha=1.4)),
        "semi-supervised": lambda: plain,
    }


def more(labelled: Pair, unlabelled: torch.Tensor, seed: int) -> Pair:
    """Return as many images with labels as with labels that a net trained on the former gives."""
    teacher = seeded(seed, lambda: small((1, 28, 28), 10))
    recipe = train.Recipe(
        loss=train.Standard(), epochs=20, rate=train.one_cycle(5e-3), augment=train.shifted(2)
    )
    fitted(teacher, ad.LinfBall(0.0, domain=UNIT), labelled, recipe)
    return train.balanced(labelled, train.pseudo_labelled(teacher, unlabelled))


def main() -> None:
    parser = options(__doc__, "overfitting", epochs=45, examples=1000, tests=300, only=True)
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--held", type=int, default=200, help="images held back to stop early")
    parser.add_argument("--unlabelled", type=int, default=2000)
    args = parser.parse_args()
    whole, count = train.load_data(args.data / "fashion_mnist"), args.examples
    data = images(args, "fashion_mnist")
    own, test = (data.x, data.y), (data.x_test, data.y_test)
    held = whole.x[count : count + args.held], whole.y[count : count + args.held]
    unlabelled = whole.x[count + args.held :][: args.unlabelled]
    ball = ad.LinfBall(args.eps, domain=UNIT)

    def validate(net: ad.Certified) -> dict[str, float]:
        """The error held back decides; those of the test are only written down."""
        wrong = [1 - float(resists(net.model, p, ball, 10).double().mean()) for p in (held, test)]
        clean = 1 - float(right(net.model, test).double().mean())
        return {"error": wrong[0], "attacked": wrong[1], "clean": clean}

    rows, curves = Rows(args.out / "rows.csv"), dict[str, Curve]()
    for seed in range(args.seeds):
        plain = train.Recipe(
            loss=PGD, batch=50, epochs=args.epochs, optimizer=SGD, rate=falling, clip=5.0, seed=seed
        )
        found = remedies(plain)
        for name in chosen(args, found):
            recipe, pair = found[name](), own
            if name == "semi-supervised":
                epochs = max(1, args.epochs * count // args.unlabelled)
                recipe, pair = replace(recipe, epochs=epochs), more(own, unlabelled, seed)
            model = seeded(seed, lambda: small((1, 28, 28), 10))
            history = fitted(model, ball, pair, recipe, validate=validate).history
            best = min(history, key=lambda row: row["attacked"])
            last = [min(history, key=lambda row: row["error"])]
            if recipe.patience is None:
                last = history[-5:]
            ends = {k: 100 * statistics.mean(r[k] for r in last) for k in ("attacked", "clean")}
            numbers = {
                "robust end %": ends["attacked"],
                "robust best %": 100 * best["attacked"],
                "difference": ends["attacked"] - 100 * best["attacked"],
                "clean end %": ends["clean"],
                "clean best %": 100 * best["clean"],
                "robust training %": 100 - percent(resists(model, own, ball, 10)),
                "epochs": len(history),
                "s": history[-1]["seconds"],
            }
            rows.add(name, seed, numbers)
            if seed == 0:
                passed = [args.epochs * row["epoch"] / recipe.epochs for row in history]
                curves[name] = passed, [100 * row["attacked"] for row in history]
    rows.show(f"errors under PGD of 10 steps at ε = {args.eps}, trained on {count} images")
    saved(lines(curves, "epoch", "robust test error, %"), args.out / "curves.png")


if __name__ == "__main__":
    main()
