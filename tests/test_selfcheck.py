"""The sandwich: self_check passes on sound bounds and reports broken ones."""

import pytest
import torch
from torch import nn

import autodual as ad
from autodual.errors import CrossingError, UnsoundError


def make(threat):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4)).double()
    x = torch.rand(2, 1, 2, 2, dtype=torch.float64)
    return ad.certify(model, threat), x, model(x).argmax(1)


@pytest.mark.parametrize(
    "threat",
    [
        ad.LinfBall(0.02, (0, 1)),
        ad.LinfBall(0.0),
        ad.Union(ad.L2Ball(0.02), ad.L1Ball(0.03)),
    ],
    ids=str,
)
def test_sound_bounds_pass_and_broken_ones_do_not(threat):
    net, x, y = make(threat)
    report = ad.self_check(net, x, y, steps=4)
    assert report.passed
    assert "no attack crosses the bound" in str(report)
    names = [gap.attack for gap in report.gaps]
    assert ("corners" in names) == isinstance(threat, ad.LinfBall)
    assert ("multi steepest descent" in names) == isinstance(threat, ad.Union)
    assert all(0 <= gap.tightest + 1e-9 < 0.05 for gap in report.gaps)

    def raised(*asked, lower=net._lower):
        return lower(*asked) + 0.05

    net._lower = raised
    with pytest.raises(CrossingError, match="THE BOUND IS WRONG"):
        ad.self_check(net, x, y, steps=4)


def test_a_bound_broken_by_a_hundredth_is_reported():
    net, x, y = make(ad.LinfBall(1e-4))
    lower = net._lower
    net._lower = lambda *args: lower(*args) + 1e-2
    with pytest.raises(CrossingError):
        ad.self_check(net, x, y, steps=2)


def test_single_precision_is_no_crossing():
    net, x, y = make(0.0)
    single = ad.certify(net.model.float(), ad.L2Ball(0.0, (0, 1)))
    assert ad.self_check(single, x.float(), y, steps=2).passed


def test_other_arguments_stay_as_they_are():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(3, 3).double()

        def forward(self, x, *, scale):
            return self.net(x * scale)

    x, scale = torch.rand(2, 3).double(), torch.rand(2, 1).double()
    net = ad.certify(Scaled(), 0.1, perturb=0)
    report = ad.self_check(net, ad.Inputs(x, scale=scale), steps=2)
    assert max(abs(gap.tightest) for gap in report.gaps if gap.attack == "PGD") < 1e-12


def test_estimates_have_nothing_to_check():
    net, x, y = make(0.1)
    with pytest.raises(UnsoundError, match="nothing to check"):
        ad.self_check(ad.certify(net.model, 0.1, estimator=ad.Cauchy(5)), x, y)
