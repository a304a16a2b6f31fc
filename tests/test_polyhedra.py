"""Programs over sets that are polyhedra: Wasserstein balls, against their formulas, and others."""

import numpy as np
import pytest
import torch
from torch import nn

import autodual as ad
from autodual.errors import InputError
from autodual.testing import check_threat_model

from . import oracles
from .questions import DOUBLE, rows, values
from .test_wasserstein import cheapest, matrices, reach

EPS = 0.3


def mlp(x, seed):
    """Return a net that is undecided about the mean of images."""
    torch.manual_seed(seed)
    first = nn.Flatten(), nn.Linear(x[0].numel(), 6), nn.ReLU()
    model = nn.Sequential(*first, nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
        model[-1].bias.sub_(model(x).mean(0))
    return model


def images(shape, seed, n=1):
    """Return images of which some pixels are empty and some full."""
    x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    return torch.where(x < 0.3, 0.0, torch.where(x > 0.9, 1.0, x))


def uneven(n):
    """Return a cost matrix for n pixels with moves that cannot be made, and one that is free."""
    cost = torch.rand(n, n, generator=torch.Generator().manual_seed(n), dtype=DOUBLE)
    cost[cost < 0.2] = torch.inf
    cost[0, 1] = 0.0
    return cost.fill_diagonal_(0)


def dense(moves, n):
    cost = np.full((n, n), np.inf)
    for source, target, price in moves:
        cost[source, target] = price
    return cost


def least(model, x, ball, spec, boxes=None, exact=False):
    """Return the least C z over the ball around one image by the formulas, over all pairs."""
    flat, high = x.flatten().numpy(), 1.0 if ball.domain else float(x.sum())
    moves = reach(x.shape[1:], ball.kernel, ball.p, ball.cost)
    plan = flat, dense(moves, len(flat)), ball.eps * flat.sum()
    ends = np.zeros(len(flat)), np.full(len(flat), high)
    weights = oracles.layers(model, x.shape[1:])
    boxes = oracles.intervals(weights, *ends) if boxes is None else boxes
    return oracles.optimum(weights, boxes, *ends, spec.numpy(), exact=exact, plan=plan)


CASES = {
    "one channel": ((1, 4, 4), ad.Wasserstein(EPS, 3)),
    "two channels in a domain": ((2, 3, 3), ad.Wasserstein(EPS, 3, domain=(0, 1))),
    "far in a domain": ((1, 4, 4), ad.Wasserstein(0.6, 5, 2.0, domain=(0, 1))),
    "a cost matrix": ((2, 2, 3), ad.Wasserstein(0.1, cost=uneven(6))),
    "a cost matrix in a domain": ((6,), ad.Wasserstein(0.1, cost=uneven(6), domain=(0, 1))),
    "no move": ((5,), ad.Wasserstein(EPS, 1)),
}


def program_and_formulas(net, x, spec):
    """Return what the program says of rows, and the formulas on the same intervals."""
    boxes = [
        (b.lower[0].detach().numpy(), b.upper[0].detach().numpy())
        for b in net.relax(x).boxes.values()
    ]
    return net.lp(x, spec)[0].numpy(), least(net.model, x, net.threat, spec, boxes)


@pytest.mark.parametrize("name", CASES)
def test_the_program_over_plans_written_from_the_formulas_is_the_same(name):
    """And it lies where it must: attack ≥ exact ≥ program ≥ optimised dual ≥ fixed dual."""
    shape, ball = CASES[name]
    x, spec = images(shape, 1), rows()[-4:]
    model = mlp(x, 0)
    net = ad.certify(model, ball)
    mine, theirs = program_and_formulas(net, x, spec)
    np.testing.assert_allclose(mine, theirs, atol=1e-7)
    exact = least(model, x, ball, spec[-2:], exact=True)
    optimised = ad.certify(model, ball, optimize=ad.Steps(5, 0)).lower_bound(x, spec)[0]
    fixed = net.lower_bound(x, spec)[0]
    assert (exact >= mine[-2:] - 1e-7).all()
    assert (mine >= optimised.detach().numpy() - 1e-7).all()
    assert (optimised >= fixed - 1e-9).all()
    found = ad.attack.wasserstein(model, x, [0], ball, steps=5).margins[0, 1:]
    assert (found >= torch.from_numpy(exact) - 1e-6).all()


@pytest.mark.parametrize("domain", [None, (0, 1)])
def test_verdicts_are_those_of_an_independent_program(domain, monkeypatch):
    """By programs alone, and what they find lies in the ball."""
    for other in ("attack", "bound"):
        monkeypatch.setattr(f"autodual.ladder.exact._Deciding.{other}", lambda *_: None)
    n, eps = 5, 0.1
    x = images((1, 3, 3), 2, n)
    model, moves = mlp(x, 2), reach(x.shape[1:], 3, 1.0)
    y, ball = model(x).argmax(1), ad.Wasserstein(eps, 3, domain=domain)
    verdict = ad.certify(model, ball, optimize=1).exact(x, y)
    assert set(verdict.reasons) == {"falsified by programs", "verified by programs"}
    for i in range(n):
        others = [k for k in range(3) if k != y[i]]
        spec = torch.eye(3)[y[i]] - torch.eye(3)[others]
        true = least(model, x[i : i + 1], ball, spec, exact=True).min()
        assert bool(verdict.verified[i]) == (true > 0)
        assert verdict.lower[i] <= true + 1e-6
        if verdict.falsified[i]:
            point, start = (z[i].flatten().numpy() for z in (verdict.x, x))
            assert model(verdict.x[i : i + 1]).argmax() != y[i]
            assert point.sum() == pytest.approx(start.sum(), abs=1e-9)
            assert point.min() >= -1e-9
            assert domain is None or point.max() <= 1 + 1e-9
            assert cheapest(moves, start, np.maximum(point, 0)) <= eps + 1e-6
    for attack in (ad.attack.wasserstein, ad.attack.pgd):
        found = attack(model, x, y, ball, steps=5)
        assert not (found.success & verdict.verified).any()


def test_a_union_is_bounded_and_decided_over_each_member():
    x = images((1, 3, 3), 2, 5)
    model = mlp(x, 2)
    members = ad.LinfBall(0.02), ad.Wasserstein(0.1, 3, domain=(0, 1))
    union, *alone = (ad.certify(model, ball, optimize=1) for ball in (ad.Union(*members), *members))
    low = torch.minimum(*(net.lp(x, rows()) for net in alone))
    torch.testing.assert_close(union.lp(x, rows()), low)
    both, *each = (net.exact(x) for net in (union, *alone))
    assert not both.unknown.any()
    assert torch.equal(both.verified, each[0].verified & each[1].verified)
    assert both.verified.any()
    assert both.falsified.any()


def test_each_image_has_a_plan_and_an_eps_of_its_own():
    x, eps = images((1, 3, 3), 4, 3), torch.tensor([0.05, 0.2, 0.6], dtype=DOUBLE)
    model = mlp(x, 0)
    together = ad.certify(model, ad.Wasserstein(eps.reshape(3, 1, 1, 1), 3)).lp(x, rows())
    for i in range(3):
        own = ad.certify(model, ad.Wasserstein(float(eps[i]), 3)).lp(x[i : i + 1], rows())
        torch.testing.assert_close(together[i : i + 1], own)


class Brighter(ad.ThreatModel):
    """{x + d : d ≥ 0, Σd ≤ eps}, a set of one's own."""

    def __init__(self, eps):
        self.eps = eps

    def center(self, x):
        return x

    def deviation(self, x, nu):
        return self.eps * nu.flatten(2).amax(2).clamp(min=0).expand(len(x), -1)

    def polyhedron(self, x):
        size, eps = x[0].numel(), x.new_tensor([self.eps])
        low, high = x.new_zeros(size), eps.expand(size)
        return ad.Polyhedron(torch.eye(size), low, high, torch.ones(1, size), eps)

    def project(self, x, point):
        d = (point - x).clamp(min=0)
        total = d.flatten(1).sum(1).clamp(min=1e-12)
        return x + d * (self.eps / total).clamp(max=1).reshape(-1, *[1] * (x.dim() - 1))


def test_a_set_of_ones_own_that_is_a_polyhedron():
    x, threat = images((4,), 5, 3), Brighter(0.8)
    model = mlp(x, 5)
    net = ad.certify(model, threat)
    program = net.lp(x, rows())
    optimised = ad.certify(model, threat, optimize=ad.Steps(30, 0)).lower_bound(x, rows())
    assert (program >= optimised - 1e-7).all()
    assert (program > optimised + 1e-6).any()
    corners = 0.8 * torch.cat([torch.zeros(1, 4), torch.eye(4)]).double()
    for corner in corners:
        assert (values(model, x + corner) >= program - 1e-9).all()
    affine = nn.Linear(4, 3).double()
    least = torch.stack([values(affine, x + corner) for corner in corners]).amin(0)
    torch.testing.assert_close(ad.certify(affine, threat).lp(x, rows()), least.detach())
    verdict = net.exact(x)
    assert not verdict.unknown.any()
    assert verdict.falsified.any()
    check_threat_model(threat, x, rows=5)


class Ends(ad.L1Ball):
    """The ℓ1 ball by all its facets."""

    def polyhedron(self, x):
        size = x[0].numel()
        signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * size)
        high = x.new_full((size,), self.eps)
        return ad.Polyhedron(torch.eye(size), -high, high, signs, high[:1].expand(len(signs)))


