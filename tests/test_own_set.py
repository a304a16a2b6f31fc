"""Sets of one's own: what follows from two answers; and where the points of any set come from."""

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

import autodual as ad
from autodual.errors import InputError

seeds = st.integers(0, 2**31)


class Ellipsoid(ad.ThreatModel):
    """{x′ : ‖(x′ − x)/axes‖₂ ≤ eps}, with an eps for each example."""

    symmetric, per_example = True, ("eps",)

    def __init__(self, axes, eps):
        self.axes, self.eps = axes, eps

    def center(self, x):
        return x

    def deviation(self, x, nu):
        return (self.axes * nu).flatten(2).norm(dim=2) * self.eps.unsqueeze(1)


class Attackable(Ellipsoid):
    """One that attacks can be run on: points outside are drawn towards the center."""

    def project(self, x, point):
        step = point - x
        far = (step / self.axes).flatten(1).norm(dim=1) / self.eps
        return x + step / far.clamp(min=1).reshape(-1, *[1] * (x.dim() - 1))


def draw(shape=(2, 3), n=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, *shape, generator=generator, dtype=torch.float64)
    axes = 0.2 + torch.rand(shape, generator=generator, dtype=torch.float64)
    eps = 0.1 + 0.2 * torch.rand(n, generator=generator, dtype=torch.float64)
    return x, axes, eps


def net(inputs=6, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3)
    ).double()


@pytest.mark.parametrize("bounds", ["ibp", "dual", "ibp+dual", "ibp&dual"])
def test_two_answers_certify(bounds):
    """With equal axes it is the ℓ2 ball; with others, no point of it beats the bound."""
    (x, axes, eps), model = draw(), net()
    y = model(x).argmax(1)
    own = ad.certify(model, Ellipsoid(torch.ones(2, 3), eps), bounds=bounds)
    ball = ad.certify(model, ad.L2Ball(eps), bounds=bounds)
    torch.testing.assert_close(own(x, y).margins, ball(x, y).margins)
    margins = ad.certify(model, Ellipsoid(axes, eps), bounds=bounds)(x, y).margins
    for seed in range(5):
        step = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).double()
        step = step / step.flatten(1).norm(dim=1)[:, None, None] * eps[:, None, None] * axes
        z = model(x + step)
        assert bool((z.gather(1, y[:, None]) - z >= margins - 1e-9).all())


def test_the_box_around_a_set_is_its_reach_along_each_axis():
    x, axes, eps = draw((9, 10))  # more axes than are asked at once
    box = Ellipsoid(axes, eps).interval(x)
    reach = axes * eps[:, None, None]
    torch.testing.assert_close(box.lower, x - reach)
    torch.testing.assert_close(box.upper, x + reach)


def test_what_a_set_lacks_is_said():
    (x, axes, eps), model = draw(), net()
    y, threat = model(x).argmax(1), Ellipsoid(axes, eps)
    with pytest.raises(InputError, match=r"Ellipsoid has no project\(\).*attacks need it"):
        ad.attack.pgd(model, x, y, threat)
    with pytest.raises(InputError, match=r"no distance\(\)"):
        threat.distance(x, x)
    with pytest.raises(InputError, match=r"no reversed\(\)"):
        ad.certify(model, threat).detect(x)
    with pytest.raises(InputError, match="eps needs a row for each of 2"):
        ad.certify(model, threat)(x[:2])
    with pytest.raises(TypeError, match="deviation"):
        ad.ThreatModel()


def test_a_projection_is_all_that_attacks_need():
    (x, axes, eps), model = draw(), net()
    y, threat = model(x).argmax(1), Attackable(axes, eps)
    rows = torch.randn(4, 2, 3).double()
    best = threat.maximizer(x, rows)
    torch.testing.assert_close(
        (best * rows).flatten(1).sum(1), threat.support(x, rows[:, None])[:, 0]
    )
    torch.testing.assert_close(threat.steepest(x, rows), best - x)
    assert bool(threat.contains(x, best).all())
    assert not bool(threat.contains(x, x + 1.01 * (best - x)).any())
    bound = ad.certify(model, threat)(x, y).margins
    for run in (ad.attack.pgd, ad.attack.apgd, ad.attack.search):
        found = run(model, x, y, threat, steps=10, early_stop=True)
        assert found.rejected == 0
        assert bool((found.margins >= bound - 1e-9).all())
        assert bool(((found.x - x) / axes).flatten(1).norm(dim=1).le(eps + 1e-9).all())


