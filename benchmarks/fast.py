"""Fast adversarial training beside PGD's and free training (thesis, Tables 4.3 and 4.4).

    python benchmarks/fast.py --data PATH [--cifar PATH] [--seeds 1] [--epochs 14] [--steps 10]

One step from different starts and of different lengths, as in Table 4.3; PGD, one step of 1.25 ε
and free training, as in Table 4.4, and their seconds; and one step from x itself, which learns to
hide from one step: alone, and with ``train.Watch``, which notices and goes back. Accuracy is under
PGD of 50 steps with restarts; --exact asks mixed-integer programs at the small ε as well. In print
on MNIST at ε = 0.3, which is there from the start (--ramp 0): R+FGSM 34.58 ± 36.06 %, with full
steps 26.53 ± 32.48 %, with a uniform start 72.92 ± 10.40 %, with both 86.21 ± 0.75 %; PGD (40
steps) 89.90 % and FGSM 88.77 %, at ε = 0.1 97.66 and 97.53 %, verified 96.7 and 96.8 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from experiments import UNIT, Rows, chosen, fitted, images, options, percent, resists, right, seeded
from torch import Tensor, nn

import autodual as ad
from autodual import train
from autodual.train.adversary import evaluating
from autodual.train.nets import medium, small

FREE = 0.4
"""Passes over the data that free training has, of 8 replays each, for one of the others' epochs."""


@dataclass(frozen=True)
class Corner:
    """R+FGSM's loss: a step from a corner of the set of half the size (Tramèr et al. 2017)."""

    step: float = 0.5

    def __call__(self, net: ad.Certified, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss at the end of the step."""
        with evaluating(net.model):
            start = net.threat.advance(x, x, torch.randn_like(x), 0.5).requires_grad_()
            (slope,) = torch.autograd.grad(F.cross_entropy(net.model(start), y), start)
        point = net.threat.advance(x, start.detach(), slope, self.step)
        return F.cross_entropy(net.model(point), y)


def fast(step: float, start: str = "random") -> train.Adversarial:
    return train.Adversarial(train.Adversary(1, step_size=step, start=start))


def recipes(args: argparse.Namespace) -> dict[str, train.Recipe]:
    """Everything that is compared, by name."""
    free, pgd = train.Free(), train.Adversarial(train.Adversary(args.steps))
    one = train.Recipe(
        epochs=args.epochs,
        batch=100,
        eps=train.Ramp(0, 1, 0, args.ramp * args.epochs),
        rate=train.one_cycle(args.rate),
    )
    if args.cifar is not None:
        one = replace(one, augment=train.together(train.shifted(4), train.flipped))
    by_loss: Mapping[str, train.Loss] = {
        f"PGD, {args.steps} steps": pgd,
        "FGSM, 1.25 ε": fast(1.25),
        "R+FGSM": Corner(0.5),
        "R+FGSM, full step": Corner(1.0),
        "R+FGSM, uniform start": fast(0.5),
        "uniform start, full step": fast(1.0),
        "from x": fast(1.0, "x"),
        "from x, watched": fast(1.0, "x"),
    }
    found = {name: replace(one, loss=loss) for name, loss in by_loss.items()}
    epochs = max(1, round(FREE * args.epochs))
    ramp = train.Ramp(0, 1, 0, args.ramp * epochs)
    return found | {"free, m = 8": replace(one, loss=free, replays=8, epochs=epochs, eps=ramp)}


def measured(
    model: nn.Module, data: tuple[Tensor, Tensor], radii: tuple[float, ...], restarts: int
) -> dict[str, float]:
    """Accuracies, in per cent."""
    found = {"clean %": percent(right(model, data))}
    for eps in radii:
        held = resists(model, data, ad.LinfBall(eps, domain=UNIT), 50, restarts)
        found[f"PGD {eps:.3g} %"] = percent(held)
    return found


def main() -> None:
    parser = options(__doc__, "fast", epochs=14, examples=6000, tests=300, only=True)
    parser.add_argument("--steps", type=int, default=10, help="of PGD; the thesis takes 40")
    parser.add_argument("--rate", type=float, default=5e-3, help="the highest of Adam's cycle")
    parser.add_argument("--ramp", type=float, default=0.3, help="share of time in which ε grows")
    parser.add_argument(
        "--restarts", type=int, default=2, help="of the attack; the thesis's are 10"
    )
    parser.add_argument("--exact", type=float, help="seconds for each example, at the small ε")
    parser.add_argument("--cifar", type=Path, help="CIFAR-10: binaries, or folders of images")
    args = parser.parse_args()
    if args.cifar is None:
        data, radii, make = images(args), (0.3, 0.1), lambda: small((1, 28, 28), 10)
    else:
        data = images(args, args.cifar.resolve())
        radii, make = (8 / 255,), lambda: medium((3, 32, 32), 10)
    test = data.x_test, data.y_test
    rows, caught = Rows(args.out / "rows.csv"), list[str]()
    for seed in range(args.seeds):
        base, found = None, recipes(args)
        for name in chosen(args, found):
            recipe, watch = replace(found[name], seed=seed), train.Watch(every=20)
            hooks: list[train.Hook] = [watch] if "watched" in name else []
            hooks += [recipe.loss] if isinstance(recipe.loss, train.Free) else []
            threat, model = ad.LinfBall(radii[0], domain=UNIT), seeded(seed, make)
            state = fitted(model, threat, (data.x, data.y), recipe, hooks=hooks)
            base = base or state.seconds
            numbers = measured(model, test, radii, args.restarts)
            numbers |= {"s": state.seconds, "of the first": state.seconds / base}
            if args.exact:
                net = ad.certify(model, ad.LinfBall(radii[-1], domain=UNIT))
                errors = ad.evaluate(net, test, exact=args.exact)
                numbers[f"verified {radii[-1]:.3g} %"] = 100 - 100 * errors.certified
            if "watched" in name:
                caught.append(f"seed {seed}: at steps {watch.caught or 'none'}")
            rows.add(name, seed, numbers)
    rows.show(f"accuracy after training at ε = {radii[0]:.3g}; times against the first row's")
    for line in caught:
        print(f"catastrophic overfitting that was caught, {line}")


if __name__ == "__main__":
    main()
