"""Which output is bounded, and what is certified about it."""

import pytest
import torch
from torch import nn

import autodual as ad
from autodual import errors


class Heads(nn.Module):
    """A dict of logits, a pair of regressions and what is no tensor."""

    def __init__(self):
        super().__init__()
        self.body, self.logits, self.value = nn.Linear(3, 8), nn.Linear(8, 4), nn.Linear(8, 2)

    def forward(self, x):
        z = self.body(x).relu()
        return {"logits": self.logits(z), "values": (self.value(z), x[:, :1] - 1, None)}


WAYS = ["logits", ("values", 0), ("values", 1)]


@pytest.fixture
def heads():
    return Heads().double()


@pytest.fixture
def x():
    return torch.rand(2, 3, dtype=torch.float64)


def pick(outputs, way):
    for key in way if isinstance(way, tuple) else (way,):
        outputs = outputs[key]
    return outputs


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_one_of_several_outputs(heads, x, way):
    box = ad.certify(heads, 0.1, output=way).bounds(x)
    for _ in range(50):
        z = pick(heads(x + 0.2 * torch.rand_like(x) - 0.1), way)
        assert z.shape == box.lower.shape
        assert bool(((box.lower <= z + 1e-12) & (z <= box.upper + 1e-12)).all())
    nominal = ad.certify(heads, 0.0, output=way).bounds(x)
    torch.testing.assert_close(nominal.upper, pick(heads(x), way))


def test_the_same_model_for_two_outputs(heads, x):
    logits, values = (ad.certify(heads, 0.1, output=way) for way in ("logits", ("values", 0)))
    assert logits(x).margins.shape == (2, 4)
    assert values.within(x, 1.0).margins.shape == (2, 2)
    assert logits(x, torch.tensor([3, 0])).labels.tolist() == [3, 0]


@pytest.mark.parametrize(
    ("way", "message"),
    [
        (None, r"4 value.*output='logits' \(f64\[N, 4\]\), output=\('values', 0\)"),
        ("logit", r"not output='logit'.*output='logits'"),
        (("values", 3), r"not output=\('values', 3\)"),
        (("values", 2), "None, no tensor"),
    ],
)
def test_a_wrong_way_lists_the_right_ones(heads, x, way, message):
    with pytest.raises(errors.ModelError, match=message):
        ad.certify(heads, 0.1, output=way)(x)


def regression():
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1), nn.Flatten(0)).double()


@pytest.mark.parametrize("bounds", ["ibp", "dual", "ibp&dual"])
def test_a_tolerance_is_certified_soundly_and_not_in_vain(heads, x, bounds):
    net = ad.certify(heads, 0.05, output=("values", 0), bounds=bounds)
    certificate = net.within(x, 0.5)
    nominal = heads(x)["values"][0]
    moved = [heads(x + 0.1 * torch.rand_like(x) - 0.05)["values"][0] for _ in range(100)]
    farthest = torch.stack([(z - nominal).abs() for z in moved]).amax(0)
    assert isinstance(certificate, ad.Certificate)
    assert bool((certificate.margins <= 0.5 - farthest + 1e-12).all())
    assert bool((certificate.margins >= 0.5 - 20 * farthest - 1e-9).all())
    assert certificate.verified.tolist() == (certificate.margins > 0).all(1).tolist()
    assert not net.within(x, 0.5 - certificate.margins.amin(1, keepdim=True)).verified.any()


def test_a_tolerance_around_targets(x):
    net, y = ad.certify(regression(), 0.01), torch.tensor([0.3, 50.0]).double()
    assert net.within(x, 10.0, y).verified.tolist() == [True, False]
    assert net.within(x, torch.tensor([1e-9, 100.0]).double(), y).verified.tolist() == [False, True]


def test_a_tolerance_without_a_proof_is_an_estimate(x):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU()).double().train()
    estimate = ad.certify(model, 0.1).within(x, 1.0)
    assert isinstance(estimate, ad.Estimate)
    assert not hasattr(estimate, "verified")
    cauchy = ad.certify(regression(), 0.1, estimator=ad.Cauchy(10)).within(x, 1.0)
    assert isinstance(cauchy, ad.Estimate)


@pytest.mark.parametrize(
    ("tolerance", "y", "message"),
    [
        (-1.0, None, "at least 0"),
        (float("nan"), None, "at least 0"),
        ("much", None, "a number or a tensor"),
        (torch.ones(7), None, r"shape \[7\]"),
        (1.0, torch.zeros(2, 2), r"float64 tensor \[2\]"),
    ],
)
def test_bad_tolerances(x, tolerance, y, message):
    with pytest.raises(errors.InputError, match=message):
        ad.certify(regression(), 0.1).within(x, tolerance, y)
