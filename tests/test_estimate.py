"""Random projections: what they estimate, what they guarantee, and that the two stay apart."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

import autodual as ad
from autodual.bound.estimators.statistics import margin, tail
from tests.nets import random_mlp
from tests.test_engine import assert_same, picture_net
from tests.test_soundness import random_net

ESTIMATORS = {
    "Cauchy": (lambda r: ad.Cauchy(r), ad.LinfBall(0.02)),
    "Cauchy, cut": (lambda r: ad.Cauchy(r), ad.LinfBall(0.02, (0, 1))),
    "Normal": (lambda r: ad.Normal(r), ad.L2Ball(0.1)),
}


@pytest.mark.parametrize("bounds", ["dual", "ibp&dual", "ibp+dual"])
@pytest.mark.parametrize("kind", ESTIMATORS)
def test_more_projections_approach_the_exact_bound(kind, bounds):
    make, threat = ESTIMATORS[kind]
    for seed in (1, 4):
        model, x, y = picture_net(seed)
        exact = ad.certify(model, threat, bounds=bounds, slopes="equal")(x, y)
        nominal = ad.certify(model, 0.0)(x, y)
        gap = (nominal.margins - exact.margins).max()
        errors = []
        for r in (20, 5000):
            torch.manual_seed(0)
            found = ad.certify(model, threat, bounds=bounds, estimator=make(r))(x, y)
            errors.append(float((found.margins - exact.margins).abs().max() / gap))
        assert errors[1] < 0.15, errors
        assert errors[1] < errors[0]


def test_every_kind_of_op_can_be_projected():
    """Samples pushed forward are the adjoint of rows pulled back: exact for one-sample sums."""
    for seed in range(15):
        model, shape = random_net(seed)
        x = torch.rand(2, *shape, dtype=torch.float64)
        torch.manual_seed(seed)
        found = ad.certify(model, 0.01, estimator=ad.Cauchy(2001)).margins(x, torch.tensor([0, 1]))
        exact = ad.certify(model, 0.01, slopes="equal").margins(x, torch.tensor([0, 1]))
        nominal = ad.certify(model, 0.0).margins(x, torch.tensor([0, 1]))
        gap = (nominal - exact).amax()
        assert bool(((found - exact).abs() <= 0.25 * gap + 1e-9).all())


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_an_estimate_is_never_a_certificate(kind):
    make, threat = ESTIMATORS[kind]
    model, x, y = picture_net(1)
    net = ad.certify(model, threat, estimator=make(5))
    result = net(x, y)
    assert isinstance(result, ad.Estimate)
    assert not hasattr(result, "verified")
    assert "sums are estimated by" in str(result)
    calls = [net.bounds, net.detect, lambda x: net.radius(x, y)]
    calls.append(lambda x: net.lower_bound(x, torch.eye(3, dtype=torch.float64)))
    for call in calls:
        with pytest.raises(ad.errors.UnsoundError, match="sums are estimated"):
            call(x)


def test_one_estimated_node_makes_an_estimate():
    model, x, y = picture_net(1)
    net = ad.certify(model, 0.02, choose={"2": ad.Cauchy(50)})
    assert isinstance(net(x, y), ad.Estimate)
    assert "Cauchy" in str(net.explain(x))


def test_seeds_are_the_callers():
    model, x, y = picture_net(1)
    for estimator in (ad.Cauchy, ad.Normal, ad.Geometric):
        threat = ad.L2Ball(0.1) if estimator is ad.Normal else ad.LinfBall(0.02)
        options = {"repeats": 2} if estimator is ad.Geometric else {}

        def run(seed, estimator=estimator, threat=threat, options=options):
            generator = torch.Generator().manual_seed(seed)
            how = estimator(r=20, generator=generator, **options)
            return ad.certify(model, threat, estimator=how)(x, y).margins

        before = torch.get_rng_state()
        assert torch.equal(run(0), run(0))
        assert not torch.equal(run(0), run(1))
        assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(3)
    net = ad.certify(model, 0.02, estimator=ad.Cauchy(20))
    first, second = net(x, y).margins, net(x, y).margins
    torch.manual_seed(3)
    assert torch.equal(first, net(x, y).margins)
    assert not torch.equal(first, second)


def test_examples_at_a_time_are_the_same_as_all_together(monkeypatch):
    model, x, y = picture_net(4)
    results = []
    for few in (False, True):
        if few:
            monkeypatch.setattr("autodual.bound.module.BoundModule._examples_at_once", lambda *_: 1)
        for threat in (ad.LinfBall(torch.tensor([0.01, 0.02, 0.03])), ad.L2Ball(0.1)):
            kind = ad.Normal if isinstance(threat, ad.L2Ball) else ad.Cauchy
            torch.manual_seed(0)
            net = ad.certify(model, threat, estimator=kind(30))
            margins = net(x, y).margins
            model.zero_grad()
            ad.robust_loss(net, x, y).backward()
            results.append([margins, *(p.grad for p in model.parameters() if p.grad is not None)])
    assert_same(results[0], results[2])
    assert_same(results[1], results[3])


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_gradients_are_those_of_the_estimate(kind):
    """Directional derivatives by central differences, with the noise held fixed."""
    make, threat = ESTIMATORS[kind]
    model, x, y = picture_net(4)
    direction = [torch.randn_like(p) for p in model.parameters()]

    def loss():
        torch.manual_seed(0)
        return ad.robust_loss(ad.certify(model, threat, estimator=make(31)), x, y)

    def move(step):
        with torch.no_grad():
            for p, d in zip(model.parameters(), direction, strict=True):
                p += step * d

    model.zero_grad()
    loss().backward()
    pairs = zip(model.parameters(), direction, strict=True)
    slope = sum(float((p.grad * d).sum()) for p, d in pairs if p.grad is not None)
    move(1e-6)
    above = float(loss().detach())
    move(-2e-6)
    difference = (above - float(loss().detach())) / 2e-6
    assert slope == pytest.approx(difference, rel=1e-4, abs=1e-6)


def test_the_tail_bound_holds_for_cauchy_variables():
    """Observed failures of 200,000 geometric means against the Chernoff bound."""
    generator = torch.Generator().manual_seed(0)
    for r, t in ((10, 0.5), (50, 0.3), (20, 0.4)):
        draws = torch.empty(200_000, r, dtype=torch.float64).cauchy_(generator=generator)
        geometric = draws.abs().log().mean(1).exp()
        failed = float((geometric <= 1 - t).double().mean())
        assert 0 < failed <= tail(t, r)


def test_the_constants_of_the_thesis():
    """Section 3.4.6: δ = 0.01, N = 6572, m = 10, k = 200 gives δ̂ = 0.26 and ε = 0.22 in print.

    δ̂ is right; for it ε = 0.167 is enough.
    """
    each = (0.01 / 6572) ** (1 / 10)
    assert each == pytest.approx(0.2620, abs=5e-5)
    t = margin(200, 10, 0.01 / 6572)
    assert t == pytest.approx(0.1664, abs=5e-5)
    assert tail(t, 200) <= each < tail(t - 1e-4, 200)
    assert tail(0.22, 200) < each


def test_margins_shrink_with_more_projections():
    grows = [margin(r, 10, 1e-6) for r in (1, 10, 100, 1000, 10_000)]
    assert all(a > b for a, b in pairwise(grows))
    assert 0 < grows[-1] < grows[0] <= 1
    assert math.isclose(margin(100, 2, 0.25), margin(100, 1, 0.5))


@pytest.mark.long
def test_geometric_bounds_hold_as_often_as_they_promise():
    """A thousand draws with δ = 0.3: even so loose a promise is kept with room to spare."""
    model = random_mlp(1, (4, 6, 5, 3))
    x, y = torch.rand(1, 4, dtype=torch.float64), torch.tensor([0])
    exact = ad.certify(model, 0.1, bounds="dual", slopes="equal")(x, y).margins
    generator = torch.Generator().manual_seed(0)
    estimator = ad.Geometric(r=20, repeats=2, delta=0.3, generator=generator)
    net = ad.certify(model, 0.1, bounds="dual", estimator=estimator)
    broken = sum(bool((net(x, y).margins > exact + 1e-9).any()) for _ in range(1000))
    assert broken / 1000 <= 0.3


def test_a_geometric_certificate_says_its_chance():
    model, x, y = picture_net(1)
    estimator = ad.Geometric(r=200, repeats=3, delta=0.05)
    certificate = ad.certify(model, 0.001, estimator=estimator)(x, y)
    assert isinstance(certificate, ad.Certificate)
    assert certificate.delta == 0.05
    assert "each with probability 0.95" in str(certificate)
    assert certificate.verified.shape == (3,)
    exact = ad.certify(model, 0.001, slopes="equal")(x, y)
    assert exact.delta == 0.0
    assert bool((certificate.margins <= exact.margins + 1e-9).all())
    with pytest.raises(ad.errors.InputError, match="a δ for each"):
        ad.certify(model, 0.001, estimator=estimator).radius(x, y)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ad.Cauchy(0), "r=.*: give a whole number"),
        (lambda: ad.Cauchy(2.5), "r=.*: give a whole number"),
        (lambda: ad.Normal(True), "r=.*: give a whole number"),
        (lambda: ad.Geometric(r=-1), "r=.*: give a whole number"),
        (lambda: ad.Geometric(repeats=0), "repeats=0: give a whole number"),
        (lambda: ad.Geometric(delta=0.0), "delta must lie between"),
        (lambda: ad.Geometric(delta=float("nan")), "delta must lie between"),
        (lambda: ad.certify(nn.ReLU(), 0.1, bounds="ibp", estimator=ad.Cauchy(5)), "sums nothing"),
        (lambda: ad.certify(nn.ReLU(), 0.1, estimator=50), "estimator=50"),
    ],
)  # fmt: skip
def test_wrong_estimators_are_refused(make, says):
    with pytest.raises(ad.errors.InputError, match=says):
        make()


@pytest.mark.parametrize(
    ("threat", "estimator", "says"),
    [
        (ad.L2Ball(0.1), ad.Cauchy(5), "need a set that is a box"),
        (ad.L1Ball(0.1), ad.Geometric(), "need a set that is a box"),
        (ad.LinfBall(0.1), ad.Normal(5), "estimate ℓ2 balls"),
    ],
)
def test_an_estimator_must_fit_the_set(threat, estimator, says):
    model, x, y = picture_net(1)
    with pytest.raises(ad.errors.InputError, match=says):
        ad.certify(model, threat, estimator=estimator)(x, y)
