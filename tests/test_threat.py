"""Perturbation sets: support functions against a convex solver, projections, membership."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

import autodual as ad
from tests.nets import random_mlp

seeds = st.integers(0, 2**31)
BALLS = {"linf": ad.LinfBall, "l2": ad.L2Ball, "l1": ad.L1Ball}
NORM = {"linf": np.inf, "l2": 2, "l1": 1}


def draw(seed, n=2, d=5):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, d, generator=generator, dtype=torch.float64)
    x = torch.where(torch.rand(n, d, generator=generator) < 0.3, x.round(), x)
    nu = torch.randn(n, 3, d, generator=generator, dtype=torch.float64)
    nu = torch.where(torch.rand(n, 3, d, generator=generator) < 0.3, 0.0, nu)
    return x, nu, generator


def solve(kind, eps, x, nu, low, high):
    """max νᵀδ over the set, by LP or (ℓ2) by SLSQP, about x."""
    d = len(x)
    if kind == "linf":
        return sum(
            max(v * max(-eps, a), v * min(eps, b))
            for v, a, b in zip(nu, low - x, high - x, strict=True)
        )
    if kind == "l1":
        cost = -np.concatenate([nu, -nu])
        bounds = [(0, max(b, 0)) for b in high - x] + [(0, max(-a, 0)) for a in low - x]
        return -linprog(cost, A_ub=np.ones((1, 2 * d)), b_ub=[eps], bounds=bounds).fun
    result = minimize(
        lambda t: -nu @ t,
        np.zeros(d),
        jac=lambda t: -nu,
        bounds=list(zip(low - x, high - x, strict=True)),
        constraints={"type": "ineq", "fun": lambda t: eps**2 - t @ t, "jac": lambda t: -2 * t},
        options={"ftol": 1e-14, "maxiter": 300},
    )
    return -result.fun


@pytest.mark.parametrize("kind", BALLS)
@given(seed=seeds, eps=st.sampled_from([0.0, 0.01, 0.3, 1.0, 5.0]), cut=st.booleans())
@settings(max_examples=40)
def test_support_is_exact(kind, seed, eps, cut):
    x, nu, _ = draw(seed)
    threat = BALLS[kind](eps, (0.0, 1.0) if cut else None)
    support = threat.support(x, nu)
    low, high = (np.zeros(5), np.ones(5)) if cut else (np.full(5, -1e3), np.full(5, 1e3))
    for i in range(2):
        for s in range(3):
            v = nu[i, s].numpy()
            best = v @ x[i].numpy() + solve(kind, eps, x[i].numpy(), v, low, high)
            assert support[i, s] == pytest.approx(best, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("kind", BALLS)
@given(seed=seeds, cut=st.booleans())
@settings(max_examples=40)
def test_no_member_beats_the_support(kind, seed, cut):
    x, nu, generator = draw(seed)
    eps = torch.rand(2, generator=generator, dtype=torch.float64) * 2
    threat = BALLS[kind](eps, (0.0, 1.0) if cut else None)
    support = threat.support(x, nu)
    for _ in range(20):
        member = threat.random_start(x, generator)
        assert bool(((nu @ member.unsqueeze(2)).squeeze(2) <= support + 1e-9).all())
        length = np.linalg.norm((member - x).numpy(), ord=NORM[kind], axis=1)
        assert (length <= eps.numpy() + 1e-9).all()
        torch.testing.assert_close(threat.project(x, member), member)
        if cut:
            assert bool(((member >= 0) & (member <= 1)).all())


@pytest.mark.parametrize("kind", BALLS)
def test_rows_shared_by_the_batch(kind):
    x, nu, _ = draw(0)
    for domain in (None, (0, 1)):
        threat = BALLS[kind](0.3, domain)
        shared = threat.support(x, nu[:1])
        torch.testing.assert_close(shared, threat.support(x, nu[:1].expand(2, -1, -1)))


@pytest.mark.parametrize("kind", ["l2", "l1"])
@given(
    seed=seeds,
    eps=st.sampled_from([0.0, 1e-6, 0.1, 1.0, 30.0]),
    size=st.sampled_from([1e-12, 1.0, 1e12]),
    tied=st.booleans(),
)
@settings(max_examples=25)
def test_a_cut_ball_is_sound_in_single_precision(kind, seed, eps, size, tied):
    """Many pixels, some at the border, ties and zeros: exact, and no more than without a domain."""
    x, nu, _ = draw(seed, n=3, d=200)
    nu = size * (nu.round() if tied else nu)
    exact = BALLS[kind](eps, (0.0, 1.0)).deviation(x, nu)
    x, nu = x.float(), nu.float()
    found, free = (BALLS[kind](eps, domain).deviation(x, nu) for domain in ((0.0, 1.0), None))
    slack = 1e-5 * free + 1e-6 * nu.abs().sum(2) * min(eps, 1)
    assert bool((found <= free * (1 + 1e-5)).all())
    assert bool(((found.double() - exact).abs() <= slack).all())


def test_a_ball_with_a_deviation_of_its_own_is_asked_for_it():
    class Wider(ad.L2Ball):
        def deviation(self, x, nu):
            return 2 * super().deviation(x, nu)

    class Cube(ad.LinfBall):
        def deviation(self, x, nu):
            return 2 * super().deviation(x, nu)

    model, (x, _, _) = torch.nn.Linear(5, 2).double(), draw(1)
    for own, ball in ((Wider, ad.L2Ball), (Cube, ad.LinfBall)):
        box, twice = (ad.certify(model, t).bounds(x) for t in (own(0.2), ball(0.4)))
        torch.testing.assert_close(box.lower, twice.lower)


@pytest.mark.parametrize("kind", BALLS)
@pytest.mark.parametrize("domain", [None, (0.0, 1.0)])
def test_support_is_differentiable(kind, domain):
    x, nu, _ = draw(4)
    x, nu = x * 0.8 + 0.1, torch.randn_like(nu)
    threat = BALLS[kind](0.35, domain)
    inputs = (x.requires_grad_(), nu.requires_grad_())
    assert torch.autograd.gradcheck(threat.support, inputs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", BALLS)
def test_domain_only_tightens(kind):
    x, nu, _ = draw(1)
    free, cut = BALLS[kind](0.4), BALLS[kind](0.4, domain=(0, 1))
    assert bool((cut.support(x, nu) <= free.support(x, nu) + 1e-12).all())
    half = BALLS[kind](0.4, domain=(0, float("inf")))
    assert bool(torch.isfinite(half.support(x, nu)).all())
    assert bool((cut.support(x, nu) <= half.support(x, nu) + 1e-12).all())


def test_eps_per_example():
    x, nu, _ = draw(2)
    both = ad.L2Ball(torch.tensor([0.1, 0.5], dtype=torch.float64)).support(x, nu)
    for i, eps in enumerate((0.1, 0.5)):
        torch.testing.assert_close(both[i], ad.L2Ball(eps).support(x, nu)[i])


def test_box_is_what_it_says():
    x, nu, _ = draw(3)
    box = ad.Box(x - 0.1, x + 0.3)
    expected = (nu.clamp(min=0) * 0.3 - nu.clamp(max=0) * 0.1).sum(2) + (nu * x.unsqueeze(1)).sum(2)
    torch.testing.assert_close(box.support(x, nu), expected)


def test_inputs_may_leave_the_domain_by_rounding():
    x = torch.tensor([[1.0 + 1e-7, 0.5]])
    threat = ad.LinfBall(0.1, domain=(0, 1))
    threat.check(x)
    assert float(threat.interval(x).upper.max()) == 1.0


def test_pgd_reaches_the_closed_form_on_linear_models():
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 2).double()
    x, _, _ = draw(5)
    y = torch.tensor([0, 1])
    for threat in (ad.LinfBall(0.2), ad.L2Ball(0.5), ad.LinfBall(0.2, domain=(0, 1))):
        found = ad.attack.pgd(model, x, y, threat, steps=50).margins
        bound = ad.certify(model, threat)(x, y).margins
        torch.testing.assert_close(found, bound, rtol=1e-5, atol=1e-5)


def nearest(kind, eps, center, point, low, high):
    """The Euclidean projection onto ball ∩ box: bisection on the multiplier of the norm."""
    step = point - center
    room = np.where(step > 0, high - center, center - low)

    def moved(multiplier):
        size = np.abs(step)
        if kind == "linf":
            return np.minimum(size, np.minimum(room, eps))
        shrunk = size - multiplier if kind == "l1" else size / (1 + multiplier)
        return np.clip(shrunk, 0, room)

    least, most = 0.0, 1e12
    if kind == "linf" or np.linalg.norm(moved(0.0), ord=NORM[kind]) <= eps:
        return center + np.sign(step) * moved(0.0)
    for _ in range(200):
        middle = (least + most) / 2
        inside = np.linalg.norm(moved(middle), ord=NORM[kind]) <= eps
        least, most = (least, middle) if inside else (middle, most)
    return center + np.sign(step) * moved(most)


@pytest.mark.parametrize("kind", BALLS)
@given(seed=seeds, eps=st.sampled_from([0.0, 0.01, 0.3, 1.0, 5.0]), cut=st.booleans())
@settings(max_examples=30)
def test_projection_is_the_nearest_point(kind, seed, eps, cut):
    x, _, generator = draw(seed, d=9)
    point = x + torch.randn(x.shape, generator=generator, dtype=torch.float64)
    threat = BALLS[kind](eps, (0.0, 1.0) if cut else None)
    found = threat.project(x, point)
    low, high = (np.zeros(9), np.ones(9)) if cut else (np.full(9, -1e3), np.full(9, 1e3))
    for i in range(2):
        best = nearest(kind, eps, x[i].numpy(), point[i].numpy(), low, high)
        np.testing.assert_allclose(found[i].numpy(), best, atol=1e-8)
    torch.testing.assert_close(threat.project(x, found), found, rtol=0, atol=1e-12)
    assert bool(threat.contains(x, found, 1e-12).all())


def test_projection_against_a_quadratic_program():
    """The bisection above is itself checked once by a general solver."""
    x, _, generator = draw(3, n=1, d=4)
    point = x + torch.randn(x.shape, generator=generator, dtype=torch.float64)
    for kind, order in (("l1", 1), ("l2", 2)):
        result = minimize(
            lambda z: ((z - point[0].numpy()) ** 2).sum(),
            x[0].numpy(),
            bounds=[(0, 1)] * 4,
            constraints={
                "type": "ineq",
                "fun": lambda z, order=order: 0.3 - np.linalg.norm(z - x[0].numpy(), ord=order),
            },
            options={"ftol": 1e-14, "maxiter": 500},
        )
        found = BALLS[kind](0.3, (0.0, 1.0)).project(x, point)
        np.testing.assert_allclose(found[0].numpy(), result.x, atol=1e-4)


SETS = {
    "linf": ad.LinfBall, "l2": ad.L2Ball, "l1": ad.L1Ball, "wasserstein": ad.Wasserstein,
}  # fmt: skip


def dense_only(ball):
    """The ball with a deviation of its own, which is asked for whole rows."""

    class Dense(ball):
        def deviation(self, x, nu):
            return super().deviation(x, nu)

    return Dense


@pytest.mark.long
@pytest.mark.parametrize("kind", ["l2", "l1", "wasserstein"])
@pytest.mark.parametrize("slopes", ["equal", "free"])
def test_rows_of_a_convolution_need_their_window_alone(kind, slopes):
    """Windows that leave the image, an ε and ends of the domain for each: as with whole rows."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3, stride=2, padding=2), torch.nn.ReLU(),
        torch.nn.Conv2d(3, 2, 2), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(3),
    ).double()  # fmt: skip
    x = torch.rand(3, 2, 7, 6, dtype=torch.float64).requires_grad_()
    model(x)
    eps = torch.tensor([0.2, 0.7, 0.4], dtype=torch.float64, requires_grad=True)
    high = 1 + torch.rand(2, 1, 6, dtype=torch.float64)
    for domain in (None, (0.0, 1.0), (-0.1, high)):
        found = []
        for ball in (SETS[kind], dense_only(SETS[kind])):
            net = ad.certify(model, ball(eps, domain=domain), slopes=slopes)
            box = net.bounds(x)
            inputs = (x, eps, *model.parameters())
            slope = torch.autograd.grad((box.lower.square() - box.upper).sum(), inputs)
            found.append((box.lower, box.upper, *slope))
        if kind == "wasserstein" and domain is not None:  # prices found in few steps: near alone
            for windows, whole in zip(found[0][:2], found[1][:2], strict=True):
                torch.testing.assert_close(windows, whole, rtol=1e-2, atol=1e-3)
            continue
        for windows, whole in zip(*found, strict=True):
            torch.testing.assert_close(windows, whole)


