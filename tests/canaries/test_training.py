"""What training rests on, broken on purpose: the fused loss and the gradients of lines."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import autodual as ad
from tests.canaries.canary import Canary, checks_of, must_be_noticed

F64 = torch.float64
BALL = ad.LinfBall(0.3)


def problem():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    x = torch.rand(6, 3, dtype=F64)
    return net.to(F64), x, torch.arange(6) % 4


def no_point_has_a_higher_loss_than_the_fused_one():
    net, x, y = problem()
    with torch.no_grad():
        for i in range(len(x)):
            some = x[i : i + 1], y[i : i + 1]
            bound = ad.robust_loss(net, *some, BALL, fused=True)
            for scale in (0.0, 0.5, 1.0):
                points = some[0] + scale * 0.3 * (2 * torch.rand(300, 3, dtype=F64) - 1).sign()
                worst = F.cross_entropy(net(points), some[1].expand(300), reduction="none").max()
                assert worst <= bound + 1e-9, "a point has a higher loss"


def gradients_are_those_of_differences():
    net, x, y = problem()
    weight = net[2].weight
    for how in ({"fused": True}, {"bounds": "ibp+dual"}):
        (slope,) = torch.autograd.grad(ad.robust_loss(net, x, y, BALL, **how), weight)
        way, step = torch.randn_like(weight), 1e-6
        ends = []
        with torch.no_grad():
            for sign in (1, -2, 1):
                weight += sign * step * way
                ends.append(float(ad.robust_loss(net, x, y, BALL, **how)))
        expected = (ends[0] - ends[1]) / (2 * step)
        assert abs(float((slope * way).sum()) - expected) < 1e-4, "gradient and differences differ"


def scaled(*factors):
    """Return what multiplies the results of a function."""

    def change(f):
        return lambda *args: tuple(k * r for k, r in zip(factors, f(*args), strict=True))

    return change


CANARIES = {
    "chords too low": Canary(
        "autodual.bound.fused.chords",
        scaled(1.0, 0.5),
        no_point_has_a_higher_loss_than_the_fused_one,
        "a point has a higher loss",
    ),
    "chords too steep": Canary(
        "autodual.bound.fused.chords",
        scaled(3.0, 1.0),
        no_point_has_a_higher_loss_than_the_fused_one,
        "a point has a higher loss",
    ),
    "a row's bound too high": Canary(
        "autodual.bound.fused.lower",
        lambda f: lambda *args: f(*args) + 1.0,
        no_point_has_a_higher_loss_than_the_fused_one,
        "a point has a higher loss",
    ),
    "a chord's gradient of ℓ lost": Canary(
        "autodual.duals.relu._Chord.backward",
        lambda f: lambda *args: (None, f(*args)[1]),
        gradients_are_those_of_differences,
        "gradient and differences differ",
    ),
    "a chord's gradient of u lost": Canary(
        "autodual.duals.relu._Chord.backward",
        lambda f: lambda *args: (f(*args)[0], None),
        gradients_are_those_of_differences,
        "gradient and differences differ",
    ),
    "planes' gradient of z⁰ lost": Canary(
        "autodual.duals.relaxed._About.backward",
        lambda f: lambda *args: (*f(*args)[:4], None),
        gradients_are_those_of_differences,
        "gradient and differences differ",
    ),
    "planes' gradient of slopes lost": Canary(
        "autodual.duals.relaxed._About.backward",
        lambda f: lambda *args: (*f(*args)[:2], None, *f(*args)[3:]),
        gradients_are_those_of_differences,
        "gradient and differences differ",
    ),
}
CHECKS = checks_of(CANARIES)


@pytest.mark.parametrize("name", CHECKS)
def test_checks_pass_on_what_is_not_broken(name):
    CHECKS[name]()


@pytest.mark.parametrize("name", CANARIES)
def test_what_is_broken_is_noticed(name, monkeypatch):
    must_be_noticed(CANARIES[name], monkeypatch)
