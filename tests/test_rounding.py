"""Bounds that hold whatever is rounded, against networks in rational arithmetic."""

import itertools
from fractions import Fraction
from functools import partial

import mpmath as mp
import numpy as np
import pytest
import scipy.optimize
import torch
from torch import nn

import autodual as ad
from autodual.bound import module, outward
from autodual.bound.estimators import exact, optimised
from autodual.duals import REGISTRY, Call, Elementwise
from autodual.duals.base import Hole
from autodual.errors import InputError, UnsupportedOpError
from autodual.interval import Interval
from autodual.rounding import at_least, gamma, up
from tests.coarse import coarse
from tests.exactly import (
    SMOOTH,
    Attend,
    Choose,
    Lines,
    Normed,
    Sign,
    Standard,
    Tied,
    Twice,
    evaluate,
    rational,
)

METHODS = "ibp", "ibp+dual", "dual", "ibp&dual"
DTYPES = torch.float32, torch.float64


def mlp(*sizes):
    modules = [m for n, k in itertools.pairwise(sizes) for m in (nn.Linear(n, k), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *modules[:-1])


def cancelling(dtype, scale, depth=1):
    """Units in pairs that are alike but for their last digits, of which the next layer takes the
    differences."""
    net = mlp(36, *[8] * depth, 3).to(dtype)
    with torch.no_grad():
        for layer in net[1::2]:
            layer.weight.mul_(scale)
            half = layer.weight[1::2]
            half.copy_(layer.weight[::2][: len(half)] + torch.randn_like(half))
            layer.bias.mul_(scale)
        last = net[-1].weight
        last.copy_(torch.randn_like(last))
        last[:, 1::2] = -last[:, ::2]
    return net


def nets():
    """Networks of every kind of op that exact evaluation knows."""
    return {
        "dense": mlp(36, 8, 8, 3),
        "affine": mlp(36, 3),
        "strides": nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(36, 3),
        ),
        "pools": nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.LeakyReLU(0.1),
            nn.MaxPool2d(2),
            nn.AvgPool2d((2, 1)),
            nn.Flatten(),
            nn.Linear(8, 3),
        ),
        "residual": nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding=1),
            nn.ReLU(),
            Twice(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())),
            nn.Flatten(),
            nn.Linear(36, 8),
            nn.Hardtanh(-0.3, 0.7),
            Twice(Twice(nn.Sequential(nn.Linear(8, 8), nn.ReLU()))),
            nn.Linear(8, 3),
        ),
    }


def worst_points(net, x, C, eps):
    """For each row and example the corner of the ball that the gradient points to, in fractions."""
    z = x.clone().requires_grad_()
    e, points = Fraction(eps), []
    for c in C:
        (g,) = torch.autograd.grad((net(z).flatten(1) @ c).sum(), z)
        points.append([rational(v) - rational(s) * e for v, s in zip(x, g.sign(), strict=True)])
    return points


def values_at(net, C, points):
    """Exact values of C z, [S, points, N]."""
    rows = rational(C)
    each = [[rows @ evaluate(net, p).reshape(-1) for p in of_row] for of_row in points]
    return np.array(each, dtype=object).transpose(2, 0, 1)


def excess(bound, values):
    """By how much lower bounds [N, S] exceed exact values, at most."""
    low = bound.T.tolist()
    return max(
        (
            Fraction(b) - v
            for of_row, of_points in zip(low, values, strict=True)
            for each in of_points
            for b, v in zip(of_row, each, strict=True)
            if np.isfinite(b)
        ),
        default=-np.inf,
    )


def lower(net, x, C, eps, bounds="ibp&dual", **options):
    with torch.no_grad():
        return ad.certify(net, eps, bounds=bounds, **options).lower_bound(x, C)


@pytest.mark.parametrize("name", list(nets()))
@pytest.mark.parametrize("dtype", DTYPES)
def test_outward_bounds_hold_in_real_arithmetic(name, dtype):
    torch.manual_seed(0)
    net = nets()[name].to(dtype)
    for eps, scale in ((0.0, 64.0), (0.1, 1.0)):
        x = scale * torch.randn(1, 1, 6, 6, dtype=dtype)
        C = torch.randn(3, 3, dtype=dtype)
        values = values_at(net, C, worst_points(net, x, C, eps))
        for bounds in METHODS:
            for rounding in ("outward", "deployed"):
                found = lower(net, x, C, eps, bounds, rounding=rounding)
                assert found.isfinite().all()
                assert excess(found, values) <= 0, (bounds, rounding, eps)


def jumping(rounding="outward"):
    """By how much bounds exceed values where z meets an edge, in one ulp of x or in none."""
    worst = -np.inf
    kinds = Sign, Choose, partial(Lines, 6), partial(nn.Hardshrink, 0.75)
    for seed, kind in itertools.product(range(4), (*kinds, partial(nn.Threshold, 0.75, -4.0))):
        torch.manual_seed(seed)
        jump = kind()
        first = nn.Linear(3, 6)
        net = nn.Sequential(first, jump, nn.Linear(6, 2))
        x = torch.randn(1, 3)
        edge = 0.0 if isinstance(jump, Sign) else 0.75
        with torch.no_grad():  # for half of the units z is the edge at x, but for rounding
            first.bias[::2] = edge - (first.weight @ x[0])[::2]
        C = torch.randn(4, 2)
        for eps in (0.0, 2.0**-24, 2.0**-10):
            moves = itertools.product((-1, 0, 1), repeat=3)
            points = [rational(x[0]) + Fraction(eps) * np.array(m, dtype=object) for m in moves]
            values = rational(C) @ np.stack([evaluate(net, p) for p in points], 1)
            for bounds in METHODS:
                found = lower(net, x, C, eps, bounds, rounding=rounding)[0]
                assert found.isfinite().all()
                worst = max(
                    worst,
                    *(Fraction(float(b)) - min(v) for b, v in zip(found, values, strict=True)),
                )
    return worst


