"""Nets inside torch.compile: the bound runs as it is, with the same result and gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import autodual as ad

X, Y = torch.rand(5, 4), torch.arange(5) % 3


@pytest.fixture
def net():
    torch.manual_seed(0)
    return ad.certify(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), 0.05)


@pytest.mark.filterwarnings("ignore")
def test_compiled_nets_and_what_calls_them(net):
    expected = net(X, Y)
    compiled = torch.compile(net, backend="eager")
    assert torch.equal(compiled(X, Y).margins, expected.margins)
    assert str(compiled(X)) == str(net(X))

    def step(x):
        loss = F.cross_entropy(net.model(x), Y) + ad.robust_loss(net, x * 1.0, Y)
        return loss + net.lower_bound(x, torch.eye(3)).sum() - net.bounds(x).upper.sum()

    results = []
    for run in (step, torch.compile(step, backend="eager")):
        loss = run(X)
        results.append((loss, *torch.autograd.grad(loss, list(net.parameters()))))
    torch.testing.assert_close(*results)
    loss = torch.compile(ad.RobustLoss(net), backend="eager")
    torch.testing.assert_close(loss(X, Y), ad.robust_loss(net, X, Y))
    torch.testing.assert_close(ad.robust_loss(compiled, X, Y), ad.robust_loss(net, X, Y))