@pytest.mark.parametrize("kind", SETS)
@given(
    seed=seeds,
    eps=st.sampled_from([0.0, 1e-30, 0.01, 1.0, 1e6, 1e30, 1e300]),
    cut=st.booleans(),
    shape=st.sampled_from([(1,), (5,), (2, 3), (1, 4, 3), (2, 2, 1), (1, 1, 1)]),
    kind_of_image=st.sampled_from(["random", "blank", "ones", "one pixel"]),
)
@settings(max_examples=25)
def test_no_point_lies_outside_whatever_the_radius(kind, seed, eps, cut, shape, kind_of_image):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(2, *shape, generator=generator)
    if kind_of_image in ("blank", "one pixel"):
        x = torch.zeros_like(x)
    if kind_of_image == "one pixel":
        x.flatten(1)[:, seed % x[0].numel()] = 1.0
    if kind_of_image == "ones":
        x = torch.ones_like(x)
    threat = SETS[kind](eps, domain=(0.0, 1.0) if cut else None)
    if eps > 1e38:
        with pytest.raises(ad.errors.InputError, match="can hold"):
            threat.check(x)
        return
    threat.check(x)
    gradient = torch.randn(x.shape, generator=generator)
    wild = x + 10.0 ** torch.randint(-3, 12, (1,), generator=generator) * gradient
    points = [
        threat.random_start(x, generator),
        threat.project(x, wild),
        threat.project(x, x + 0.1 * threat.steepest(x, gradient, generator=generator, point=x)),
        threat.project(x, x),
        threat.maximizer(x, gradient),
    ]
    for point in points:
        assert bool(torch.isfinite(point).all())
        assert bool(threat.contains(x, point).all())
        if cut:
            assert float(point.min()) >= 0
            assert float(point.max()) <= 1
    torch.testing.assert_close(points[3], x)
    support = threat.support(x, gradient.unsqueeze(1)).squeeze(1)
    reached = (gradient * points[4]).flatten(1).sum(1)
    assert not bool(support.isnan().any())
    assert not bool((reached > support + 1e-4 * (1 + support.abs())).any())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("domain", [None, (0.0, 1.0), (0.0, float("inf"))])