def test_functions_that_jump():
    assert jumping() <= 0


class Below(nn.Module):
    """A steep line below the smallest normal number."""

    def forward(self, x):
        z = torch.relu(x)
        return torch.where(z < torch.finfo(x.dtype).tiny, 1e6 * z, 0 * z)


@pytest.mark.parametrize("bounds", METHODS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_edge_beside_numbers_that_may_be_lost(dtype, bounds):
    tiny = torch.finfo(dtype).tiny
    net = ad.certify(Below(), 2 * tiny, bounds=bounds, rounding="outward", intervals=True)
    upper = net.bounds(torch.full((1, 1), tiny, dtype=dtype)).upper
    assert Fraction(float(upper)) >= 10**6 * Fraction(tiny) * Fraction(1023, 1024)


def test_plain_bounds_miss_jumps_by_rounding():
    assert jumping(None) > 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [2.0**12, 2.0**22])
def test_differences_of_large_numbers(dtype, scale):
    torch.manual_seed(1)
    net = cancelling(dtype, scale, depth=2)
    x, C = torch.randn(3, 1, 6, 6, dtype=dtype), torch.randn(12, 3, dtype=dtype)
    values = values_at(net, C, worst_points(net, x, C[:4], 1e-6))
    for bounds in METHODS:
        assert excess(lower(net, x, C, 1e-6, bounds), values) > 0
        assert excess(lower(net, x, C, 1e-6, bounds, rounding="outward"), values) <= 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", ["tiny", "subnormal", "huge"])
def test_numbers_at_the_ends_of_the_range(dtype, size):
    """Weights so small that products underflow, and so large that sums nearly overflow."""
    torch.manual_seed(2)
    info = torch.finfo(dtype)
    factor = {"tiny": info.tiny * 64, "subnormal": info.tiny / 64, "huge": info.max / 2**14}[size]
    net = mlp(36, 8, 3).to(dtype)
    with torch.no_grad():
        net[1].weight.mul_(factor)
        net[1].bias.mul_(factor)
    x, C = torch.randn(2, 1, 6, 6, dtype=dtype), torch.randn(4, 3, dtype=dtype)
    values = values_at(net, C, worst_points(net, x, C, 0.01))
    for bounds in METHODS:
        found = lower(net, x, C, 0.01, bounds, rounding="outward")
        assert excess(found, values) <= 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_units_that_are_stable_by_less_than_an_ulp(dtype):
    """|b| is the unit's radius to the last digit, where its interval's end is rounded to 0."""
    eps, net = 0.1, nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3))
    torch.manual_seed(3)
    net = net.to(dtype)
    x, C = torch.zeros(1, 1, 6, 6, dtype=dtype), torch.randn(4, 3, dtype=dtype)
    with torch.no_grad():
        net[1].bias.copy_(-eps * net[1].weight.abs().sum(1))
    exact = rational(net[1].bias) + Fraction(eps) * abs(rational(net[1].weight)).sum(1)
    assert any(v > 0 for v in exact), "some unit must be unstable by less than an ulp"
    corners = [[Fraction(eps) * rational(w.sign()).reshape(1, 6, 6)] for w in net[1].weight]
    values = values_at(net, C, corners)
    for bounds in METHODS:
        found = lower(net, x, C, eps, bounds, rounding="outward")
        assert excess(found, values) <= 0


def forward(net, x, order, dtype):
    """A dense network in floats, its sums in a given order: each product and sum rounded."""
    z = x.flatten().tolist()
    kind = np.float32 if dtype == torch.float32 else np.float64
    for layer in net:
        if isinstance(layer, nn.ReLU):
            z = [max(v, kind(0)) for v in z]
        if isinstance(layer, nn.Linear):
            weights, biases = layer.weight.tolist(), layer.bias.tolist()
            z = [order(row, z, b, kind) for row, b in zip(weights, biases, strict=True)]
    return z


def in_turn(row, z, bias, kind):
    total = kind(bias)
    for w, v in zip(row, z, strict=True):
        total = kind(total + kind(w) * kind(v))
    return total


def backwards(row, z, bias, kind):
    total = kind(0)
    for w, v in zip(row[::-1], z[::-1], strict=True):
        total = kind(total + kind(w) * kind(v))
    return kind(total + kind(bias))


def pairwise(row, z, bias, kind):
    terms = [kind(bias), *(kind(kind(w) * kind(v)) for w, v in zip(row, z, strict=True))]
    while len(terms) > 1:
        odd = terms[-1:] if len(terms) % 2 else []
        terms = [kind(a + b) for a, b in zip(terms[::2], terms[1::2], strict=False)] + odd
    return terms[0]


def by_size(sign):
    def sorted_sum(row, z, bias, kind):
        products = [kind(kind(w) * kind(v)) for w, v in zip(row, z, strict=True)]
        total = kind(0)
        for term in sorted([kind(bias), *products], key=lambda t: sign * t):
            total = kind(total + term)
        return total

    return sorted_sum


def fused(row, z, bias, kind):
    """Fused multiply-add: one rounding for each product and sum."""
    total = kind(bias)
    for w, v in zip(row, z, strict=True):
        exact = Fraction(float(total)) + Fraction(float(w)) * Fraction(float(v))
        total = kind(float(exact)) if kind is np.float64 else kind(np.float64(float(exact)))
    return total


ORDERS = {
    "in turn": in_turn,
    "backwards": backwards,
    "pairwise": pairwise,
    "ascending": by_size(1),
    "descending": by_size(-1),
    "fused": fused,
}


