"""What the verifier cuts inside networks: products of two values, at either factor."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import autodual as ad
from autodual.verifier import cuttable
from tests.test_verify import least

X = torch.zeros(2).double()


class Gate(nn.Module):
    """Σ a·relu(b)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 3), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return (self.a(x) * torch.relu(self.b(x))).sum(1, keepdim=True)


class Scores(nn.Module):
    """Products of queries and keys."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.last = nn.Linear(2, 4), nn.Linear(2, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.q(x).reshape(-1, 2, 2), self.k(x).reshape(-1, 2, 2)
        return self.last((q @ k.transpose(1, 2)).flatten(1))


class Curves(nn.Module):
    """Σ tanh(a)·sigmoid(b), as in a cell with gates."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 3), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        gated = torch.tanh(self.a(x)) * torch.sigmoid(self.b(x))
        return gated.sum(1, keepdim=True)


class Ratio(nn.Module):
    """Σ a/(1 + relu(b)) + relu(b)²."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 3), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        b = torch.relu(self.b(x))
        return (self.a(x) / (1 + b) + b * b).sum(1, keepdim=True)


MODELS = [Gate, Scores, Curves, Ratio]


def made(kind: type[nn.Module], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return kind().double()


@pytest.mark.parametrize("kind", MODELS)
def test_products_are_cut_until_the_least_value_is_known(kind: type[nn.Module]) -> None:
    """Units alone close most of what the first bound leaves open, and no more than there is."""
    model, region = made(kind), ad.Region(X - 1, X + 1)
    true = least(model, torch.ones(1).double(), X - 1, X + 1)
    with torch.no_grad():
        root = float(ad.certify(model, 1.0).bounds(X[None]).lower)
    asked = {"branch": "units", "attack": False}
    assert root < true - 0.05
    below = ad.verify(model, region, ad.Y[0] > true - 0.4 * (true - root), 30, **asked)
    assert below.verified
    above = ad.verify(model, region, ad.Y[0] > true + 1e-9, 0.5, **asked)
    assert above.status == "unknown"


@pytest.mark.parametrize("kind", [Gate, Scores])
def test_a_factor_is_to_blame_for_all_that_its_product_loses(kind: type[nn.Module]) -> None:
    """Σ r_i r_j over the entries of one factor is what the product loses: none is forgotten."""
    net = ad.certify(made(kind), 1.0, bounds="ibp&dual")
    with torch.no_grad():
        network = net.relax(X[None]).networks[-1]
    units = cuttable.open_units(network)
    products = [u for u in units if len(u.layer.step.variables) == 2]
    assert {u.argument for u in products} == {0, 1}
    for unit in products:
        losses = torch.rand(1, *unit.layer.value.size(1)[1:]).double()
        laid = unit.blame(network, {unit.layer.value: losses})
        assert isinstance(laid, Tensor)
        torch.testing.assert_close(laid.sum(), losses.sum())


def test_curves_are_cut_where_their_arguments_are() -> None:
    """A product's factors that are values of curves are no units; the curves hear its blame."""
    with torch.no_grad():
        network = ad.certify(made(Curves), 1.0).relax(X[None]).networks[-1]
    units = cuttable.open_units(network)
    assert all(len(unit.layer.step.variables) == 1 for unit in units)
    assert [len(unit.readers) for unit in units] == [1, 1]


def test_canary_without_cuts_of_products_nothing_is_left_to_cut(monkeypatch) -> None:
    monkeypatch.setattr(cuttable, "_is_cut", lambda layer: False)
    with pytest.raises(AssertionError):
        test_products_are_cut_until_the_least_value_is_known(Scores)
