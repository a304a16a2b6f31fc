"""Small functions of two entries whose bounds are known: exact, or close."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import autodual as ad
from autodual.bound.plan import METHODS
from autodual.errors import GraphError
from autodual.front.capture import capture
from autodual.front.fidelity import check_ranges
from autodual.front.passes import simplify
from autodual.front.passes.quotients import Shares
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


W = torch.tensor([[1.0, 2.0, -1.0], [0.5, 0.0, 3.0]], dtype=torch.float64)


def rms(x):
    return x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6)


def scored(x):
    return (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5)


def largest(x):
    """The largest entry, as the root of a sum of one square."""
    return x.abs().amax(1, keepdim=True).square().sum(1, keepdim=True).sqrt()


ROOT = 3**0.5
RANGES = {
    "the largest": (lambda x: x / (x.abs().amax(1, keepdim=True) + 1e-6), -1, 1),
    "a p-norm": (lambda x: F.normalize(x, p=3, dim=1), -1, 1),
    "shares": (lambda x: x.exp() / x.exp().sum(1, keepdim=True), 0, 1),
    "a length": (lambda x: x.norm(dim=1, keepdim=True), 0, 4),
    "a norm put back": (lambda x: x / (x.norm(dim=1)[:, None] + 0.1), -1, 1),
    "half a length": (lambda x: x / (1e-3 + 0.5 * (x * x).sum(1, keepdim=True).sqrt()), -2, 2),
    "a length and more": (
        lambda x: x * (1 / (x.norm(dim=1, keepdim=True) + x.exp() + 0.01)),
        -1,
        1,
    ),
    "cosines": (lambda x: F.cosine_similarity(x, x.roll(1, 1), dim=1)[:, None], -1, 1),
    "cosines of all": (lambda x: F.cosine_similarity(x[:, None], W, dim=-1), -1, 1),
    "cosines by weights": (lambda x: F.linear(F.normalize(x), F.normalize(W)), -1, 1),
    "cosines by matrices": (lambda x: F.normalize(x) @ F.normalize(W).T, -1, 1),
    "angles": (lambda x: (F.normalize(x) @ F.normalize(W).T).acos(), 0, 3.15),
    "root mean squares": (rms, -ROOT, ROOT),
    "standardised": (scored, -ROOT, ROOT),
}


@pytest.mark.parametrize("name", RANGES)
def test_what_is_obvious_holds_in_every_method(name):
    function, low, high = RANGES[name]
    model = Net(lambda net, x: function(x))
    x = torch.tensor([[0.3, -0.2, 0.1], [-0.5, 0.9, 0.4]], dtype=torch.float64)
    tried = x + 1.6 * torch.rand(2000, 2, 3, dtype=x.dtype) - 0.8
    z = model(tried.flatten(0, 1)).unflatten(0, (-1, 2))
    for method in METHODS:
        box = ad.certify(model, 0.8, bounds=method).bounds(x)
        assert bool((box.lower >= low - 1e-9).all() and (box.upper <= high + 1e-9).all()), method
        assert bool((box.lower <= z + 1e-9).all() and (box.upper >= z - 1e-9).all()), method


@pytest.mark.parametrize("optimize", [None, 20])
@pytest.mark.parametrize("slopes", ["free", "equal"])
def test_features_that_do_not_move_bring_no_rounding(slopes, optimize):
    """All that is known of the reciprocal of a length is that it is at most 10¹²."""
    x, reach = torch.rand(50, 3) + 0.5, torch.tensor([0.0, 0.1, 0.1])
    model = Net(lambda net, x: F.normalize(x))
    around, options = ad.Box(x - reach, x + reach), {"slopes": slopes, "optimize": optimize}
    net = ad.certify(model, around, bounds="dual", **options)
    box, z = net.bounds(x), model(x)
    assert bool(((box.lower <= z + 1e-6) & (z <= box.upper + 1e-6)).all())


LOOK_ALIKE = {
    "less than a length": lambda x: x / (x.norm(dim=1, keepdim=True) - 1e-3),
    "another's length": lambda x: x / x.roll(1, 1)[:, :2].norm(dim=1, keepdim=True),
    "along another dimension": lambda x: x[:, None] * x[:, :, None] / x.norm(dim=1)[:, None, None],
    "a part of a length": lambda x: x / (x[:, :2].norm(dim=1, keepdim=True) + 0.01),
    "a sum that may be negative": lambda x: x / (x.sum(1, keepdim=True) + 0.01),
    "a quasinorm of less than itself": lambda x: x / x.norm(p=0.5, dim=1, keepdim=True).sqrt(),
    "a length squared": lambda x: x / (x.pow(2).sum(1, keepdim=True) + 1e-3),
    "cosines in a larger norm": lambda x: F.normalize(x, p=4) @ F.normalize(W, p=4).T,
    "cosines in the largest entry": lambda x: (x / largest(x) * (x / largest(x))).sum(1),
    "cosines with a shift": lambda x: F.linear(F.normalize(x), F.normalize(W), W[:, 0]),
    "weights of another length": lambda x: F.normalize(x) @ F.normalize(W, dim=0).T,
    "scores about another mean": lambda x: (x - x.mean()) / (x.std(1, keepdim=True) + 1e-5),
}


@pytest.mark.parametrize("name", LOOK_ALIKE)
def test_what_looks_alike_has_no_range(name):
    model = Net(lambda net, x: LOOK_ALIKE[name](x))
    x = torch.tensor([[0.3, -0.2, 0.1], [-0.5, 0.9, 0.4]], dtype=torch.float64)
    found = capture(model, ad.Inputs(x)).graph
    assert simplify(found).ranges.get(found.output, (-torch.inf, 2.0)) != (-1.0, 1.0)
    shares = Shares(found)
    last = found.producers[found.output]
    assert shares.divided(last, frozenset()) is None
    assert shares.cosine(last) == torch.inf


def test_a_wrong_range_is_found_out():
    class Squares(nn.Module):
        def forward(self, x):
            return torch.sqrt((x * x).sum(1, keepdim=True))

    found = ad.certify(Squares(), 0.1, bounds="ibp").admitted(torch.rand(2, 3))
    value = next(iter(found.graph.ranges))
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