@pytest.mark.parametrize(("scale", "eps"), [(1.0, 2.0**-10), (2.0**12, 2.0**-40)])
def test_the_deployed_network_in_any_order(scale, eps):
    torch.manual_seed(4)
    dtype = torch.float32
    net = cancelling(dtype, scale, depth=2)
    x, C = torch.randn(2, 1, 6, 6, dtype=dtype), torch.randn(4, 3, dtype=dtype)
    bounds = {"deployed": lower(net, x, C, eps, rounding="deployed")}
    rows = rational(C)
    for i, example in enumerate(x):
        lo, hi = (torch.nextafter(example + s * eps, example) for s in (-1, 1))
        for order in ORDERS.values():
            point = torch.where(torch.rand_like(lo) < 0.5, lo, hi)
            z = [Fraction(float(v)) for v in forward(net, point, order, dtype)]
            values = rows @ np.array(z, dtype=object)
            for s, value in enumerate(values):
                assert Fraction(float(bounds["deployed"][i, s])) <= value


def short(net, z, order):
    """A dense network in bfloat16: sums in float32 in some order, then one rounding."""
    z = z.flatten().bfloat16().float()
    for layer in net:
        if isinstance(layer, nn.Linear):
            terms = torch.cat([layer.weight.detach() * z, layer.bias.detach()[:, None]], 1)
            total = torch.zeros(len(terms))
            for term in order(terms).unbind(1):
                total = total + term
            z = total.bfloat16().float()
        if isinstance(layer, nn.ReLU):
            z = z.relu()
    return z


def networks_in_bfloat16():
    """Bounds hold for numbers of eight digits; returns by how much those in float32 do not."""
    torch.manual_seed(22)
    orders = (lambda t: t, lambda t: t.flip(1), lambda t: t.sort(1).values)
    wrong = -np.inf
    for _ in range(3):
        net = mlp(36, 16, 16, 3).bfloat16().float()
        x, C = torch.randn(4, 1, 6, 6).bfloat16().float(), torch.randn(6, 3)
        bounds = {r: lower(net, x, C, 1e-4, rounding=r) for r in ("deployed", "bfloat16")}
        assert (bounds["bfloat16"] > bounds["deployed"] - 1).all(), "of some use"
        for i, order in itertools.product(range(4), orders):
            value = rational(C) @ rational(short(net, x[i], order))
            for kind, bound in bounds.items():
                over = max(Fraction(b) - v for b, v in zip(bound[i].tolist(), value, strict=True))
                assert kind != "bfloat16" or over <= 0, WRONG
                wrong = max(wrong, over)
    return wrong


def test_networks_in_bfloat16():
    assert networks_in_bfloat16() > 0
    net = mlp(4, 3, 2)
    with pytest.raises(InputError, match="weights that bfloat16 holds"):
        ad.certify(net, 0.1, rounding="bfloat16")(torch.randn(1, 4))
    with pytest.raises(InputError, match="in float32"):
        ad.certify(net.double(), 0.1, rounding="bfloat16")(torch.randn(1, 4).double())


SETS = {
    "ℓ∞ in a domain": ad.LinfBall(0.125, domain=(-0.5, 0.5)),
    "ℓ2": ad.L2Ball(0.3),
    "ℓ2 in a domain": ad.L2Ball(0.7, domain=(-0.7, 0.7)),
    "ℓ1": ad.L1Ball(0.3),
    "ℓ1 in a domain": ad.L1Ball(1.1, domain=(-0.7, 0.7)),
    "box": ad.Box(torch.full((1, 6, 6), -0.1).double(), torch.full((1, 6, 6), 0.3).double()),
    "union": ad.Union(ad.LinfBall(0.01), ad.L2Ball(0.1)),
}


def inside(threat, point, x):
    """Whether a point, in fractions, lies in the set around x, exactly."""
    if isinstance(threat, ad.Union):
        return any(inside(member, point, x) for member in threat.members)
    p, step = point.reshape(-1), (point - rational(x)).reshape(-1)
    if threat.domain is not None:
        lo, hi = map(Fraction, threat.domain)
        if any(v < lo or v > hi for v in p):
            return False
    if isinstance(threat, ad.Box):
        ends = rational(threat.lower).reshape(-1), rational(threat.upper).reshape(-1)
        return bool(all((ends[0] <= p) & (p <= ends[1])))
    eps = Fraction(threat.eps)
    if isinstance(threat, ad.LinfBall):
        return max(abs(step)) <= eps
    if isinstance(threat, ad.L1Ball):
        return sum(abs(step)) <= eps
    return sum(step * step) <= eps * eps


def compared(threat, dtype, seed):
    """Compare a linear model and a deeper one with outward bounds at the edge of a set.

    Returns how many values were compared, and how many plain bounds are wrong.
    """
    torch.manual_seed(seed)
    tried, broken = 0, 0
    for net in (mlp(36, 3).to(dtype), cancelling(dtype, 2.0**14)):
        x = torch.randint(-2048, 2048, (4, 1, 6, 6)).to(dtype) / 4096  # x ± ε is exact
        C = torch.randn(6, 3, dtype=dtype)
        bounds = {r: lower(net, x, C, threat, "ibp&dual", rounding=r) for r in (None, "outward")}
        z = x.clone().requires_grad_()
        for s, c in enumerate(C):
            (g,) = torch.autograd.grad((net(z).flatten(1) @ c).sum(), z)
            ends = [(m, m.maximizer(x, -g)) for m in threat.members]
            for i, (member, point) in itertools.product(range(4), ends):
                step = rational(point[i]) - rational(member.center(x)[i])
                for back in (Fraction(0), Fraction(1, 2**22), Fraction(1, 2**10)):
                    inner = rational(member.center(x)[i]) + step * (1 - back)
                    if not inside(member, inner, x[i]):
                        continue
                    value = rational(c) @ evaluate(net, inner).reshape(-1)
                    assert Fraction(float(bounds["outward"][i, s])) <= value
                    broken += Fraction(float(bounds[None][i, s])) > value
                    tried += 1
    return tried, broken


@pytest.mark.parametrize("name", list(SETS))
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_set(name, dtype):
    assert compared(SETS[name], dtype, 5)[0] > 10