def test_a_projection_to_nowhere_is_caught():
    """Canary: membership asks the support too, not the projection alone."""

    class Nowhere(Attackable):
        def project(self, x, point):
            return point

    (x, axes, eps), model = draw(), net()
    with pytest.warns(ad.errors.AttackWarning, match="outside"):
        found = ad.attack.pgd(model, x, model(x).argmax(1), Nowhere(axes, eps), steps=4)
    assert found.rejected > 0


def sets(eps, n, generator, cut):
    """One of every kind that depends on x, for inputs [N, n]."""
    domain = (0.0, 1.0 if cut else torch.inf)
    cost = torch.rand(n, n, generator=generator, dtype=torch.float64)
    cost[torch.rand(n, n, generator=generator) < 0.3] = torch.inf
    cost.fill_diagonal_(0)
    even = torch.minimum(cost, cost.mT)
    balls = [
        ad.LinfBall(eps, domain),
        ad.L2Ball(eps, domain),
        ad.L1Ball(eps, domain),
        ad.Wasserstein(eps, 3, 2.0, domain),
        ad.Wasserstein(eps, domain=domain, cost=cost),
        ad.Wasserstein(eps, domain=domain, cost=even),
    ]
    return [*balls, ad.Union(balls[0], ad.Union(*balls[3:5]))]


@pytest.mark.long
@given(seed=seeds, size=st.sampled_from([0.0, 0.05, 0.5, 3.0]), cut=st.booleans())
@settings(max_examples=8)
def test_every_point_may_come_from_where_it_came_from(seed, size, cut):
    """x′ ∈ B(x) gives x ∈ R(x′), and R reversed is B again."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(3, 5, generator=generator, dtype=torch.float64)
    x = torch.where(torch.rand(x.shape, generator=generator) < 0.3, x.round(), x)
    eps = size * torch.rand(3, generator=generator, dtype=torch.float64)
    direction = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    for threat in sets(eps, 5, generator, cut):
        back = threat.reversed()
        for point in (threat.random_start(x, generator), threat.maximizer(x, direction)):
            assert bool(threat.contains(x, point).all())
            back.check(point)
            assert bool(back.contains(point, x).all()), threat
            assert bool(back.reversed().contains(x, point).all())


def test_balls_and_even_costs_are_their_own_reverse():
    x, generator = torch.rand(2, 5), torch.Generator().manual_seed(0)
    for threat in sets(0.1, 5, generator, True)[:4]:
        assert threat.reversed() is threat
    even = torch.ones(2, 2) - torch.eye(2)
    assert (ball := ad.Wasserstein(0.1, cost=even)).reversed() is ball
    with pytest.raises(InputError, match="does not say where"):
        ad.Box(x - 0.1, x + 0.1).reversed()
    with pytest.raises(InputError, match="does not say where"):
        ad.Union(ad.LinfBall(0.1), ad.Box(x, x)).reversed()


def test_what_mass_can_reach_one_way_only_is_detected_the_other_way():
    class Same(nn.Module):
        def forward(self, x):
            return x * 1.0

    cost = torch.tensor([[0.0, 0.1], [torch.inf, 0.0]])  # from pixel 0 to pixel 1 alone
    before, after = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    for eps in (0.1, torch.tensor([0.1])):
        ball = ad.Wasserstein(eps, cost=cost)
        assert bool(ball.contains(before, after))
        net = ad.certify(Same(), ball)
        assert not bool(net(before).verified)
        assert bool(net(after).verified)
        assert not bool(net.detect(after)), "it may be an adversarial example for ``before``"
        assert bool(net.detect(before)), "nothing can be moved here"
        both = ad.certify(Same(), ad.Union(ad.LinfBall(0.1), ball))
        assert not bool(both.detect(after))
    with pytest.raises(InputError, match="does not say where"):
        ad.certify(Same(), ad.Box(before, after + before)).detect(before)


def test_a_cost_that_is_not_turned_round_is_caught(monkeypatch):
    """Canary: the property above fails where a set returns itself and should not."""
    monkeypatch.setattr(ad.Wasserstein, "reversed", lambda self: self)
    check = test_every_point_may_come_from_where_it_came_from
    name = "_hypothesis_internal_use_settings"
    quick = settings(getattr(check, name), phases=[Phase.generate])  # any example will do
    monkeypatch.setattr(check, name, quick)
    with pytest.raises(AssertionError, match="cost="):
        check()