def test_euclidean_lengths_neither_overflow_nor_vanish(dtype, domain):
    """Rows and radii may have any size: c·ν has c times the deviation of ν, and its gradient."""
    x, nu, _ = draw(11)
    x, nu, large = x.to(dtype), nu.to(dtype), torch.finfo(dtype).max ** 0.8
    for eps in (1e-3, 0.4, large):
        ball = ad.L2Ball(eps, domain)
        rows = (nu / nu.abs().max()).requires_grad_()
        far = ball.deviation(x, rows)
        (slope,) = torch.autograd.grad(far.sum(), rows)
        for size in (1 / large, 1e3) if eps == large else (1 / large, large):
            scaled = (size * rows).detach().requires_grad_()
            deviation = ball.deviation(x, scaled)
            torch.testing.assert_close(deviation / size, far, rtol=1e-5, atol=0)
            (gradient,) = torch.autograd.grad(deviation.sum(), scaled)
            torch.testing.assert_close(gradient / eps, slope / eps, rtol=1e-4, atol=1e-6)
    nothing = torch.zeros_like(nu).requires_grad_()
    deviation = ad.L2Ball(0.4, domain).deviation(x, nothing)
    (gradient,) = torch.autograd.grad(deviation.sum(), nothing)
    assert not bool(deviation.any())
    assert bool(gradient.isfinite().all())
    for size in (1 / large, large):
        far = ad.L2Ball(1.0).distance(torch.zeros_like(x), size * x)
        torch.testing.assert_close(far / size, x.norm(dim=1))


