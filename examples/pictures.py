"""Draw adversarial examples: one row for each kind of set, from the smallest set that has one.

A small net is trained on scikit-learn's digits, which come with it; needs autodual[demo].
"""

import argparse
from pathlib import Path

import torch

from autodual.report import demo, pictures
from autodual.train import digits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/pictures.png"))
    parser.add_argument("--image", type=int, default=0, help="which of the 360 test digits")
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    torch.manual_seed(0)
    data = digits(0)
    model = demo.train(data, 0.0, args.epochs, 0)
    x = data.x_test[args.image : args.image + 1]
    examples = pictures.of_each_kind(model, x)
    for name, example in examples.items():
        sizes = ", ".join(f"{eps:.3g}" for eps in example.sizes)
        print(f"{name}, ε = {sizes}: {example.before} becomes {example.after}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    pictures.draw(examples).savefig(args.out, dpi=130)
    print(args.out)


if __name__ == "__main__":
    main()
