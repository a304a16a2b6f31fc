"""Train a net against ℓ∞ attacks on MNIST and certify all test images by the dearest rungs.

    python benchmarks/recipes.py --data PATH [--seed 0] [--out out/recipes] [--epochs 32]

SABR: the bound, by intervals, over small boxes around an attack's points. What is killed goes on.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

import autodual as ad
from autodual import train
from autodual.files import load
from autodual.train.nets import medium

EPS, TRAINED, SHARE, WIDTH, RATE = 0.1, 0.13, 0.15, 16, 2e-3


class Say(train.Hook):
    """Prints each epoch's row."""

    def after_epoch(self, state: train.State) -> None:
        print({name: round(value, 4) for name, value in state.history[-1].items()}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder with mnist/")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path("out/recipes"))
    parser.add_argument("--exact", type=float, default=60.0, help="seconds for each example")
    options = parser.parse_args()
    data = train.load_data(options.data / "mnist")
    chosen, whole = data.held_back(5000)
    torch.manual_seed(options.seed)
    model = medium(tuple(whole.x.shape[1:]), whole.classes, WIDTH)
    epochs, ball = options.epochs, ad.LinfBall(EPS, domain=(0, 1))
    recipe = train.Recipe(
        loss=train.SmallBox(SHARE, train.Adversary(2, step_size=0.8)),
        epochs=epochs,
        batch=128,
        eps=train.Ramp(0, 1, 0, 0.3 * epochs, smooth=True),
        clip=10.0,
        l1=1e-6,
        rate=train.one_cycle(RATE),
        seed=options.seed,
    )

    def validate(net: ad.Certified) -> dict[str, float]:
        dual = ad.certify(net.model, ball, bounds="ibp+dual")
        some = chosen.x_test[:1000], chosen.y_test[:1000]
        found = ad.evaluate(dual, some, rungs=(), attack=10)
        return {"clean": found.clean, "attacked": found.attacked, "error": found.certified}

    net = ad.certify(model.train(), ad.LinfBall(TRAINED, domain=(0, 1)), bounds="ibp")
    folder = options.out / str(options.seed)
    hooks = [Say(), train.Table(folder / "log.csv"), train.Curves(folder / "curves.png")]
    state = train.fit(net, (chosen.x, chosen.y), recipe, validate=validate, out=folder, hooks=hooks)
    model.load_state_dict(load(folder / "best.pt")["model"])
    print(f"trained in {state.seconds:.0f} s of steps")
    start = time.perf_counter()
    found = ad.evaluate(
        ad.certify(model.eval(), ball),
        (whole.x_test, whole.y_test),
        exact=options.exact,
        rows=folder / "rows.csv",
    )
    print(f"{found}\ncertified in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
