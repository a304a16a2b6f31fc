"""Certify the class of every pixel, and train a segmenter against the bound.

Images show a bright square and a bright cross; ground that touches them has no label, −100:

    python examples/segmentation.py
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import autodual as ad
from autodual import train

GROUND, SQUARE, CROSS, NONE = 0, 1, 2, -100


def scenes(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Return noisy images [N, 1, size, size] of two shapes, and labels [N, size, size]."""
    y = torch.full((count, size, size), GROUND)
    for labels, (i, j) in zip(y, torch.randint(size - 4, (count, 2)).tolist(), strict=True):
        labels[i : i + 4, j : j + 4] = SQUARE
        i, j = (i + size // 2) % (size - 4), (j + size // 2) % (size - 4)
        labels[i + 2, j : j + 5] = labels[i : i + 5, j + 2] = CROSS
    shape = (y != GROUND).float().unsqueeze(1)
    near = F.max_pool2d(shape, 3, stride=1, padding=1).squeeze(1) > 0
    x = 0.7 * shape + 0.3 * torch.rand(shape.shape)
    return x, y.masked_fill(near & (y == GROUND), NONE)


def main(
    eps: float = 0.05, epochs: int = 15, count: int = 400, size: int = 12, seed: int = 0
) -> dict[str, tuple[Tensor, ad.Certificate | ad.Estimate, ad.attack.Attack]]:
    """Return for each net the labels, their certificate, and what an attack found."""
    torch.manual_seed(seed)
    (x, y), (fresh, labels) = scenes(count, size), scenes(20, size)
    ball = ad.LinfBall(eps, domain=(0, 1))
    known, found = labels != NONE, {}
    losses: dict[str, train.Loss] = {"plain": train.Standard(), "robust": train.Robust()}
    for name, loss in losses.items():
        torch.manual_seed(seed)
        model = nn.Sequential(
            *(nn.Conv2d(1, 8, 5, padding=2), nn.ReLU()),
            *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1)),
        )
        recipe = train.Recipe(
            loss=loss,
            epochs=epochs,
            batch=20,
            eps=train.Ramp(0, 1, 0, epochs / 2),
            optimizer=partial(torch.optim.Adam, lr=5e-3),
            seed=seed,
        )
        train.fit(ad.certify(model, ball, bounds="ibp"), (x, y), recipe)
        certificate = ad.certify(model, ball, bounds="ibp+dual")(fresh, labels)
        attack = ad.attack.pgd(model, fresh, labels, ball, steps=20)
        found[name] = labels, certificate, attack
        right = (model(fresh).argmax(1) == labels)[known].float().mean()
        print(
            f"{name} training, {int(known.sum())} pixels: {right:.1%} right, "
            f"{(~attack.success)[known].float().mean():.1%} under attack, "
            f"{certificate.verified[known].float().mean():.1%} certified"
        )
    return found


if __name__ == "__main__":
    main()
