"""Train a robust net on images from files, keep the best weights, and certify the test images.

A folder as of MNIST or CIFAR-10, .npz files, or folders of images; scikit-learn's digits without
one. Begun again after a kill, it goes on where it was:

    python examples/train_from_files.py mnist/ --eps 0.1 --batch 100
"""

import argparse
from pathlib import Path

import torch
from torch import nn

import autodual as ad
from autodual import train


class Say(train.Hook):
    """Prints each epoch's row."""

    def after_epoch(self, state: train.State) -> None:
        print(", ".join(f"{name} {value:.4g}" for name, value in state.history[-1].items()))


def small_net(shape: tuple[int, ...], classes: int) -> nn.Module:
    first, second = nn.Conv2d(shape[0], 8, 4, 2, 1), nn.Conv2d(8, 16, 4, 2, 1)
    body = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten())
    width = body(torch.zeros(1, *shape)).shape[1]
    return body.extend([nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, classes)])


def main(argv: list[str] | None = None) -> ad.Evaluation:
    """Return the errors of the best weights on the test images."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", default="digits", help="a folder or an .npz file")
    parser.add_argument("--out", type=Path, default=Path("out/files"))
    parser.add_argument("--eps", type=float, default=0.05, help="pixels lie in [0, 1]")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    data = train.load_data(args.data)
    held, _ = data.held_back(len(data.x) // 10)  # weights are chosen without the test images
    torch.manual_seed(args.seed)
    model = small_net(tuple(data.x.shape[1:]), data.classes)
    ball = ad.LinfBall(args.eps, domain=(0, 1))
    recipe = train.Recipe(
        loss=train.SmallBox(0.4, train.Adversary(2, step_size=0.8)),
        epochs=args.epochs,
        batch=args.batch,
        eps=train.Ramp(0, 1, 0, 0.7 * args.epochs),
        rate=train.one_cycle(5e-3),
        seed=args.seed,
    )

    def validate(net: ad.Certified) -> dict[str, float]:
        found = ad.evaluate(net.by(ad.Dual()), (held.x_test, held.y_test), rungs=(), attack=10)
        return {"clean": found.clean, "attacked": found.attacked, "error": found.certified}

    net = ad.certify(model, ball, bounds="ibp")
    pairs, out = (held.x, held.y), args.out
    train.fit(net, pairs, recipe, validate=validate, out=out, every=100, hooks=[Say()])
    model.load_state_dict(torch.load(out / "best.pt")["model"])
    errors = ad.evaluate(net.by(ad.Dual()), (data.x_test, data.y_test))
    print(errors)
    return errors


if __name__ == "__main__":
    main()