def moved_mass(dtype=torch.float32):
    """The best single move of all that the budget pays, exactly; returns by how much plain is off.

    Costs are whole numbers, and every pixel holds more than can be moved.
    """
    wrong, threat = -np.inf, ad.Wasserstein(0.0078125, p=2.0)
    for seed in range(6):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).to(dtype)
        x, C = 1 + torch.rand(1, 1, 6, 6, dtype=dtype), torch.randn(4, 3, dtype=dtype)
        bounds = {r: lower(net, x, C, threat, "dual", rounding=r) for r in (None, "outward")}
        z, budget = rational(x[0]), Fraction(threat.eps) * rational(x).sum()
        rows = rational(C) @ rational(net[1].weight)
        at = (rational(C) @ evaluate(net, z).reshape(-1)).tolist()
        for s, row in enumerate(rows.reshape(4, 6, 6)):
            gains = [
                (row[i, j] - row[k, m]) / ((k - i) ** 2 + (m - j) ** 2)
                for i, j, k, m in itertools.product(range(6), repeat=4)
                if 0 < max(abs(k - i), abs(m - j)) <= 2
            ]
            value = at[s] - budget * max(gains)
            assert Fraction(float(bounds["outward"][0, s])) <= value, WRONG
            wrong = max(wrong, Fraction(float(bounds[None][0, s])) - value)
            off = value - Fraction(float(bounds["outward"][0, s]))
            assert off <= 1e-4 * max(1, abs(value))
    return wrong


def filled():
    """No pixel gets more, and none keeps less, than the interval of the ball says."""
    torch.manual_seed(24)
    threat, x = ad.Wasserstein(2.0**-10, p=2.0), 1 + torch.rand(8, 1, 4, 4)
    box = threat.outward(x).interval(x)
    for i, image in enumerate(x):
        z, budget = rational(image), Fraction(threat.eps) * rational(image).sum()
        assert (rational(box.upper[i]) >= z + budget).all(), "a pixel gets more"
        assert (rational(box.lower[i]) <= z - budget).all(), "a pixel keeps less"


def test_filled():
    filled()


@pytest.mark.parametrize("dtype", DTYPES)
def test_wasserstein_balls(dtype):
    assert moved_mass(dtype) > 0
    torch.manual_seed(23)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)).to(dtype)
    x, C = torch.rand(2, 1, 6, 6, dtype=dtype), torch.randn(3, 3, dtype=dtype)
    for bounds in METHODS:
        threat = ad.Wasserstein(0.01)
        plain = lower(net, x, C, threat, bounds)
        found = lower(net, x, C, threat, bounds, rounding="outward")
        assert (found <= plain).all()
        assert torch.allclose(found, plain, rtol=1e-3, atol=1e-4)


def transported(x, nu, threat):
    """The largest νᵀ(x′ − x) for a row of pixels, by a linear program over plans in float64."""
    n, mass, high = x.shape[1], x[0].double().numpy(), threat.domain[1]
    cost = np.abs(np.subtract.outer(np.arange(n), np.arange(n))).astype(float)
    gain = np.subtract.outer(-nu, -nu).ravel()  # of mass that goes from i to j: ν_j − ν_i
    leaves, lands = np.kron(np.eye(n), np.ones(n)), np.kron(np.ones(n), np.eye(n))
    paid = np.where(cost <= 2, cost, 0).ravel()
    spent = float(at_least(threat.eps, x).double()) * mass.sum()
    found = scipy.optimize.linprog(
        -gain,
        A_ub=np.vstack([lands, paid]),
        b_ub=np.append(np.full(n, float(at_least(high, x).double())), spent),
        A_eq=leaves,
        b_eq=mass,
        bounds=[(0, None if c <= 2 else 0) for c in cost.ravel()],
    )
    return -found.fun


def no_mass_overflows(dtype=torch.float32):
    """Bounds over a ball that a domain cuts hold, to far less than float32 rounds."""
    torch.manual_seed(25)
    met = 0
    for eps, high in itertools.product((0.05, 0.3), (0.7, 1.1)):
        threat = ad.Wasserstein(eps, domain=(0.0, high))
        x, nu = high * torch.rand(24, 6, dtype=dtype).pow(0.3), torch.randn(24, 1, 6, dtype=dtype)
        far = threat.outward(x).deviation(x, nu)
        plain = threat.deviation(x, nu)
        assert (far >= plain * (1 - 1e-5)).all()
        assert (far <= plain * 1.001).all()
        for i in range(len(x)):
            most = transported(x[i : i + 1], nu[i, 0].double().numpy(), threat)
            assert float(far[i]) >= most - 1e-9, WRONG
            met += float(far[i]) < most * (1 + 1e-5)
    assert met > 2  # some bounds are as tight as can be


def full_pixels(dtype=torch.float32):
    """Two pixels, the second all but full: it takes what it has room for, exactly."""
    torch.manual_seed(26)
    threat = ad.Wasserstein(4.0, domain=(0.0, 1.0))
    x = torch.stack([torch.ones(64), torch.rand(64)], 1).to(dtype)
    nu = torch.tensor([[[0.0, 0.7]]], dtype=dtype).expand(64, 1, 2)
    exact = Fraction(float(nu[0, 0, 1])) * (1 - rational(x[:, 1]))
    far = rational(threat.outward(x).deviation(x, nu)[:, 0])
    assert (far >= exact).all(), WRONG
    return int((rational(threat.deviation(x, nu)[:, 0]) < exact).sum())


@pytest.mark.parametrize("dtype", DTYPES)
def test_wasserstein_balls_in_a_domain(dtype):
    assert full_pixels(dtype) > 0
    no_mass_overflows(dtype)
    torch.manual_seed(27)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)).to(dtype)
    x, C = torch.rand(2, 1, 6, 6, dtype=dtype), torch.randn(3, 3, dtype=dtype)
    for bounds in METHODS:
        threat = ad.Wasserstein(0.05, domain=(0.0, 1.0))
        plain = lower(net, x, C, threat, bounds)
        found = lower(net, x, C, threat, bounds, rounding="outward")
        assert (found <= plain).all()
        assert torch.allclose(found, plain, rtol=1e-3, atol=1e-4)


