"""Certify that a regression stays within a tolerance of the truth, and train against that bound.

Inputs are known to ± ε. The worst error over them is bounded by two rows of C, +z and −z:

    python examples/regression.py
"""

from functools import partial

import torch
from torch import Tensor, nn

import autodual as ad
from autodual import train

C = torch.tensor([[1.0], [-1.0]])


def truth(x: Tensor) -> Tensor:
    return torch.sin(3 * x[:, :1]) * x[:, 1:]


def worst_error(net: ad.Certified, x: Tensor, y: Tensor) -> Tensor:
    """Return an upper bound on max |f(x′) − y| over the set, [N]. Differentiable."""
    least, negative = net.lower_bound(x, C).unbind(1)  # z ≥ least and −z ≥ negative
    return torch.maximum(y[:, 0] - least, -negative - y[:, 0])


def main(
    eps: float = 0.05, tolerance: float = 0.25, epochs: int = 150, count: int = 100, seed: int = 0
) -> dict[str, tuple[Tensor, ad.attack.Attack]]:
    """Return for each net by how much examples keep the tolerance at worst, and an attack."""

    def plain(net: ad.Certified, x: Tensor, y: Tensor) -> Tensor:
        return (net.model(x) - y).square().mean()

    def robust(net: ad.Certified, x: Tensor, y: Tensor) -> Tensor:
        return (worst_error(net, x, y) - tolerance).clamp(min=0).mean()  # 0 where it keeps it

    def error(z: Tensor, y: Tensor) -> Tensor:
        return (z - y).abs().squeeze(1)

    def too_far(z: Tensor, y: Tensor) -> Tensor:
        return error(z, y) > tolerance

    torch.manual_seed(seed)
    x, test = 2 * torch.rand(count, 2) - 1, 2 * torch.rand(400, 2) - 1
    y, y_test, found = truth(x) + 0.2 * torch.randn(count, 1), truth(test), {}
    for loss in (plain, robust):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        net = ad.certify(model.append(nn.Linear(32, 1)), eps)
        recipe = train.Recipe(
            loss=loss,
            epochs=epochs,
            batch=count,
            eps=train.Ramp(0, 1, 0, epochs / 2),
            optimizer=partial(torch.optim.Adam, lr=1e-2),
            seed=seed,
        )
        train.fit(net, (x, y), recipe)
        certificate = net.within(test, tolerance, y_test)  # its margins: tolerance − worst_error
        attack = ad.attack.pgd(model, test, y_test, eps, loss=error, success=too_far)
        found[loss.__name__] = certificate.margins[:, 0], attack
        print(
            f"{loss.__name__} training: mean error {error(model(test), y_test).mean():.3f}; of "
            f"{len(test)} inputs ± {eps}, {int(certificate.verified.sum())} certified within "
            f"± {tolerance}, {int(attack.success.sum())} led out of it by an attack"
        )
    return found


if __name__ == "__main__":
    main()
