"""Small functions of two entries whose bounds are known: exact, or close."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import autodual as ad
from autodual.bound.plan import METHODS
from autodual.errors import GraphError
from autodual.front.fidelity import check_ranges
from tests.zoo import Net

UNIT = ad.Box(-torch.ones(1, 2), torch.ones(1, 2))
CORNER = ad.Box(torch.zeros(1, 2), torch.tensor([[1.0, 0.5]]))


def turned(x):
    theta = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]).expand(x.size(0), 2, 3)
    image = x.view(x.size(0), 1, 1, 2).expand(-1, 1, 2, 2)
    grid = F.affine_grid(theta, image.shape, align_corners=True)
    return F.grid_sample(image, grid, align_corners=True).flatten(1)


KNOWN = {
    "where": (lambda x: torch.where(x > 0, x, 0.1 * x), UNIT, -0.1, 1.0, 1e-3, {}),
    "product": (lambda x: (x > 0) * x, UNIT, 0.0, 1.0, 1e-3, {}),
    "heaviside": (
        lambda x: torch.heaviside(x, torch.ones(1)),
        UNIT,
        0.0,
        1.0,
        1e-3,
        {"intervals": True},
    ),
    "normalize": (lambda x: F.normalize(x, dim=1), UNIT, -1.0, 1.0, 0.5, {}),
    "length": (
        lambda x: torch.sqrt((x * x).sum(1, keepdim=True)),
        CORNER,
        0.0,
        1.25**0.5,
        0.5,
        {"bounds": "dual"},
    ),
    "Fourier": (
        lambda x: torch.fft.irfft(torch.fft.rfft(x) * 2, n=2),
        UNIT,
        -2.0,
        2.0,
        1e-3,
        {},
    ),
    "resampling": (turned, UNIT, -1.0, 1.0, 1e-3, {}),
}


@pytest.mark.parametrize("name", KNOWN)
def test_bounds_are_as_tight_as_they_can_be(name):
    function, box, low, high, tolerance, options = KNOWN[name]
    model = Net(lambda net, x: function(x))
    found = ad.certify(model, box, **options).bounds(box.lower)
    assert bool((found.lower <= low + 1e-5).all() and (found.upper >= high - 1e-5).all())
    assert bool((found.lower >= low - tolerance).all() and (found.upper <= high + tolerance).all())


class Rooted(nn.Module):
    def forward(self, x):
        return torch.log(torch.sqrt(x) + 1) * torch.tensor([1.0, -1.0], dtype=x.dtype)


@pytest.mark.parametrize("method", METHODS)
def test_a_known_range_does_not_hide_that_a_root_is_not_defined(method):
    """√x is never negative where it is a number; where x may be negative it is none."""
    net = ad.certify(Rooted(), 0.1, bounds=method)
    box = net.bounds(torch.tensor([[0.05, 0.5], [0.5, 0.5]], dtype=torch.float64))
    assert bool(box.lower[0].isneginf().all())
    assert bool(box.lower[1].isfinite().all())


def test_a_wrong_range_is_found_out():
    class Squares(nn.Module):
        def forward(self, x):
            return torch.sqrt((x * x).sum(1, keepdim=True))

    found = ad.certify(Squares(), 0.1, bounds="ibp").admitted(torch.rand(2, 3))
    (value,) = found.graph.ranges
    wrong = replace(found.graph, ranges={value: (-1.0, 0.0)})
    check_ranges(found.graph, found.env)
    with pytest.raises(GraphError, match="leaves"):
        check_ranges(wrong, found.env)


BRANCHES = {
    "a square": lambda x: torch.where(x > 0, x * (x + 5), 0 * x),
    "itself squared": lambda x: torch.where(x > 0, x * x, -x),
    "two lines multiplied": lambda x: torch.where(x > 0, (2 * x) * (x + 1), x),
    "a multiple": lambda x: torch.where(x > 0, 5 - x, 0 * x),
    "a jump": lambda x: torch.where(x >= 0, 2 * x + 1, 0.5 * x - 1),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", BRANCHES)
def test_no_branch_is_taken_for_a_line_that_is_none(name, method):
    """Also where x lies in the other branch."""
    model = Net(lambda net, x: BRANCHES[name](x))
    for at in (-0.5, 0.4):
        x = torch.tensor([[at]], dtype=torch.float64)
        box = ad.certify(model, 1.0, bounds=method).bounds(x)
        tried = x + torch.linspace(-1, 1, 401, dtype=x.dtype).unsqueeze(1)
        z = model(tried)
        assert bool(((z >= box.lower - 1e-9) & (z <= box.upper + 1e-9)).all())


def test_what_has_no_bound_does_not_stay_within_a_range():
    """x/‖x‖ is no number at 0, whatever range it has elsewhere."""
    net = ad.certify(Net(lambda net, x: x / x.norm(dim=1, keepdim=True)), 0.5)
    x = torch.tensor([[0.1, 0.2], [3.0, 4.0]])
    assert net.within(x, 2.1).verified.tolist() == [False, True]
    assert bool(net.bounds(x).upper[0].isposinf().all())


def test_a_range_follows_what_it_is_made_of():
    model = Net(lambda net, x: (x.abs() + net.shift).sqrt())
    model.shift = torch.ones(())
    net = ad.certify(model, 1.0)
    net.bounds(torch.ones(1, 2))
    model.shift.data.zero_()
    assert float(net.bounds(torch.ones(1, 2)).lower.max()) <= 0


POWERS = {
    "an exponent that is no integer": (lambda x: x ** torch.tensor([2.0, 0.5]), [1, 2]),
    "a negative exponent": (lambda x: x ** torch.tensor([2, -2]), [0, 1]),
    "a negative base": (lambda x: torch.tensor([2.0, -2.0]) ** x, []),
    "a number as a negative base": (lambda x: (-2.0) ** x, []),
    "a perturbed base that may be negative": (lambda x: x ** x.roll(1, 1), [1, 2]),
}


@pytest.mark.parametrize("name", POWERS)
def test_powers_have_bounds_where_they_are_defined(name):
    """Within 0.1 of (−2.5, −2.5), of (2, 2) and of (2, 0.1), which touches 0."""
    function, defined = POWERS[name]
    x = torch.tensor([[-2.5, -2.5], [2.0, 2.0], [2.0, 0.1]])
    box = ad.certify(Net(lambda net, x: function(x)), 0.1).bounds(x)
    found = (box.lower.isfinite() & box.upper.isfinite()).all(1)
    assert found.nonzero().flatten().tolist() == defined