def test_plain_bounds_are_wrong_where_weights_cancel():
    """Somewhere among hundreds of cases: which ones depends on how a machine adds up."""
    seeds = range(6, 16)
    assert any(compared(SETS["ℓ∞ in a domain"], torch.float32, seed)[1] for seed in seeds)


def test_epsilon_is_no_less_than_was_said():
    """0.3 as a float32 is more than 0.3, and 0.7 is less: a model that is the identity tells."""
    net = nn.Sequential(nn.Linear(1, 2, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [0.0]]))
    for eps in (0.3, 0.7, 0.1):
        found = lower(net, torch.zeros(1, 1), torch.eye(2)[:1], eps, rounding="outward")
        assert Fraction(float(found)) <= -Fraction(eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 2.0**12])
def test_optimised_planes(dtype, scale):
    """Each row by means of planes, on intervals found so: tighter than one pass, never wrong."""
    torch.manual_seed(13)
    net, wrong = cancelling(dtype, scale, depth=2), -np.inf
    x, C = torch.randn(2, 1, 6, 6, dtype=dtype), torch.randn(6, 3, dtype=dtype)
    for eps in (1e-6, 0.05):
        values = values_at(net, C, worst_points(net, x, C[:3], eps))
        once = lower(net, x, C, eps, rounding="outward")
        for rounding in ("outward", "deployed"):
            found = lower(net, x, C, eps, optimize=ad.Steps(5, 3), rounding=rounding)
            assert found.isfinite().all()
            assert excess(found, values) <= 0, (rounding, eps)
        assert (lower(net, x, C, eps, optimize=5, rounding="outward") >= once - 1e-6 * scale).all()
        wrong = max(wrong, excess(lower(net, x, C, eps, optimize=5), values))
    assert wrong > 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_optimised_planes_of_smooth_functions(dtype):
    torch.manual_seed(14)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4), nn.SiLU(), nn.Linear(4, 3))
    net = net.to(dtype)
    with torch.no_grad():
        net[2].weight[1::2], net[2].bias[1::2] = net[2].weight[::2], net[2].bias[::2]
        net[4].weight.mul_(2.0**12)
        net[4].weight[:, 1::2] = -net[4].weight[:, ::2]
    x, C = torch.randn(1, 4, dtype=dtype), torch.randn(3, 3, dtype=dtype)
    for eps in (0.0, 1e-7, 0.3):
        values = values_at(net, C, worst_points(net, x, C, eps))
        found = lower(net, x, C, eps, optimize=4, rounding="outward")
        assert found.isfinite().all()
        assert excess(found, values) <= 0


def programs(dtype=torch.float32, scale=2.0**12, eps=1e-6):
    """Linear programs' bounds hold, though what HiGHS says does not; returns by how much, each."""
    torch.manual_seed(17)
    net = cancelling(dtype, scale, depth=2)
    x, C = torch.randn(2, 1, 6, 6, dtype=dtype), torch.randn(6, 3, dtype=dtype)
    values = values_at(net, C, worst_points(net, x, C[:3], eps))
    plain = ad.certify(net, eps).lp(x, C)
    found = {r: ad.certify(net, eps, rounding=r).lp(x, C) for r in ("outward", "deployed")}
    for kind, bound in found.items():
        assert excess(bound, values) <= 0, f"{WRONG}: {kind}"
    return plain, found["outward"], excess(plain, values)


WRONG = "values lie below a bound"


def test_linear_programs():
    assert programs()[2] > 0
    for dtype in DTYPES:
        for eps in (0.05, ad.L1Ball(0.5)):
            torch.manual_seed(18)
            net = cancelling(dtype, 1.0, depth=2)
            x, C = torch.randn(2, 1, 6, 6, dtype=dtype), torch.randn(3, 3, dtype=dtype)
            plain = ad.certify(net, eps).lp(x, C)
            outward = ad.certify(net, eps, rounding="outward")
            assert torch.allclose(outward.lp(x, C), plain, rtol=2e-3, atol=1e-3)
            assert (outward.by(ad.LP(2)).lower_bound(x, C) >= outward.lower_bound(x, C)).all()


def test_slopes_from_outside():
    torch.manual_seed(16)
    net = cancelling(torch.float32, 2.0**12)
    x, C = torch.randn(2, 1, 6, 6), torch.randn(3, 3)
    values = values_at(net, C, worst_points(net, x, C, 1e-3))
    certified = ad.certify(net, 1e-3, bounds="dual", rounding="outward")
    with torch.no_grad():
        found = certified.relax(x, slopes={"relu": torch.rand(2, 8)})
        bound = found.lower({certified.graph.output: C.expand(2, 3, 3)})
    assert excess(bound, values) <= 0


def sums_of_means():
    """Means of distances from planes, of both signs, summed in turn: at least what is exact."""
    torch.manual_seed(15)
    count = 200
    for size in (1.0, 2.0**10):
        a, b, share = (
            torch.randn(2, count) * size,
            torch.randn(2, count) * size,
            torch.rand(2, count),
        )
        b[1] = -(1 - share[1]) / share[1] * a[1]  # the means cancel
        a[0, ::2], b[0, ::2] = -a[0, 1::2] + 1e-5, -b[0, 1::2]  # the sum does
        share[0, ::2] = share[0, 1::2]
        far = optimised.between(
            outward.distances(a, torch.zeros(()), count),
            outward.distances(b, torch.zeros(()), count),
            share,
        )
        exact = (1 - rational(share)) * rational(a) + rational(share) * rational(b)
        for row, truth in zip(far, exact, strict=True):
            total = torch.zeros(())
            for term in row:
                total = total + term
            total = up(total + total * gamma(count, torch.float32))
            assert Fraction(float(total)) >= sum(truth), "a sum of means is too small"


