"""Wasserstein balls: support against linear programs, projections, attacks and certificates."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, nnls
from torch import nn

import autodual as ad

seeds = st.integers(0, 2**31)
SHAPES = [(1, 4, 3), (2, 3, 2), (6,), (2, 4)]


def reach(shape, kernel, p, cost=None):
    """All moves (source, target, cost) by the definition, over the flat coordinates."""
    channels, height, width = {1: (1, 1, *shape), 2: (shape[0], 1, shape[-1])}.get(
        len(shape), shape
    )
    n, half = height * width, kernel // 2
    found = []
    for channel in range(channels):
        for i in range(n):
            for j in range(n):
                down, right = i // width - j // width, i % width - j % width
                price = np.hypot(down, right) ** p
                if cost is not None:
                    price = float(cost[i, j])
                elif max(abs(down), abs(right)) > half:
                    continue
                if np.isfinite(price):
                    found.append((channel * n + i, channel * n + j, price))
    return found


def matrices(moves, n):
    source, target, price = (np.array(c) for c in zip(*moves, strict=True))
    every = np.arange(len(source))
    leaves, arrives = np.zeros((n, len(source))), np.zeros((n, len(source)))
    leaves[source, every] = arrives[target, every] = 1
    return leaves, arrives, price


def best(moves, x, nu, budget, high=np.inf):
    """max νᵀx′ over the ball, by linear programming."""
    leaves, arrives, price = matrices(moves, len(x))
    limits, most = [price[None]], [[budget]]
    if np.isfinite(high):
        limits, most = [*limits, arrives], [*most, np.full(len(x), high)]
    result = linprog(
        -nu @ arrives, A_ub=np.concatenate(limits), b_ub=np.concatenate(most), A_eq=leaves, b_eq=x
    )
    assert result.status == 0, result.message
    return -result.fun


def cheapest(moves, x, point):
    """The cost of the cheapest plan from x to the point, per unit of mass, or infinity."""
    leaves, arrives, price = matrices(moves, len(x))
    result = linprog(price, A_eq=np.concatenate([leaves, arrives]), b_eq=np.concatenate([x, point]))
    return result.fun / x.sum() if result.status == 0 else np.inf


def draw(seed, shape, n=2, rows=2):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, *shape, generator=generator, dtype=torch.float64)
    x = torch.where(torch.rand(x.shape, generator=generator) < 0.4, 0.0, x)
    nu = torch.randn(n, rows, *shape, generator=generator, dtype=torch.float64)
    nu = torch.where(torch.rand(nu.shape, generator=generator) < 0.3, nu.round(), nu)
    return x, nu, generator


@given(
    seed=seeds,
    shape=st.sampled_from(SHAPES),
    eps=st.sampled_from([0.0, 0.01, 0.3, 1.0, 1e30]),
    kernel=st.sampled_from([1, 3, 5]),
    p=st.sampled_from([0.5, 1, 2]),
    matrix=st.booleans(),
)
@settings(max_examples=40)
def test_support_is_the_linear_program(seed, shape, eps, kernel, p, matrix):
    x, nu, generator = draw(seed, shape)
    cost = None
    if matrix:
        n = int(np.prod(shape[1:])) if len(shape) > 1 else shape[0]
        cost = torch.rand(n, n, generator=generator, dtype=torch.float64)
        cost[torch.rand(n, n, generator=generator) < 0.2] = torch.inf
        cost[0, -1] = 0.0
        cost.fill_diagonal_(0)
    ball = ad.Wasserstein(eps, kernel, p, cost=cost)
    moves = reach(shape, kernel, p, cost)
    support = ball.support(x, nu)
    box = ball.interval(x)
    torch.testing.assert_close(ball.support(x, nu[:1])[0], support[0])
    for i in range(2):
        flat, budget = x[i].flatten().numpy(), min(eps, 1e3) * float(x[i].sum())
        for s in range(2):
            value = best(moves, flat, nu[i, s].flatten().numpy(), budget)
            assert float(support[i, s]) == pytest.approx(value, rel=1e-8, abs=1e-8)
        k = seed % len(flat)
        unit = np.eye(len(flat))[k]
        assert float(box.upper[i].flatten()[k]) == pytest.approx(best(moves, flat, unit, budget))
        low = -best(moves, flat, -unit, budget)
        assert float(box.lower[i].flatten()[k]) == pytest.approx(low, abs=1e-9)


@given(seed=seeds, shape=st.sampled_from(SHAPES), eps=st.sampled_from([0.0, 0.05, 0.5, 5.0]))
@settings(max_examples=8)
def test_the_maximizer_is_feasible_and_best(seed, shape, eps):
    x, nu, _ = draw(seed, shape)
    ball, moves = ad.Wasserstein(eps), reach(shape, 5, 1)
    point = ball.maximizer(x, nu[:, 0])
    torch.testing.assert_close((point * nu[:, 0]).flatten(1).sum(1), ball.support(x, nu)[:, 0])
    far = ball.distance(x, point)
    for i in range(2):
        if float(x[i].sum()) > 0:
            exact = cheapest(moves, x[i].flatten().numpy(), point[i].flatten().numpy())
            assert exact <= eps + 1e-9
            assert float(far[i]) == pytest.approx(exact, abs=1e-5)


def test_support_is_differentiable():
    x, nu, _ = draw(0, (1, 3, 4))
    x, nu = x + 0.1, torch.randn_like(nu)
    eps = torch.tensor([0.1, 0.4], dtype=torch.float64)

    def support(x, nu, eps):
        return ad.Wasserstein(eps).support(x, nu)

    inputs = [t.requires_grad_() for t in (x, nu, eps)]
    assert torch.autograd.gradcheck(support, inputs, rtol=1e-5, atol=1e-7)

    def ends(x, eps):
        box = ad.Wasserstein(eps).interval(x)
        return box.lower, box.upper

    assert torch.autograd.gradcheck(ends, (x, eps), rtol=1e-5, atol=1e-7)


def test_a_domain_only_tightens_and_is_kept():
    x, nu, generator = draw(1, (1, 4, 3))
    x = torch.where(x > 0.7, 1.0, x)
    moves = reach((1, 4, 3), 5, 1)
    for eps in (0.05, 0.4):
        ball = ad.Wasserstein(eps, domain=(0.0, 1.0))
        support = ball.support(x, nu)
        assert bool((support <= ad.Wasserstein(eps).support(x, nu) + 1e-12).all())
        for i in range(2):
            flat = x[i].flatten().numpy()
            value = best(moves, flat, nu[i, 0].flatten().numpy(), eps * flat.sum(), high=1.0)
            assert float(support[i, 0]) >= value - 1e-9
        wild = x + torch.randn(x.shape, generator=generator, dtype=torch.float64)
        for point in (ball.maximizer(x, nu[:, 0]), ball.project(x, wild), ball.sinkhorn(x, wild)):
            assert bool(ball.contains(x, point).all())
            assert float(point.max()) <= 1


@pytest.mark.parametrize("eps", [0.02, 0.2, 1.0])
def test_prices_of_full_pixels_are_sound_and_pay(eps):
    """Between the linear program with the domain and that without, near the first."""
    tight = loose = 0.0
    for seed in range(4):
        x, nu, generator = draw(seed, (1, 4, 4))
        x = torch.where(torch.rand(x.shape, generator=generator) < 0.4, 1.0, x)
        free, cut = (ad.Wasserstein(eps, domain=d).support(x, nu) for d in (None, (0.0, 1.0)))
        torch.testing.assert_close(ad.Wasserstein(eps, domain=(0, torch.inf)).support(x, nu), free)
        for i, s in np.ndindex(2, 2):
            flat, row = x[i].flatten().numpy(), nu[i, s].flatten().numpy()
            exact = best(reach((1, 4, 4), 5, 1), flat, row, eps * flat.sum(), high=1.0)
            assert float(cut[i, s]) >= exact - 1e-9
            tight, loose = tight + float(cut[i, s]) - exact, loose + float(free[i, s]) - exact
    assert tight < 0.4 * loose


def quadratic_program(moves, x, w, budget, weight=1e4):
    """The nearest point of the ball, as non-negative least squares with heavy constraints."""
    leaves, arrives, price = matrices(moves, len(x))
    slack = np.zeros((len(x), 1))
    rows = [np.c_[arrives, slack], weight * np.c_[leaves, slack], weight * np.r_[price, 1][None]]
    plan, _ = nnls(np.concatenate(rows), np.concatenate([w, weight * x, [weight * budget]]))
    return arrives @ plan[:-1]


@pytest.mark.parametrize("eps", [0.05, 0.5])
def test_projection_is_the_quadratic_program(eps):
    shape = (1, 4, 4)
    x, _, generator = draw(2, shape)
    w = x + 0.3 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    ball, moves = ad.Wasserstein(eps), reach(shape, 5, 1)
    exact = torch.stack(
        [
            torch.from_numpy(
                quadratic_program(
                    moves, x[i].flatten().numpy(), w[i].flatten().numpy(), eps * float(x[i].sum())
                )
            )
            for i in range(2)
        ]
    ).reshape(x.shape)
    assert bool(ball.contains(x, exact).all())

    def error(point):
        assert bool(ball.contains(x, point).all())
        return float((point - exact).norm())

    start = error(x)
    assert error(ball.project(x, w, steps=60)) < 1e-6 * start
    assert error(ball.project(x, w, steps=10)) < 0.1 * start
    assert error(ball.sinkhorn(x, w, 1000.0, 200)) < 0.2 * start
    torch.testing.assert_close(ball.project(x, exact), exact)


def test_examples_are_projected_each_for_itself():
    x, nu, _ = draw(9, (1, 4, 4), n=4)
    eps = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    ball, point = ad.Wasserstein(eps), x + 0.2 * nu[:, 0]
    point[1:3] = ball.maximizer(x, nu[:, 0])[1:3]
    found = ball.project(x, point)
    assert torch.equal(found[1:3], point[1:3])
    for i in (0, 3):
        alone = ad.Wasserstein(float(eps[i])).project(x[[i]], point[[i]])
        torch.testing.assert_close(found[[i]], alone)


def test_steps_from_inside_need_no_search_from_afar(monkeypatch):
    x, nu, _ = draw(10, (1, 4, 4), n=3)
    ball = ad.Wasserstein(0.3)
    here, other = ball.maximizer(x, nu[:, 0]), ball.maximizer(x, nu[:, 1])
    for step in (here - other, 0.25 * (here - x), 0.01 * nu[:, 1]):
        end = ball.extend(x, here, step)
        assert bool(ball.contains(x, end).all())
        missed, walked = ((here + step - z).flatten(1).norm(dim=1) for z in (end, here))
        assert bool((missed <= walked + 1e-12).all())
    exact = ball.project(x, here + 0.25 * (here - x))
    near = ball.extend(x, here, 0.25 * (here - x))
    assert float((near - exact).norm()) < 0.1 * float((here - exact).norm())
    monkeypatch.setattr(ad.Wasserstein, "contains", None)
    for rate in (0.5, 1.0, 2.0, torch.full((3, 1, 1, 1), 0.5, dtype=torch.float64)):
        end = ball.advance(x, here, nu[:, 1], rate)
        share = 0.5 if isinstance(rate, torch.Tensor) else min(rate, 1)
        torch.testing.assert_close(end, here + share * (other - here))


@given(
    seed=seeds,
    lam=st.sampled_from([1e-12, 1.0, 1e3, 1e9, 1e15]),
    eps=st.sampled_from([0.0, 0.1, 1e30]),
    size=st.sampled_from([1e-20, 1.0, 1e20]),
    blank=st.booleans(),
)
@settings(max_examples=10)
def test_sinkhorn_stays_inside_for_any_entropy(seed, lam, eps, size, blank):
    x, nu, _ = draw(seed, (2, 3, 3))
    x, w = x.float(), (size * nu[:, 0]).float()
    x[0] *= float(not blank)
    ball = ad.Wasserstein(eps)
    point = ball.sinkhorn(x, w, lam, 10)
    assert bool(torch.isfinite(point).all())
    assert bool(ball.contains(x, point).all())


def test_membership_is_exact():
    x = torch.zeros(1, 1, 1, 6, dtype=torch.float64)
    x[..., 1] = 2.0
    moved = torch.zeros_like(x)
    moved[..., 3] = 2.0  # all mass by two pixels
    assert float(ad.Wasserstein(1.0).distance(x, moved)) == pytest.approx(2.0, abs=1e-4)
    assert float(ad.Wasserstein(1.0, p=2).distance(x, moved)) == pytest.approx(4.0, abs=1e-4)
    assert float(ad.Wasserstein(1.0, kernel=3).distance(x, moved)) == float("inf")
    assert not bool(ad.Wasserstein(1.99).contains(x, moved))
    assert bool(ad.Wasserstein(2.0).contains(x, moved))
    assert not bool(ad.Wasserstein(5.0).contains(x, 1.01 * moved)), "mass from nowhere"
    assert not bool(ad.Wasserstein(5.0, domain=(0, 1)).contains(x.clamp(max=1), moved))
    channels = torch.zeros(1, 2, 1, 1)
    channels[:, 0] = 1.0
    assert float(ad.Wasserstein(1.0).distance(channels, channels.flip(1))) == float("inf")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ad.Wasserstein(0.1, kernel=4), "odd"),
        (lambda: ad.Wasserstein(0.1, p=0), "above 0"),
        (lambda: ad.Wasserstein(0.1, cost=torch.ones(3, 3)), "diagonal"),
        (lambda: ad.Wasserstein(0.1, cost=torch.zeros(3)), r"\[n, n\]"),
        (lambda: ad.Wasserstein(0.1).check(torch.full((1, 4), -0.1)), "below 0"),
        (lambda: ad.Wasserstein(0.1).check(torch.zeros(1, 1, 2, 2, 2)), "needs"),
        (lambda: ad.Wasserstein(0.1, cost=torch.zeros(3, 3)).check(torch.zeros(1, 4)), "pixels"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ad.errors.InputError, match=message):
        make()


def small_net(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(30, 4),
    ).double()  # fmt: skip


def test_certificates_are_sound_and_train():
    model = small_net()
    x, nu, generator = draw(4, (2, 5, 2))
    for eps, domain in ((0.02, None), (0.3, None), (0.3, (0.0, 1.0))):
        ball = ad.Wasserstein(eps, 3, domain=domain)
        points = [ball.maximizer(x, direction) for direction in nu.unbind(1)]
        points += [ball.random_start(x, generator) for _ in range(10)]
        outputs = [model(point).detach() for point in points]
        for bounds in ("ibp", "dual", "ibp+dual", "ibp&dual"):
            box = ad.certify(model, ball, bounds=bounds).bounds(x)
            assert all(bool((z >= box.lower - 1e-9).all()) for z in outputs)
            assert all(bool((z <= box.upper + 1e-9).all()) for z in outputs)
    y = model(x).argmax(1)
    net = ad.certify(model, ad.Wasserstein(torch.tensor([0.01, 0.05]).double().reshape(2, 1, 1, 1)))
    before = ad.robust_loss(net, x, y)
    before.backward()
    assert all(bool((p.grad != 0).any()) for p in model.parameters())
    with torch.no_grad():
        for p in model.parameters():
            p -= 1e-3 * p.grad
        assert float(ad.robust_loss(net, x, y)) < float(before.detach())
    assert bool((net.radius(x, y, steps=5) > 0).all())


def test_the_bound_is_exact_and_reached_on_linear_models():
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(20, 2)).double()
    x, _, _ = draw(5, (2, 5, 2))
    y = torch.tensor([0, 1])
    ball = ad.Wasserstein(0.3)
    bound = ad.certify(model, ball)(x, y).margins
    found = ad.attack.wasserstein(model, x, y, ball, steps=1).margins
    for i in range(2):
        row = (model[1].weight[1 - y[i]] - model[1].weight[y[i]]).detach().numpy()
        flat, budget = x[i].flatten().numpy(), 0.3 * float(x[i].sum())
        bias = float((model[1].bias[y[i]] - model[1].bias[1 - y[i]]).detach())
        exact = bias - best(reach((2, 5, 2), 5, 1), flat, row, budget)
        assert float(bound[i, 1 - y[i]]) == pytest.approx(exact, abs=1e-8)
        assert float(found[i, 1 - y[i]]) == pytest.approx(exact, abs=1e-8)


@pytest.mark.parametrize("method", ["conjugate", "sinkhorn"])
def test_attacks_stay_inside_and_never_cross_the_bound(method):
    model = small_net(2)
    x, _, _ = draw(6, (2, 5, 2), n=4)
    x[0] = 0.0
    y = model(x).argmax(1)
    eps = torch.tensor([0.1, 0.1, 0.5, 0.0], dtype=torch.float64)
    ball = ad.Wasserstein(eps)
    found = ad.attack.wasserstein(model, x, y, ball, method=method, steps=5)
    assert bool(ball.contains(x, found.x).all())
    assert bool((found.margins >= ad.certify(model, ball)(x, y).margins - 1e-9).all())
    torch.testing.assert_close(found.x[[0, 3]], x[[0, 3]])


def test_the_radius_grows_until_the_attack_succeeds():
    model = small_net(2)
    x, _, _ = draw(6, (2, 5, 2), n=3)
    y = model(x).argmax(1)
    found = ad.attack.wasserstein(model, x, y, 0.05, steps=30, growth=1.5, every=3)
    assert bool(ad.Wasserstein(found.eps).contains(x, found.x).all())
    assert bool(found.success.any())
    assert torch.equal(model(found.x).argmax(1) != y, found.success)
    radius = ad.certify(model, ad.Wasserstein(0.05)).radius(x, y, steps=8)
    assert bool((found.eps >= radius)[found.success].all())


@pytest.mark.parametrize("domain", [None, (0, 1)])
def test_one_image_alone_gets_the_bound_that_it_gets_in_a_batch(domain):
    """All rows are then one example's."""
    conv = nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()
    model = nn.Sequential(*conv, nn.Flatten(), nn.Linear(100, 3))
    x = torch.rand(3, 2, 5, 5)
    net = ad.certify(model, ad.Wasserstein(0.1, domain=domain))
    whole = net.bounds(x)
    for i in range(3):  # prices are found in steps, whose rounding depends on the chunk
        alone = net.bounds(x[i : i + 1]).lower
        torch.testing.assert_close(alone, whole.lower[i : i + 1], atol=1e-3, rtol=1e-3)
