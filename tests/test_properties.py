"""Properties of the output beyond a label: what they say, and that their bounds hold."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn

import autodual as ad
from autodual import errors
from autodual.bound import combination
from tests.nets import random_mlp


def rows(count, outputs=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    C = torch.randn(count, outputs, generator=generator, dtype=torch.float64)
    return C, torch.randn(count, generator=generator, dtype=torch.float64)


def points(x, eps, n=200, seed=0):
    noise = torch.rand(n, *x.shape, generator=torch.Generator().manual_seed(seed)).double()
    corners = torch.where(
        torch.arange(n).reshape(-1, *[1] * x.dim()) % 2 == 0, noise.round(), noise
    )
    return x + eps * (2 * corners - 1)


def test_what_properties_say():
    (a, b), (c, d), z = rows(2), rows(3, seed=1), torch.randn(500, 3).double()
    one, all_ = ad.AtLeastOne(a, b), ad.All(c, d)
    holds = {
        one: ((z @ a.T) > b).any(1),
        all_: ((z @ c.T) > d).all(1),
        one & all_: ((z @ a.T) > b).any(1) & ((z @ c.T) > d).all(1),
        one | all_: ((z @ a.T) > b).any(1) | ((z @ c.T) > d).all(1),
        (one | all_) & one: ((z @ a.T) > b).any(1),
        (one & all_) | all_: ((z @ c.T) > d).all(1),
    }
    for safe, want in holds.items():
        assert torch.equal(~safe.violated(z), want), safe
        assert torch.equal((safe.margins(z) > 0).all(1), want)
        assert torch.equal(safe.loss(z) >= 0, ~want)
        unsafe = [(z @ p.C.T <= p.d).all(1) for p in safe.unsafe]
        assert torch.equal(torch.stack(unsafe).any(0), ~want)
    assert ad.AtLeastOne(a, b).violated(torch.full((1, 3), torch.nan).double()).all()


@pytest.mark.parametrize("bounds", ["ibp", "dual", "ibp+dual", "ibp&dual"])
@pytest.mark.parametrize("seed", range(3))
def test_no_point_of_the_set_beats_the_bound(bounds, seed):
    model, x = random_mlp(seed, (3, 6, 6, 3)), torch.rand(4, 3).double()
    z, sets = (
        model(x),
        [ad.LinfBall(0.1), ad.L2Ball(0.1), ad.Union(ad.L1Ball(0.1), ad.L2Ball(0.05))],
    )
    (a, _), (b, _) = rows(3, seed=seed), rows(2, seed=seed + 9)
    safe = ad.AtLeastOne(a, (z @ a.T).mean(0) - 0.1) & (
        ad.All(b, -1.0) | ad.AtLeastOne(b[:1], -0.2)
    )
    for threat in sets:
        found = ad.certify(model, threat, bounds=bounds).holds(x, safe)
        assert isinstance(found, ad.Certificate)
        assert found.margins.shape == (4, 3)
        for point in points(x, 0.1):
            inside = threat.contains(x, point)
            assert bool((safe.margins(model(point)) >= found.margins - 1e-9)[inside].all())
    exact = ad.certify(model, 0.0, bounds=bounds).holds(x, safe).margins
    torch.testing.assert_close(exact, safe.margins(z))


def test_all_of_the_margins_is_the_label():
    model, x = random_mlp(0, (3, 8, 3)), torch.rand(4, 3).double()
    net, unit = ad.certify(model, 0.05), torch.eye(3).double()
    found = net.holds(x, ad.All(unit[:1] - unit[1:]))
    want = net(x, torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(found.margins, want.margins[:, 1:])
    assert torch.equal(found.verified, want.verified)
    assert found.labels is None


def best(W, b, C, d, x, eps):
    """min over the ball of max_s c_s·(Wx′ + b) − d_s, as a linear program."""
    A, c = C @ W, C @ b - d
    n = len(x)
    solved = linprog(
        np.r_[np.zeros(n), 1],
        np.c_[A, -np.ones(len(A))],
        -c,
        bounds=[*zip(x - eps, x + eps, strict=True), (None, None)],
    )
    return solved.fun


def test_convex_combinations_prove_what_no_row_does():
    """On a linear model the best combination is the answer, by duality."""

    class Mirror(nn.Module):
        def forward(self, x):
            return torch.cat([x, -x], 1)

    x = torch.zeros(1, 1).double()
    net = ad.certify(Mirror(), 1.0)
    safe = ad.AtLeastOne(torch.eye(2).double(), -0.1)  # x > −0.1 or −x > −0.1
    torch.testing.assert_close(net.holds(x, safe).margins, torch.tensor([[0.1]]).double())
    assert net.lower_bound(x, torch.eye(2).double()).max() == -1
    for seed in range(5):
        torch.manual_seed(seed)
        model, x = nn.Linear(4, 6).double().requires_grad_(False), torch.rand(1, 4).double()
        (C, d), net = rows(3, 6, seed), ad.certify(model, 0.5)
        d = d + 3  # that none is verified before all steps are done
        want = best(*(t.numpy() for t in (model.weight, model.bias, C, d, x[0])), 0.5)
        found = float(net.holds(x, ad.AtLeastOne(C, d), steps=300).margins)
        alone = float((net.lower_bound(x, C) - d).max())
        assert want - 0.02 - 0.05 * (want - alone) <= found <= want + 1e-9


def test_parts_of_a_batch_and_outputs_of_any_shape(monkeypatch):
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Conv2d(2, 2, 1)).double()
    x = torch.rand(3, 1, 4, 4).double()
    C = torch.randn(4, 2, 3, 3).double()
    safe = ad.AtLeastOne(C, 1.0)
    whole = ad.certify(model, 0.1, memory="16MiB").holds(x, safe).margins
    monkeypatch.setattr("autodual.bound.module.HELD", 2**16)
    torch.testing.assert_close(ad.certify(model, 0.1, memory="16MiB").holds(x, safe).margins, whole)
    assert bool((whole <= safe.margins(model(x)) + 1e-9).all())
    single = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    value = ad.certify(single, 0.1).holds(torch.rand(2, 3), ad.All(torch.tensor([1.0, -1.0]), -5))
    assert value.verified.all()


def test_what_is_estimated_is_no_proof():
    model, x = random_mlp(0, (3, 8, 3)), torch.rand(2, 3).double()
    safe = ad.AtLeastOne(torch.eye(3).double(), -9.0) & ad.All(torch.eye(3).double(), -9.0)
    guess = ad.certify(model, 0.1, estimator=ad.Cauchy(10)).holds(x, safe)
    assert isinstance(guess, ad.Estimate)
    assert not hasattr(guess, "verified")
    likely = ad.certify(model, 0.1, estimator=ad.Geometric(delta=0.01)).holds(x, safe)
    assert likely.delta == pytest.approx(0.04)  # four clauses, a bound of its own each


BAD = {
    "no tensor": (lambda: ad.AtLeastOne([[1.0]]), "C must be a tensor of rows.*not list"),
    "whole numbers": (lambda: ad.All(torch.ones(2, 2).long()), "not torch.int64"),
    "no rows": (lambda: ad.All(torch.ones(0, 2)), "rows"),
    "d": (lambda: ad.All(torch.ones(2, 2), torch.ones(3)), r"d must be a number or a tensor \[2\]"),
    "NaN": (lambda: ad.AtLeastOne(torch.ones(2, 2), torch.nan), "NaN"),
    "and": (lambda: ad.All(torch.ones(2, 2)) and ad.All(torch.ones(2, 2)), "by & and |"),
    "& number": (lambda: ad.All(torch.ones(2, 2)) & 3, "joined with another, not with int"),
    "outputs": (
        lambda: ad.certify(nn.Linear(2, 3), 0.1).holds(torch.rand(1, 2), ad.All(torch.ones(1, 2))),
        r"C has shape \[1, 2\]; the output",
    ),
    "no property": (
        lambda: ad.certify(nn.Linear(2, 3), 0.1).holds(torch.rand(1, 2), torch.ones(1, 3)),
        r"made of AtLeastOne\(C, d\) and All",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_properties(case):
    call, message = BAD[case]
    with pytest.raises(errors.InputError, match=message):
        call()


def test_clauses_of_one_row_share_a_pass(monkeypatch):
    model, x, lower, passes = nn.Linear(2, 3), torch.rand(4, 2), combination._lower, []
    monkeypatch.setattr(combination, "_lower", lambda *a: passes.append(1) or lower(*a))
    margins = ad.certify(model, 0.1).holds(x, ad.All(torch.eye(3), -9.0)).margins
    torch.testing.assert_close(margins, ad.certify(model, 0.1).bounds(x).lower + 9)
    assert passes == [1]


@pytest.mark.parametrize("wrong", ["weights that shrink", "half of d"])
def test_wrong_combinations_are_caught(wrong, monkeypatch):
    """Canary: weights of rows must add up to 1, and d be weighted with c."""
    lower = combination._lower

    def half_of_d(bound, output, rows):
        return lower(bound, output, rows) + rows[..., -1] / 2

    def shrinking(bound, output, rows):
        return lower(bound, output, rows if rows.shape[1] > 1 else rows / 9)

    monkeypatch.setattr(combination, "_lower", shrinking if "shrink" in wrong else half_of_d)
    with pytest.raises(AssertionError):
        test_convex_combinations_prove_what_no_row_does()