@pytest.mark.parametrize("kind", ["linf", "l2", "l1"])
def test_the_maximizer_reaches_the_support(kind):
    x, nu, _ = draw(8)
    for domain in (None, (0.0, 1.0)):
        threat = BALLS[kind](0.4, domain)
        best = threat.maximizer(x, nu[:, 0])
        assert bool(threat.contains(x, best, 1e-9).all())
        torch.testing.assert_close((best * nu[:, 0]).sum(1), threat.support(x, nu[:, :1])[:, 0])


def test_random_starts_fill_the_ball():
    generator = torch.Generator().manual_seed(0)
    x = torch.full((2000, 6), 0.5)
    for kind in ("l2", "l1"):
        far = BALLS[kind](0.1).distance(x, BALLS[kind](0.1).random_start(x, generator))
        share = (far < 0.1 * 0.5 ** (1 / 6)).double().mean()  # half of the volume
        assert 0.45 < share < 0.55


def test_l1_steps_leave_saturated_pixels_out():
    generator = torch.Generator().manual_seed(0)
    x = torch.full((3, 1, 28, 28), 0.5)
    point = x.clone()
    point[:, :, :14] = 1.0
    gradient = torch.rand(x.shape, generator=generator) + 0.1
    step = ad.L1Ball(2.0, (0.0, 1.0)).steepest(x, gradient, generator=generator, point=point)
    assert not bool(step[:, :, :14].any())
    changed = (step != 0).flatten(1).sum(1)
    assert bool(((changed >= 5) & (changed <= 20)).all())
    torch.testing.assert_close(step.abs().flatten(1).sum(1), torch.full((3,), 2.0))
    assert float(step[0][step[0] > 0].min()) == pytest.approx(2.0 / float(changed[0]))


