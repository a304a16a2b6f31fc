"""Certify within a set of your own: where its center is and how far it reaches are enough."""

import torch
from torch import Tensor, nn

import autodual as ad


class Ellipsoid(ad.ThreatModel):
    """{x′ : Σ ((x′ᵢ − xᵢ) / axisᵢ)² ≤ 1}: sup νᵀ(x′ − x) over it is ‖axis · ν‖₂."""

    symmetric = True  # as far in −ν as in ν

    def __init__(self, axes: Tensor) -> None:
        self.axes = axes

    def center(self, x: Tensor) -> Tensor:
        return x

    def deviation(self, x: Tensor, nu: Tensor) -> Tensor:
        return (self.axes * nu).flatten(2).norm(dim=2).expand(len(x), -1)


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
    x, axes = torch.randn(100, 6), torch.tensor([0.3, 0.1, 0.1, 0.03, 0.03, 0.0])
    for threat in (Ellipsoid(axes), ad.L2Ball(0.3)):
        verified = ad.certify(model, threat)(x).verified
        print(f"{int(verified.sum())} of 100 verified within {type(threat).__name__}")


if __name__ == "__main__":
    main()
