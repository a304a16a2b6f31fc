"""Verdicts that hold whatever is rounded."""

import copy
import itertools
from fractions import Fraction

import pytest
import torch
from torch import nn

import autodual as ad
from autodual.errors import InputError
from autodual.verifier import system
from tests.coarse import coarse
from tests.exactly import evaluate, rational
from tests.test_rounding import DTYPES, cancelling, mlp

BRANCHES = "inputs", "units"
WRONG = "a violated property is verified"


def above(rows, least):
    """The statement that one of some rows of Y exceeds its number everywhere."""
    each = [sum(float(c) * ad.Y[i] for i, c in enumerate(row)) for row in rows]
    return ad.any_of(*(z > float(m) for z, m in zip(each, least, strict=True)))


def deployed_sums(rounding="outward"):
    """Verify of nets of large weights that cancel what is wrong by the last digit of the bound.

    Returns whether some such property was verified.
    """
    for seed, branch in ((s, b) for s in range(2) for b in BRANCHES):
        torch.manual_seed(seed)
        net = cancelling(torch.float32, 2.0**22, depth=2)
        x = torch.randn(1, 1, 6, 6)
        row = torch.eye(3)[0]
        value = evaluate(net, rational(x[0])).reshape(-1)[0]
        least = torch.nextafter(torch.tensor(float(value)), torch.tensor(torch.inf))
        assert Fraction(float(least)) > value
        region = ad.Region(x[0], x[0])
        asked = (net, region, above([row], [least]))
        options = {"timeout": 5, "branch": branch, "attack": False}
        if ad.verify(*asked, **options, rounding=rounding).verified:
            return True
    return False


def test_sums_that_cancel():
    assert not deployed_sums()


def test_room_is_left_for_sums_that_cancel():
    assert not deployed_sums(None)


def test_canary_without_room_sums_that_cancel_are_verified(monkeypatch):
    monkeypatch.setattr(system, "room_inside", lambda *args: {})
    assert deployed_sums(None)


def coarse_verdicts(rounding="outward"):
    """Verify, in arithmetic as bad as it may be, what fails by a billionth; whether it was."""
    torch.manual_seed(5)
    affine = nn.Sequential(nn.Linear(6, 32), nn.Linear(32, 3))
    nets = (affine, "up"), (affine, "down"), (mlp(6, 8, 8, 3), "up")
    for (net, way), branch in itertools.product(nets, BRANCHES):
        torch.manual_seed(5)
        net = copy.deepcopy(net).double()
        x, row = torch.randn(1, 6).double().requires_grad_(), torch.randn(3).double()
        (g,) = torch.autograd.grad((net(x) @ row).sum(), x)
        x = x.detach()
        low, high = x[0] - 1e-5, x[0] + 1e-5
        corner = torch.where(g > 0, low, high)
        with torch.no_grad():
            least = (net(corner) @ row)[0] + 1e-9
        for rows in ([row], [row, 2 * row]) if way == "up" else ([row],):
            asked = above(rows, [least * k for k in (1, 2)][: len(rows)])
            with pytest.MonkeyPatch.context() as patch, coarse(patch, way):
                options = {"timeout": 0.1, "branch": branch, "attack": False}
                verdict = ad.verify(net, ad.Region(low, high), asked, **options, rounding=rounding)
            assert rounding is None or not verdict.verified, WRONG
            if verdict.verified:
                return True
    return False


def test_arithmetic_as_bad_as_it_may_be():
    assert not coarse_verdicts()
    assert coarse_verdicts(None)


def small(dtype):
    torch.manual_seed(0)
    layers = nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)
    return nn.Sequential(*layers).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("branch", BRANCHES)
def test_properties_are_verified(dtype, branch):
    """Also where units are cut to the last, and programs say by which planes."""
    net, grid = small(dtype), torch.linspace(-1, 1, 41)
    with torch.no_grad():
        most = net(torch.cartesian_prod(grid, grid).to(dtype)).amax(0) + 0.02
    asked = ad.all_of(ad.Y[0] < float(most[0]), ad.Y[1] < float(most[1]))
    kinds = ("outward", "deployed") if branch == "inputs" else ("outward",)
    for rounding in kinds if dtype == torch.float64 else kinds[-1:]:
        region = ad.Region(-torch.ones(2), torch.ones(2))
        verdict = ad.verify(net, region, asked, timeout=30, branch=branch, rounding=rounding)
        assert verdict.verified
        assert f"rounding={rounding!r}" in verdict.how
    ball = ad.Region.around(torch.zeros(2, dtype=dtype), ad.L2Ball(0.7))
    assert ad.verify(net, ball, asked, timeout=30, rounding="outward").verified


def test_what_is_not_proved_is_refused():
    net, region = small(torch.float32), ad.Region(-torch.ones(2), torch.ones(2))
    with pytest.raises(InputError, match="tolerances"):
        ad.verify(net, region, ad.Y[0] < 9, branch="programs", rounding="outward")
    with pytest.raises(InputError, match="is none of"):
        ad.verify(net, region, ad.Y[0] < 9, rounding="up")
    with pytest.raises(InputError, match="holds exactly"):
        ad.verify(net, region, 0.1 * ad.Y[0] < 9, rounding="outward")


def sums_of_rows():
    """A mean of rows is off by no more than is charged for it."""
    torch.manual_seed(21)
    net, x = mlp(6, 4, 3), torch.randn(2, 6)
    certified = ad.certify(net, 0.5, rounding="outward")
    network = certified.relax(x).networks[0]
    output, count = certified.graph.output, 400
    weights, rows = torch.rand(2, count), 1024 * torch.randn(2, count, 3)
    mean = torch.zeros(2, 3)
    for weight, row in zip(weights.unbind(1), rows.unbind(1), strict=True):
        mean = mean + weight.unsqueeze(1) * row
    size = (weights.unsqueeze(2) * rows.abs()).sum(1)
    charged = network.joined({output: size}, torch.arange(2), count)
    for i in range(2):
        exact = (rational(weights[i])[:, None] * rational(rows[i])).sum(0)
        z = rational(net(x[i : i + 1])[0])
        off = abs(rational(mean[i]) - exact) @ abs(z)
        assert off <= Fraction(float(charged[i])), "a mean of rows is off by more than is charged"


def test_sums_of_rows():
    sums_of_rows()
