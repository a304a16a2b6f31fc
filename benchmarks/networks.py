"""The published networks and data sets that the benchmarks measure on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from autodual.train.nets import small


def wk_mnist(data: Path) -> nn.Sequential:
    """The thesis's small MNIST net, trained at ε = 0.1 by Wong and Kolter."""
    model = small((1, 28, 28), 10)
    return _load(model, data / "nets/wk_mnist.npz")


def rvb(data: Path, name: str) -> nn.Sequential:
    """A 784–100–100–10 net of the robust-verify-benchmark."""
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 100),
        nn.ReLU(),
        nn.Linear(100, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )
    return _load(model, data / f"nets/rvb_e1_{name}.npz")


PUBLISHED = {
    "wk_mnist": 0.1,
    "LPD_MLP_B_0.1": 0.1,
    "LPD_MLP_B_0.2": 0.2,
    "LPD_MLP_B_0.3": 0.3,
    "ADV_MLP_B_0.03": 0.03,
}
"""The nets by name, and the ε at which their errors are in print."""


def published(data: Path, name: str) -> nn.Sequential:
    """One of them."""
    return wk_mnist(data) if name == "wk_mnist" else rvb(data, name)


def mnist_test(data: Path) -> tuple[Tensor, Tensor]:
    """The 10,000 test images [N, 1, 28, 28] in [0, 1] and their labels."""
    archive = np.load(data / "mnist/test.npz")
    images = torch.tensor(archive["images"]).float().unsqueeze(1) / 255
    return images, torch.tensor(archive["labels"]).long()


def _load(model: nn.Sequential, path: Path) -> nn.Sequential:
    model.load_state_dict({key: torch.tensor(value) for key, value in np.load(path).items()})
    return model.eval()


class _Block(nn.Module):
    """Two convolutions and a skip connection of its own."""

    def __init__(self, inputs: int, outputs: int, down: bool) -> None:
        super().__init__()
        kernel, stride = (4, 2) if down else (3, 1)
        self.first = nn.Conv2d(inputs, outputs, kernel, stride, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, stride, stride)

    def forward(self, z: Tensor) -> Tensor:
        return torch.relu(self.skip(z) + self.second(torch.relu(self.first(z))))


def thesis_resnet() -> nn.Sequential:
    """The thesis's CIFAR ResNet: 4.2 million parameters, 107,496 hidden units."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        _Block(16, 16, down=False),
        _Block(16, 16, down=False),
        _Block(16, 32, down=True),
        _Block(32, 64, down=True),
        nn.Flatten(),
        nn.Linear(4096, 1000),
        nn.ReLU(),
        nn.Linear(1000, 10),
    )