def test_sums_of_means():
    sums_of_means()


class OwnReLU(nn.Module):
    def forward(self, z):
        return z.clamp(min=0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rounding": "up"}, "is none"),
        ({"rounding": "outward", "estimator": ad.Cauchy(10)}, "exact sums"),
        ({"rounding": "outward", "compile": True}, "compiler"),
        ({"rounding": "outward", "bounds": ad.MILP()}, "knows nothing of rounding"),
        ({"rounding": "outward", "choose": {"1": "forward"}}, "choose="),
    ],
)
def test_options_that_exclude_each_other(options, said):
    with pytest.raises(InputError, match=said):
        ad.certify(mlp(4, 3, 2), 0.1, **options)


def test_questions_that_know_nothing_of_rounding():
    net = ad.certify(mlp(4, 3, 2), 0.1, rounding="outward")
    x = torch.randn(2, 4)
    for ask in (
        lambda: net.by(ad.MILP()),
        lambda: net.exact(x),
        lambda: net.emit(x),
        lambda: ad.robust_loss(net, x, torch.tensor([0, 1]), fused=True),
    ):
        with pytest.raises(InputError, match="rounding="):
            ask()


def test_ops_whose_errors_nobody_told():
    """A rule of the user's, and constants that are computed."""
    rule = Elementwise(lambda call, box, slope: None, arguments=("input",))
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanhshrink(), OwnReLU())
    certified = ad.certify(net, 0.1, rounding="outward", rules={nn.Tanhshrink: rule})
    with pytest.raises(UnsupportedOpError, match="errors="):
        certified(torch.randn(1, 4))
    net = nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(4, 3)), nn.ReLU())
    with pytest.raises(UnsupportedOpError, match="constant that is computed"):
        ad.certify(net, 0.1, rounding="outward")(torch.randn(1, 4))
    with pytest.raises(UnsupportedOpError, match="one formula or another"):
        ad.certify(Standard(4, 3), 0.1, rounding="deployed")(torch.randn(1, 4))


def test_numbers_that_are_refused():
    net = ad.certify(mlp(4, 3, 2), 0.1, rounding="outward")
    torch.set_flush_denormal(True)
    try:
        with pytest.raises(InputError, match="subnormal"):
            net(torch.randn(1, 4))
    finally:
        torch.set_flush_denormal(False)
    with pytest.raises(InputError, match="holds exactly"):
        net.holds(torch.randn(1, 4), ad.All(torch.tensor([[0.1, 0.2]]).double() / 3, [0.0]))


def test_certificates_say_it_and_every_question_is_answered():
    torch.manual_seed(6)
    model, x = mlp(4, 6, 3), torch.randn(3, 4)
    net = ad.certify(model, 0.05, rounding="deployed")
    cert, plain = net(x), ad.certify(model, 0.05)(x)
    assert cert.rounding == "deployed"
    assert "rounding='deployed'" in str(cert)
    assert "rounding='deployed'" in repr(net)
    assert "own floating-point numbers" in str(net.explain(x))
    assert (cert.margins <= plain.margins).all()
    assert torch.allclose(cert.margins, plain.margins, atol=1e-4)
    box, wide = ad.certify(model, 0.05).bounds(x), net.bounds(x)
    assert (wide.lower <= box.lower).all()
    assert (wide.upper >= box.upper).all()
    assert (net.radius(x) <= ad.certify(model, 0.05).radius(x) * 1.0001).all()
    within, tight = net.within(x, 0.5).margins, ad.certify(model, 0.05).within(x, 0.5).margins
    assert (within <= tight).all()
    held = net.holds(x, ad.AtLeastOne(torch.eye(3), [0.0, 0.0, 0.0]))
    assert held.rounding == "deployed"
    assert net.prepare(x).solve(torch.eye(3)).lower.shape == (3, 3)
    with pytest.raises(InputError, match="join"):
        ad.Certificate.cat([cert, plain])


def test_the_loss_has_the_gradient_of_the_plain_one():
    torch.manual_seed(7)
    model, x, y = mlp(4, 6, 3).double(), torch.randn(3, 4).double(), torch.tensor([0, 1, 2])
    for bounds in METHODS:
        grads = []
        for rounding in (None, "outward"):
            model.zero_grad()
            ad.robust_loss(
                ad.certify(model, 0.05, bounds=bounds, rounding=rounding), x, y
            ).backward()
            grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        assert torch.allclose(*grads, rtol=1e-6)


def test_parts_and_chunks_are_charged_alike(monkeypatch):
    torch.manual_seed(8)
    net, x = nets()["strides"], torch.randn(6, 1, 6, 6)
    whole = ad.certify(net, 0.05, rounding="outward")(x).margins
    with monkeypatch.context() as few:
        few.setattr(exact, "CACHE_BYTES", 2**12)
        few.setattr(module, "PART", 1e6)
        parts = ad.certify(net, 0.05, rounding="outward")(x).margins
    assert torch.allclose(whole, parts, atol=1e-5)


WEIGHTS = {
    "tied": lambda: Tied(6, 5, 4),
    "standardised": lambda: Standard(6, 4),
    "normed": lambda: Normed(6, 4),
}