@pytest.mark.parametrize("domain", [None, (0, 1)])
def test_one_set_in_other_words_has_the_same_programs(domain):
    x = images((4,), 6, 2)
    model = mlp(x, 6)
    one, other = (ad.certify(model, kind(0.5, domain)).lp(x, rows()) for kind in (ad.L1Ball, Ends))
    torch.testing.assert_close(one, other)


class Half:
    """Half as far."""

    def deviation(self, x, nu):
        return super().deviation(x, nu) / 2


class Moved:
    """Elsewhere."""

    def center(self, x):
        return super().center(x) + 1


@pytest.mark.parametrize("mixed", [Half, Moved])
@pytest.mark.parametrize("kind", [ad.Wasserstein, ad.L1Ball, ad.L2Ball, ad.LinfBall])
def test_what_answers_on_its_own_is_not_taken_for_its_parent(mixed, kind):
    x, spec = images((4,), 7), torch.eye(3, dtype=DOUBLE)
    own = type("Own", (mixed, kind), {})
    if mixed is Half or kind in (ad.Wasserstein, ad.L1Ball):
        with pytest.raises(InputError, match=r"polyhedron\(\), not Own"):
            ad.certify(mlp(x, 7), own(0.1)).lp(x, spec)
    renamed = type("Own", (kind,), {"said": lambda self, word: "a ball"})
    net, other = (ad.certify(mlp(x, 7), ball(0.1)) for ball in (renamed, kind))
    torch.testing.assert_close(net.lp(x, spec), other.lp(x, spec))


