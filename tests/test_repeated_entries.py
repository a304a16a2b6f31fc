"""An entry of the input that is read twice cancels in rows, not in intervals."""

import pytest
import torch
from torch import nn

import autodual as ad

TWICE = {
    "repeat": lambda x: x.repeat(1, 2),
    "expand": lambda x: x[:, None].expand(-1, 2, 4).flatten(1),
    "index": lambda x: x[:, torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])],
}


@pytest.mark.parametrize("name", TWICE)
def test_rows_where_an_entry_is_read_twice(name):
    """With weights w and −w on both copies what a ReLU reads is constant."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(8, 3)

        def forward(self, x):
            return torch.relu(self.first(TWICE[name](x)))

    model = Model()
    with torch.no_grad():
        w = torch.randn(3, 4)
        model.first.weight.copy_(torch.cat([w, -w], 1))
    found = ad.certify(model, 0.5).bounds(torch.rand(2, 4))
    assert (found.upper - found.lower).abs().max() < 1e-5
