"""Perturbation sets: support functions against a convex solver, projections, membership."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

import autodual as ad

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
