"""Attacks: closed forms on linear models, membership, what success means, what users pass in."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import autodual as ad
from autodual.attack import apgd, fgsm, losses, msd, multi_targeted, pgd, search, square, worst_of
from autodual.attack.apgd import checkpoints
from autodual.errors import AttackWarning, DomainError, InputError
from tests.nets import random_convnet, random_mlp

GRADIENT = {
    "fgsm": fgsm,
    "pgd": partial(pgd, steps=4),
    "momentum": partial(pgd, steps=4, ascent="momentum"),
    "plain": partial(pgd, steps=4, ascent="plain"),
    "apgd": partial(apgd, steps=5),
    "apgd, margin": partial(apgd, steps=5, loss=losses.margin),
    "multi_targeted": partial(multi_targeted, steps=3),
    "msd": partial(msd, steps=3),
    "averaged": partial(msd, steps=3, average=True),
    "worst_of": partial(worst_of, attacks=(fgsm, partial(apgd, steps=3))),
}
SEARCHES = {
    "square": partial(square, steps=12),
    "random": partial(search, steps=6),
    "corners": partial(search, steps=6, corners=True),
}


def sets(eps, x, domain=None):
    return {
        "linf": ad.LinfBall(eps, domain),
        "l2": ad.L2Ball(eps, domain),
        "l1": ad.L1Ball(eps, domain),
        "box": ad.Box(x - min(eps, 1e30), x + min(eps, 1e30) / 2, domain),
        "union": ad.Union(ad.LinfBall(eps, domain), ad.L2Ball(2 * eps, domain)),
    }


def batch(n=3, shape=(4,), classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, *shape, generator=generator, dtype=torch.float64)
    return x, torch.randint(classes, (n,), generator=generator)


@pytest.mark.parametrize("domain", [None, (0.0, 1.0)])
@pytest.mark.parametrize("kind", ["linf", "l2", "l1", "box"])
def test_linear_models_are_solved(kind, domain):
    """min over the set of (w_y − w_k)ᵀx′ + b_y − b_k is a value of the support function."""
    x, y = batch(4, (9,), 2)
    threat = sets(0.4, x, domain)[kind]
    model = nn.Linear(9, 2).double()
    w, b = (model.weight[1 - y] - model.weight[y]).detach(), (model.bias[1 - y] - model.bias[y])
    worst = threat.support(x, w.unsqueeze(1)).squeeze(1) + b.detach()
    for name in ("fgsm", "pgd", "momentum", "apgd", "multi_targeted", "msd", "worst_of"):
        found = GRADIENT[name](model, x, y, threat)
        torch.testing.assert_close(found.score, worst, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.margins.gather(1, (1 - y)[:, None]).squeeze(1), -worst)
        assert bool((found.success == (worst >= 0)).all())


def test_paths_solve_linear_models_by_their_own_steps(monkeypatch):
    """PGD and APGD get there without the first leap, where a corner or a pole is the answer."""
    monkeypatch.setattr("autodual.threat.base.ThreatModel.maximizer", lambda self, x, d: x)
    x, y = batch(4, (9,), 2)
    model = nn.Linear(9, 2).double()
    for threat in (ad.LinfBall(0.3, (0, 1)), ad.L2Ball(0.3)):
        bound = ad.certify(model, threat)(x, y).margins
        for run in (partial(pgd, steps=20), partial(apgd, steps=50)):
            torch.testing.assert_close(
                run(model, x, y, threat).margins, bound, rtol=1e-5, atol=1e-5
            )


def test_pgd_takes_the_steps_of_the_thesis():
    """x′ ← P(x′ + αε sign ∇), where the domain cuts the ball as well (equation 2.6)."""
    x, y = batch(6, (20,), 3)
    x = x.where(x > 0.5, 0)  # many entries at an end of the domain, as in images
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 3)).double()
    point, scores = x, []
    for _ in range(11):
        point = point.detach().requires_grad_()
        z = model(point)
        other = z.scatter(1, y[:, None], -torch.inf).amax(1)
        scores.append((other - z.gather(1, y[:, None])[:, 0]).detach())
        (gradient,) = torch.autograd.grad(F.cross_entropy(z, y, reduction="sum"), point)
        point = point + 0.25 * 0.3 * gradient.sign()
        point = point.clamp(x - 0.3, x + 0.3).clamp(0, 1)
    found = pgd(model, x, y, ad.LinfBall(0.3, (0, 1)), steps=10)
    leap = fgsm(model, x, y, ad.LinfBall(0.3, (0, 1)))
    torch.testing.assert_close(found.score, torch.stack([*scores, leap.score]).amax(0))


@given(
    seed=st.integers(0, 10**6),
    eps=st.sampled_from([0.0, 1e-30, 1e-9, 0.1, 3.0, 1e6, 1e30, 1.6e38, 1e300]),
    cut=st.booleans(),
    narrow=st.booleans(),
    kind=st.sampled_from(["linf", "l2", "l1", "box", "union"]),
)
@settings(max_examples=10)
def test_any_attack_on_any_set_stays_inside(seed, eps, cut, narrow, kind):
    shape = [(1,), (5,), (2, 3), (1, 4, 3), (2, 1, 5)][seed % 5]
    dtype = torch.float32 if narrow and eps < 1e300 else torch.float64
    x, y = batch(2, shape, 3, seed)
    x = torch.where(torch.rand(x.shape, dtype=x.dtype) < 0.3, x.round(), x).to(dtype)
    torch.manual_seed(seed)
    width = x[0].numel()
    model = nn.Sequential(nn.Flatten(), nn.Linear(width, 4), nn.ReLU(), nn.Linear(4, 3)).to(dtype)
    clean = search(model, x, y, 0.0, steps=1)
    threat = sets(eps, x, (0.0, 1.0) if cut else None)[kind]
    for name, run in {**GRADIENT, **SEARCHES}.items():
        if (name == "corners" and kind not in ("linf", "box")) or (
            name == "square" and kind in ("l1", "union")
        ):
            continue
        found = run(model, x, y, threat)
        assert bool(threat.contains(x, found.x).all()), name
        assert found.rejected == 0, name
        assert bool((found.score >= clean.score - 1e-6).all()), name
        margins = model(found.x).gather(1, y[:, None]) - model(found.x)
        torch.testing.assert_close(found.margins, margins.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["pgd", "momentum", "apgd", "multi_targeted", "msd", "worst_of"])
def test_stopping_early_changes_no_success(name):
    """The model takes examples one by one: its sums round the same, whoever else is there."""
    model = random_mlp(3, (6, 12, 8, 4))
    x, y = batch(16, (6,), 4)
    calls = []

    def counted(point):
        calls.append(len(point))
        return torch.cat([model(one) for one in point.split(1)])

    for threat in (ad.LinfBall(0.15), ad.L2Ball(0.3)):
        torch.manual_seed(0)
        calls.clear()
        more = {} if name == "worst_of" else {"restarts": 2}
        whole = GRADIENT[name](counted, x, y, threat, **more)
        asked = sum(calls)
        torch.manual_seed(0)
        calls.clear()
        early = GRADIENT[name](counted, x, y, threat, early_stop=True, **more)
        assert 0 < int(whole.success.sum()) < len(x)
        assert torch.equal(whole.success, early.success)
        assert bool((whole.score >= early.score - 1e-9).all())
        assert sum(calls) < asked


def seeded():
    return {"generator": torch.Generator().manual_seed(1)}


@pytest.mark.parametrize("name", ["pgd", "apgd", "square", "random"])
def test_generators_reproduce(name):
    model, shape = random_convnet(2)
    x, y = batch(3, shape)
    run = {**GRADIENT, **SEARCHES}[name]
    more = {} if name == "random" else {"restarts": 2}
    first, again = (run(model, x, y, 0.3, **more, **seeded()) for _ in range(2))
    assert torch.equal(first.x, again.x)
    state = torch.get_rng_state()
    run(model, x, y, 0.3, **more, **seeded())
    assert torch.equal(state, torch.get_rng_state())


def test_a_target_must_be_reached():
    model = nn.Linear(2, 3, bias=False).double()
    model.weight.data = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    x, y = torch.tensor([[-0.1, -0.1]], dtype=torch.float64), torch.tensor([0])
    anything = pgd(model, x, y, 0.2)
    assert bool(anything.success)
    assert int(model(anything.x).argmax()) == 1
    for run in (fgsm, pgd, apgd, square, search):
        for loss in (losses.cross_entropy, losses.margin):
            more = {} if run is search else {"loss": loss}
            near = run(model, x, y, 0.2, targets=torch.tensor([2]), **more)
            z = model(near.x)
            reached = bool(z[0, 2] >= z[0].max())
            assert bool(near.success) == reached
    assert bool(pgd(model, x, y, 0.2, targets=torch.tensor([2])).success)
    assert not bool(pgd(model, x, y, 0.09, targets=torch.tensor([2])).success)
    late = multi_targeted(model, x, y, 0.2, classes=1)
    assert bool(late.success)


class Many(nn.Module):
    """Returns logits in a dictionary, beside something else."""

    def __init__(self) -> None:
        super().__init__()
        self.net = random_mlp(5, (4, 8, 3))

    def forward(self, x):
        return {"scores": self.net(x), "size": x.square().sum(1)}


def test_outputs_of_any_kind():
    model, (x, y) = Many(), batch(6)
    plain = pgd(model.net, x, y, 0.2)
    picked = pgd(model, x, y, 0.2, logits=lambda out: out["scores"])
    torch.testing.assert_close(plain.margins, picked.margins)
    grown = pgd(
        model,
        x,
        y,
        0.2,
        loss=lambda out, y: out["size"],
        success=lambda out, y: out["size"] > 2,
    )
    torch.testing.assert_close(grown.x, x + 0.2)
    torch.testing.assert_close(grown.score, (x + 0.2).square().sum(1))
    assert grown.margins.shape == (6, 0)
    assert torch.equal(grown.success, (x + 0.2).square().sum(1) > 2)
    with pytest.raises(InputError, match="logits="):
        pgd(model, x, y, 0.2, loss=lambda out, y: out["size"])


def test_the_model_is_left_alone():
    model, (x, y) = random_mlp(5, (4, 8, 3)).train(), batch()
    for run in (*GRADIENT.values(), *SEARCHES.values()):
        with torch.inference_mode():
            run(model, x, y, 0.1)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert not x.requires_grad
    certified = ad.certify(model, 0.1)
    assert bool((pgd(certified.model, x, y, 0.1).margins >= certified(x, y).margins - 1e-9).all())


def test_what_cannot_be_attacked_is_said():
    model, (x, y) = random_mlp(5, (4, 8, 3)), batch()
    for run in (*GRADIENT.values(), *SEARCHES.values()):
        with pytest.raises(InputError, match="non-empty"):
            run(model, x[:0], y[:0], 0.1)
        with pytest.raises(InputError, match="labels span"):
            run(model, x, y + 2, 0.1)
        with pytest.raises(InputError, match="first in example 1"):
            run(model, x.index_fill(0, torch.tensor(1), torch.nan), y, 0.1)
        with pytest.raises(InputError, match="one label for each"):
            run(model, x, y[:2], 0.1)
    with pytest.raises(DomainError):
        pgd(model, x + 2, y, ad.LinfBall(0.1, (0, 1)))
    with pytest.raises(InputError, match="no gradient"):
        pgd(lambda z: z.detach()[:, :3], x, y, 0.1)
    with pytest.raises(InputError, match="reduction='none'"):
        apgd(model, x, y, 0.1, loss=nn.functional.cross_entropy)
    with pytest.raises(InputError, match="4 classes"):
        multi_targeted(model, x, y, 0.1, loss=losses.dlr)
    with pytest.raises(InputError, match=r"net\.model"):
        pgd(ad.certify(model, 0.1), x, y, 0.1)
    with pytest.raises(InputError, match="no corners"):
        search(model, x, y, ad.L2Ball(0.1), corners=True)
    with pytest.raises(InputError, match="L2Ball"):
        square(model, x, y, ad.L1Ball(0.1))
    for wrong in ({"restarts": 0}, {"steps": 0}, {"ascent": "down"}):
        with pytest.raises(InputError):
            pgd(model, x, y, 0.1, **wrong)
    for size in (-0.1, 0.0, torch.nan, torch.inf):
        with pytest.raises(InputError, match="above 0"):
            pgd(model, x, y, 0.1, step_size=size)


def test_reduced_losses_will_do_for_pgd():
    model, (x, y) = random_mlp(5, (4, 8, 3)), batch()
    for reduction in ("sum", "mean"):
        loss = partial(nn.functional.cross_entropy, reduction=reduction)
        torch.testing.assert_close(
            pgd(model, x, y, 0.1, loss=loss).margins, pgd(model, x, y, 0.1).margins
        )


def test_the_losses_are_what_they_say():
    z, y = torch.tensor([[1.0, 4.0, 2.0, -1.0]]), torch.tensor([2])
    t = torch.tensor([0])
    torch.testing.assert_close(losses.cross_entropy(z, y), -z.log_softmax(1)[:, 2])
    torch.testing.assert_close(losses.cross_entropy(z, y, t), z.log_softmax(1)[:, 0])
    assert float(losses.margin(z, y)) == 2
    assert float(losses.margin(z, y, t)) == -1
    assert float(losses.dlr(z, y)) == pytest.approx((4 - 2) / (4 - 1))
    assert float(losses.dlr(z, y, t)) == pytest.approx((1 - 2) / (4 - (1 - 1) / 2))
    assert float(losses.dlr(z, torch.tensor([1]))) == pytest.approx((2 - 4) / (4 - 1))


def test_checkpoints_are_the_papers():
    assert list(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]


def test_multi_steepest_descent_takes_the_better_member():
    """On one linear model a thin ℓ∞ ball wins, on another the ℓ2 ball."""
    x, y = batch(1, (9,), 2)
    union = ad.Union(ad.LinfBall(0.2), ad.L2Ball(0.4))
    for row, winner in ((torch.ones(9), 0), (torch.eye(9)[0], 1)):
        model = nn.Linear(9, 2, bias=False).double()
        model.weight.data = torch.stack([row * (1 if c == int(y) else -1) for c in (0, 1)]).double()
        for run in (msd, worst_of, partial(msd, average=True, steps=80)):
            best = fgsm(model, x, y, union.members[winner])
            other = fgsm(model, x, y, union.members[1 - winner])
            assert float(best.score) > float(other.score)
            assert float(run(model, x, y, union).score) == pytest.approx(float(best.score))


def test_square_finds_what_gradients_cannot():
    """A model of steps has no slope to climb."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
    x = torch.rand(8, 1, 4, 4).double()

    def coarse(point):
        z = model(point)
        return torch.round(20 * z) / 20

    with torch.no_grad():
        y = model(x).argmax(1)
    for threat in (ad.LinfBall(0.4, (0, 1)), ad.L2Ball(1.5, (0, 1))):
        exact = fgsm(model, x, y, threat)
        with pytest.warns(AttackWarning, match="8 of 8 examples"):
            blind = pgd(coarse, x, y, threat)
        found = square(coarse, x, y, threat, steps=300, **seeded())
        gained, all_ = (each.score.mean() - blind.score.mean() for each in (found, exact))
        assert float(gained) > 0.5 * float(all_)
        assert bool((found.score <= exact.score + 0.06).all())


@pytest.mark.parametrize("name", ["pgd", "apgd", "square", "random", "multi_targeted"])
def test_a_set_that_does_not_project_is_caught(name, monkeypatch):
    """Canary: points outside are never returned, and not in silence."""
    monkeypatch.setattr(ad.L2Ball, "project", lambda self, x, point: point + 0.3)
    model, (x, y) = random_mlp(5, (4, 8, 3)), batch()
    threat = ad.L2Ball(0.1)
    with pytest.warns(AttackWarning, match="outside"):
        found = {**GRADIENT, **SEARCHES}[name](model, x, y, threat)
    assert found.rejected > 0