def computed_weights(name="tied", dtype=torch.float32):
    """Bounds hold for the weights that the network would have without rounding."""
    torch.manual_seed(20)
    wrong = -np.inf
    for _ in range(4):
        layer = WEIGHTS[name]()
        net = nn.Sequential(layer, nn.ReLU(), nn.Linear(4, 3)).to(dtype)
        with torch.no_grad():
            if name == "tied":  # sums of large numbers that cancel
                layer.a[:, 1], layer.b[1] = layer.a[:, 0], -layer.b[0] + 2.0**-10 * layer.b[1]
                layer.b[:2] *= 2.0**10
        x, C = torch.randn(2, 6, dtype=dtype), torch.randn(4, 3, dtype=dtype)
        for eps in (0.0, 1e-3):
            values = values_at(net, C, worst_points(net, x, C, eps))
            for bounds in ("ibp", "dual", "ibp&dual"):
                found = lower(net, x, C, eps, bounds, rounding="outward")
                assert found.isfinite().all()
                assert excess(found, values) <= 0, WRONG
                wrong = max(wrong, excess(lower(net, x, C, eps, bounds), values))
                assert torch.allclose(found, lower(net, x, C, eps, bounds), rtol=0.05, atol=0.2)
    return wrong


@pytest.mark.parametrize("name", list(WEIGHTS))
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_that_are_computed(name, dtype):
    assert computed_weights(name, dtype) > 0


COMPOSED = {
    "softmax": lambda: nn.Sequential(nn.Linear(4, 3), nn.Softmax(1), nn.Linear(3, 3)),
    "layer norm": lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3)),
    "batch norm": lambda: nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)
    ),
    "attention": lambda: nn.Sequential(
        nn.Linear(4, 6), nn.Unflatten(1, (3, 2)), Attend(), nn.Linear(6, 3)
    ),
}


@pytest.mark.parametrize("name", list(COMPOSED))
@pytest.mark.parametrize("dtype", DTYPES)
def test_ops_made_of_others(name, dtype):
    torch.manual_seed(12)
    net = COMPOSED[name]()
    for layer in net:
        if isinstance(layer, nn.BatchNorm1d):
            layer.running_mean.normal_().mul_(2.0**10)
            layer.running_var.uniform_(0.5, 2)
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias, std=2.0**10)
    net = net.to(dtype).eval()
    for eps, bounds in ((0.0, "ibp&dual"), (1e-6, "ibp"), (0.05, "ibp&dual")):
        x, C = torch.randn(1, 4, dtype=dtype), torch.randn(3, 3, dtype=dtype)
        values = values_at(net, C, worst_points(net, x, C, eps))
        found = lower(net, x, C, eps, bounds, rounding="outward")
        assert found.isfinite().all()
        assert excess(found, values) <= 0, (bounds, eps)


@pytest.mark.parametrize("kind", list(SMOOTH))
@pytest.mark.parametrize("dtype", DTYPES)
def test_smooth_functions(kind, dtype):
    torch.manual_seed(9)
    net = nn.Sequential(nn.Linear(4, 6), kind(), nn.Linear(6, 4), kind(), nn.Linear(4, 3)).to(dtype)
    with torch.no_grad():
        net[2].weight[1::2], net[2].bias[1::2] = net[2].weight[::2], net[2].bias[::2]
        net[4].weight.mul_(2.0**12)
        net[4].weight[:, 1::2] = -net[4].weight[:, ::2]
    for eps, bounds in ((0.0, "ibp"), (1e-7, "dual"), (0.3, "ibp&dual")):
        x, C = torch.randn(1, 4, dtype=dtype), torch.randn(3, 3, dtype=dtype)
        values = values_at(net, C, worst_points(net, x, C, eps))
        found = lower(net, x, C, eps, bounds, rounding="outward")
        assert excess(found, values) <= 0
        assert found.isfinite().all()


ELEMENTARY = {
    "exp": (mp.exp, (-80, 80)),
    "exp2": (lambda z: mp.mpf(2) ** z, (-100, 100)),
    "expm1": (mp.expm1, (-80, 80)),
    "log": (mp.log, (1e-6, 1e6)),
    "log2": (lambda z: mp.log(z, 2), (1e-6, 1e6)),
    "log10": (mp.log10, (1e-6, 1e6)),
    "log1p": (mp.log1p, (-0.999, 1e6)),
    "sqrt": (mp.sqrt, (1e-6, 1e6)),
    "rsqrt": (lambda z: 1 / mp.sqrt(z), (1e-6, 1e6)),
    "reciprocal": (lambda z: 1 / z, (1e-6, 1e6)),
    "sin": (mp.sin, (-700, 700)),
    "cos": (mp.cos, (-700, 700)),
    "tan": (mp.tan, (-700, 700)),
    "sinc": (mp.sincpi, (-200, 200)),
    "asin": (mp.asin, (-1, 1)),
    "acos": (mp.acos, (-1, 1)),
    "acosh": (mp.acosh, (1, 1e6)),
    "atanh": (mp.atanh, (-0.9999, 0.9999)),
    "logit": (lambda z: mp.log(z / (1 - z)), (1e-6, 0.9999)),
    "sinh": (mp.sinh, (-80, 80)),
    "cosh": (mp.cosh, (-80, 80)),
    "atan": (mp.atan, (-1e4, 1e4)),
    "erf": (mp.erf, (-6, 6)),
    "erfc": (mp.erfc, (-6, 6)),
    "tanh": (mp.tanh, (-30, 30)),
    "sigmoid": (SMOOTH[nn.Sigmoid], (-80, 80)),
    "gelu": (SMOOTH[nn.GELU], (-15, 15)),
    "silu": (SMOOTH[nn.SiLU], (-80, 80)),
    "mish": (SMOOTH[nn.Mish], (-80, 80)),
    "elu": (SMOOTH[nn.ELU], (-80, 80)),
    "log_sigmoid_forward": (SMOOTH[nn.LogSigmoid], (-80, 80)),
}