def test_a_polyhedron_that_is_too_small_is_named_by_the_kit():
    class Small(Brighter):
        def polyhedron(self, x):
            return Brighter(0.9 * self.eps).polyhedron(x)

    for exact in (True, False):
        with pytest.raises(AssertionError, match="polyhedron"):
            check_threat_model(Small(0.5), images((4,), 8, 2), exact=exact)


def test_a_polyhedron_of_the_wrong_shape_is_refused():
    class Wrong(Brighter):
        def polyhedron(self, x):
            return Brighter.polyhedron(self, torch.zeros(1, 5))

    with pytest.raises(InputError, match=r"Wrong\.polyhedron\(x\) has steps of 5 entries.* 4"):
        ad.certify(nn.Linear(4, 3), Wrong(0.1)).lp(torch.rand(1, 4), torch.eye(3))
    one, two = torch.ones(1), torch.ones(2)
    with pytest.raises(InputError, match=r"rows \[M, V\].*not \[2, 2\], \[2\], \[1\]"):
        ad.Polyhedron(torch.eye(2), two, one, torch.ones(1, 2), one)


def test_plans_hold_the_moves_that_there_are_and_no_others():
    """From pixels with mass, to pixels inside; all that is said of them fits the formulas."""
    shape = (2, 3, 2)
    x, moves = images(shape, 3), reach(shape, 3, 1.0)
    flat = x.flatten().numpy()
    there = [move for move in moves if move[0] != move[1] and flat[move[0]] > 0]
    leaves, arrives, price = matrices(there, 12)
    plan = ad.Wasserstein(EPS, 3).polyhedron(x)
    columns = torch.cat([plan.steps.to_dense(), plan.rows.to_dense()]).numpy()
    theirs = np.concatenate([arrives - leaves, leaves, price[None]])
    assert sorted(map(tuple, columns.T.round(9))) == sorted(map(tuple, theirs.T.round(9)))
    np.testing.assert_allclose(plan.most, [*flat, EPS * flat.sum()])
    np.testing.assert_array_equal(sorted(plan.high.tolist()), sorted(flat @ leaves))