def test_the_domain_may_be_tensors():
    x, nu, _ = draw(6)
    ends = torch.zeros(5, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    for kind in BALLS:
        same = BALLS[kind](0.4, ends).support(x, nu)
        torch.testing.assert_close(same, BALLS[kind](0.4, (0, 1)).support(x, nu))


def test_a_union_is_verified_against_every_member():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(5, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3)
    ).double()  # fmt: skip
    x, nu, generator = draw(7)
    members = ad.LinfBall(0.1, (0, 1)), ad.L2Ball(0.3), ad.Wasserstein(0.1)
    union = ad.Union(members[0], ad.Union(*members[1:]))
    assert len(union.members) == 3
    y = model(x).argmax(1)
    net = ad.certify(model, union)
    each = torch.stack([net.at(member)(x, y).margins for member in members])
    torch.testing.assert_close(net(x, y).margins, each.amin(0))
    supports = torch.stack([member.support(x, nu) for member in members])
    torch.testing.assert_close(union.support(x, nu), supports.amax(0))
    outputs = net.bounds(x)
    for _ in range(5):
        point = union.random_start(x, generator)
        assert bool(union.contains(x, point).all())
        assert bool((union.distance(x, point) <= 1 + 1e-5).all())
        assert bool((model(point) >= outputs.lower - 1e-9).all())
        assert bool((model(point) <= outputs.upper + 1e-9).all())
        assert bool(union.contains(x, union.project(x, point + nu[:, 0])).all())
    outside = x + 5
    assert not bool(union.contains(x, outside).any())
    assert bool((union.distance(x, outside) > 1).all())
    chance = ad.certify(model, ad.Union(ad.LinfBall(0.1), ad.LinfBall(0.2)),
                        estimator=ad.Geometric(20, 1, 0.01))(x, y)  # fmt: skip
    assert chance.delta == pytest.approx(0.02)
    with pytest.raises(ad.errors.InputError, match="member by member"):
        net.explain(x)
    with pytest.raises(ad.errors.InputError, match="needs sets"):
        ad.Union(0.1)


@pytest.mark.parametrize("ball", [ad.LinfBall, ad.L2Ball, ad.L1Ball])
def test_one_radius_per_example_can_be_said_outright(ball):
    """Also where its length is that of an example, and none is read for the other."""
    x, model = torch.rand(3, 3).double(), random_mlp(0, (3, 5, 3))
    y, eps = model(x).argmax(1), torch.tensor([0.01, 0.1, 0.2]).double()
    found = ad.certify(model, ball(eps.reshape(3, 1)))(x, y).margins
    for i, e in enumerate(eps.tolist()):
        alone = ad.certify(model, ball(e))(x[i : i + 1], y[i : i + 1]).margins
        torch.testing.assert_close(found[i : i + 1], alone)
    found = ad.attack.pgd(model, x, y, ball(eps.reshape(3, 1)), restarts=2, early_stop=True)
    assert bool(ball(eps.reshape(3, 1)).contains(x, found.x).all())
    wide = ad.Box(x - eps, x + eps)  # per feature
    assert bool(wide.contains(x, x + eps).all())
    assert not bool(wide.contains(x, x + 1.1 * eps).any())


@pytest.mark.parametrize("kind", [ad.LinfBall, ad.L2Ball, ad.L1Ball])
@pytest.mark.parametrize("bounds", ["ibp&dual", "dual"])
def test_one_example_alone_gets_what_it_gets_in_company(kind, bounds):
    model, x = random_mlp(3, (6, 12, 8, 4)), torch.rand(5, 6, dtype=torch.float64)
    net = ad.certify(model, kind(0.3, (0.0, 1.0)), bounds=bounds)
    alone = torch.cat([net(x[i : i + 1]).margins for i in range(5)])
    torch.testing.assert_close(alone, net(x).margins)
