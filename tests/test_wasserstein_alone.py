"""One image alone in a Wasserstein ball gets the bound that it gets in a batch."""

import pytest
import torch
from torch import nn

import autodual as ad


@pytest.mark.parametrize("domain", [None, (0, 1)])
def test_one_image_alone(domain):
    """All rows are then one example's."""
    conv = nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()
    model = nn.Sequential(*conv, nn.Flatten(), nn.Linear(100, 3))
    x = torch.rand(3, 2, 5, 5)
    net = ad.certify(model, ad.Wasserstein(0.1, domain=domain))
    whole = net.bounds(x)
    for i in range(3):  # prices are found in steps, whose rounding depends on the chunk
        alone = net.bounds(x[i : i + 1]).lower
        torch.testing.assert_close(alone, whole.lower[i : i + 1], atol=1e-3, rtol=1e-3)
