"""Certify digits within a Wasserstein ball, where ink moves, and attack them in the same ball.

ε is the cost per unit of ink: 0.05 moves a twentieth of it by one pixel. Needs scikit-learn's
digits, autodual[demo]:

    python examples/wasserstein.py
"""

from functools import partial

import torch
from torch import nn

import autodual as ad
from autodual import train


def small_net() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 12, 4, stride=4), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10)),
    )


def main(
    eps: float = 0.05, epochs: int = 6, count: int = 500, images: int = 50, seed: int = 0
) -> dict[str, tuple[ad.Certificate | ad.Estimate, ad.attack.WassersteinAttack]]:
    """Return for each net the certificate of some test digits, and what an attack found."""
    data, ball, found = train.digits(seed), ad.Wasserstein(eps), {}
    x, y = data.x_test[:images], data.y_test[:images]
    losses: dict[str, train.Loss] = {"plain": train.Standard(), "robust": train.Robust()}
    for name, loss in losses.items():
        torch.manual_seed(seed)
        net = ad.certify(small_net(), ball)
        recipe = train.Recipe(
            loss=loss,
            epochs=epochs,
            batch=50,
            eps=train.Ramp(0, 1, 0, epochs / 2),
            optimizer=partial(torch.optim.Adam, lr=1e-2),
            seed=seed,
        )
        train.fit(net, (data.x[:count], data.y[:count]), recipe)
        certificate, attack = net(x, y), ad.attack.wasserstein(net.model, x, y, ball)
        found[name] = certificate, attack
        right = net.model(x).argmax(1) == y
        print(
            f"{name} training, {len(x)} digits: {int(right.sum())} right, "
            f"{int((~attack.success).sum())} under attack, {int(certificate.verified.sum())} "
            f"certified within {ball}"
        )
    return found


if __name__ == "__main__":
    main()