@pytest.mark.parametrize("name", list(ELEMENTARY))
def test_how_far_library_functions_lie_from_the_truth(name):
    """float32 densely against float64, which a few points in 200 bits vouch for."""
    op, rule = getattr(torch.ops.aten, name).default, REGISTRY[f"aten.{name}.default"]
    truth, (low, high) = ELEMENTARY[name]

    def f(z):
        value = op(z)
        return value if isinstance(value, torch.Tensor) else value[0]

    generator = torch.Generator().manual_seed(10)
    share = torch.rand(2**18, generator=generator, dtype=torch.double)
    small = 10 ** (-6 * share) * (torch.rand(2**18, generator=generator) < 0.5).double().sub(0.5)
    z = torch.cat([low + (high - low) * share, small.clamp(low, high)]).float()

    def off(computed, exact, dtype):
        size = exact.abs().clamp(min=max(rule.floor, torch.finfo(dtype).tiny))
        return float(((computed.double() - exact).abs() / size).max() / torch.finfo(dtype).eps * 2)

    assert off(f(z), f(z.double()), torch.float32) <= rule.errors
    few = z[:: 2**12].double()
    with mp.workprec(200):
        error = [
            (truth(mp.mpf(v)) - mp.mpf(w))
            for v, w in zip(few.tolist(), f(few).tolist(), strict=True)
        ]
    exact = f(few) + torch.tensor([float(e) for e in error], dtype=torch.double)
    size = exact.abs().clamp(min=max(rule.floor, torch.finfo(torch.double).tiny))
    errors = torch.tensor([abs(float(e)) for e in error], dtype=torch.double)
    assert float((errors / size).max() * 2**53) <= rule.errors


def enclosed(name, op, truth, low, high, dtype, **args):
    """Whether planes and intervals of a function hold in 200 bits, with what it is charged."""
    names = [a.name for a in op._schema.arguments]
    (argument,) = set(names) - set(args)
    call = Call(op, {a: args.get(a, Hole(0)) for a in names})
    rule = REGISTRY[name].serving([argument], call.args)
    generator = torch.Generator().manual_seed(19)
    center = (low + (high - low) * torch.rand(12, generator=generator, dtype=torch.double)).to(
        dtype
    )
    width = (high - low) * 10 ** (-9 * torch.rand(12, generator=generator)).to(dtype)
    box = Interval((center - width).clamp(min=low), (center + width).clamp(max=high))
    planes = rule.relax(call, box, at=[box.center])
    slack, image = rule.slack(call, box, planes=planes), rule.interval(call, box)
    lines = [*planes.lower_slopes, planes.lower_intercept, *planes.upper_slopes]
    parts = [*lines, planes.upper_intercept, slack, image.lower, image.upper]
    for share in (0.0, 0.3, 0.7, 1.0):
        z = torch.lerp(box.lower, box.upper, share).clamp(box.lower, box.upper)
        for v, *numbers in zip(z.tolist(), *(p.tolist() for p in parts), strict=True):
            if not all(map(np.isfinite, numbers[:5])):
                continue
            with mp.workprec(200):
                f = truth(mp.mpf(v))
                a, b, c, d, s, least, most = map(mp.mpf, numbers)
                lost = (rule.errors + 4) * 2 * torch.finfo(dtype).eps
                size = mp.mpf(max(abs(f), rule.floor)) * lost
                assert a * v + b - s <= f <= c * v + d + s, f"{name} leaves its planes at {v}"
                assert least - size <= f <= most + size, f"{name} leaves its interval at {v}"


@pytest.mark.parametrize(
    "name", sorted(ELEMENTARY.keys() - {"gelu", "elu", "logit", "log_sigmoid_forward"})
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_smooth_functions_in_200_bits(name, dtype):
    truth, (low, high) = ELEMENTARY[name]
    enclosed(f"aten.{name}.default", getattr(torch.ops.aten, name).default, truth, low, high, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_powers_in_200_bits(dtype):
    """Exponents that float32 does not hold are rounded on the way to a library."""
    power = torch.ops.aten.pow.Tensor_Scalar
    for n, high in ((1.1, 1e30), (0.3, 1e30), (-2.7, 1e12), (3.0, 1e12), (2.0, 1e3)):
        truth = partial(lambda z, n: z ** mp.mpf(n), n=n)
        enclosed("aten.pow.Tensor_Scalar", power, truth, 1e-3, high, dtype, exponent=n)
    base = torch.ops.aten.pow.Scalar
    enclosed("aten.pow.Scalar", base, lambda z: mp.mpf(3) ** z, -50, 50, dtype, self=3.0)


def coarsely(monkeypatch, net, x, C, eps, bounds, way, rounding="outward", **options):
    """By how much a bound in coarse arithmetic exceeds the least value found, at most."""
    with coarse(monkeypatch, way) as rules, torch.no_grad():
        how = {"bounds": bounds, "rounding": rounding, "rules": rules, **options}
        certified = ad.certify(net, eps, **how)
        found = certified.lower_bound(x, C)
    most = -torch.inf
    for c, s in itertools.product(C, range(4)):
        z = (x + eps * torch.randn_like(x).sign() * (s > 1)).requires_grad_()
        (g,) = torch.autograd.grad((net(z) @ c).sum(), z)
        point = x - eps * g.sign() if s else x
        most = max(most, float((found - net(point).detach() @ C.mT).max()))
    return most


WAYS = "up", "down", "random"
DEEP = {
    "an affine map": lambda: mlp(6, 3),
    "two affine maps": lambda: nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)),
    "a layer": lambda: mlp(6, 8, 3),
    "two layers": lambda: mlp(6, 8, 8, 3),
}


@pytest.mark.parametrize("name", list(DEEP))
@pytest.mark.parametrize("way", WAYS)
def test_arithmetic_as_bad_as_it_may_be(name, way, monkeypatch):
    torch.manual_seed(11)
    net = DEEP[name]().double()
    x, C = torch.randn(4, 6).double(), torch.randn(6, 3).double()
    for bounds, eps in (("ibp", 0.01), ("dual", 0.3), ("ibp&dual", 0.0), ("ibp&dual", 0.1)):
        assert coarsely(monkeypatch, net, x, C, eps, bounds, way) <= 1e-12
    if way == "up":
        assert coarsely(monkeypatch, net, x, C, 0.0, "ibp&dual", way, None) > 1e-9
