"""The published networks and data sets that the benchmarks measure on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


def wk_mnist(data: Path) -> nn.Sequential:
    """The thesis's small MNIST net, trained at ε = 0.1 by Wong and Kolter."""
    model = nn.Sequential(
        nn.Conv2d(1, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1568, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )
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


def mnist_test(data: Path) -> tuple[Tensor, Tensor]:
    """The 10,000 test images [N, 1, 28, 28] in [0, 1] and their labels."""
    archive = np.load(data / "mnist/test.npz")
    images = torch.tensor(archive["images"]).float().unsqueeze(1) / 255
    return images, torch.tensor(archive["labels"]).long()


def _load(model: nn.Sequential, path: Path) -> nn.Sequential:
    model.load_state_dict({key: torch.tensor(value) for key, value in np.load(path).items()})
    return model.eval()
