"""Attacks whose answer would mislead: no gradient, models that are random or in training mode."""

from functools import partial

import pytest
import torch
from torch import nn

import autodual as ad
from autodual.attack import apgd, fgsm, losses, msd, multi_targeted, pgd, search, square, worst_of
from autodual.errors import AttackWarning, InputError, ModelError

CLIMBS = {
    "fgsm": fgsm,
    "pgd": partial(pgd, steps=10),
    "apgd": partial(apgd, steps=20),
    "multi_targeted": partial(multi_targeted, steps=10),
    "msd": partial(msd, steps=5),
    "wasserstein": partial(ad.attack.wasserstein, steps=5),
}


def make(n=40):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4))
    x = 0.1 + 0.8 * torch.rand(n, 20)
    with torch.no_grad():  # no class is far from any other
        model[3].bias.sub_(model(x).mean(0))
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("name", CLIMBS)
def test_sure_models_are_attacked_as_well(name):
    """Cross-entropy underflows, or is no number, or a softmax follows: all one to the attack."""
    model, x, y = make()
    eps = 0.02 if name == "wasserstein" else 0.04
    plain = CLIMBS[name](model, x, y, eps).success
    assert 0 < int(plain.sum()) < len(x)
    for sure in (
        lambda v: 1e4 * model(v),
        lambda v: 1e30 * model(v),
        nn.Sequential(model, nn.Softmax(1)),
        lambda v: (30 * model(v)).softmax(dim=1),
        lambda v: torch.softmax(1e4 * model(v), -1),
    ):
        found = CLIMBS[name](sure, x, y, eps)
        assert int(found.success.sum()) >= 0.9 * int(plain.sum())
        z = sure(found.x).detach()
        torch.testing.assert_close(found.margins, z.gather(1, y[:, None]) - z)


def test_cross_entropy_and_the_log_odds_have_one_direction():
    model, x, y = make()
    for targets in ((), ((y + 1) % 4,)):
        slopes = []
        for loss in (losses.cross_entropy, losses.log_odds):
            point = x.clone().requires_grad_()
            (slope,) = torch.autograd.grad(loss(model(point), y, *targets).sum(), point)
            slopes.append(nn.functional.normalize(slope))
        torch.testing.assert_close(*slopes, rtol=1e-3, atol=1e-5)
    odds = losses.log_odds(model(x), y)
    torch.testing.assert_close(nn.functional.softplus(odds), losses.cross_entropy(model(x), y))


@pytest.mark.parametrize("name", CLIMBS)
def test_saturated_outputs_are_warned_of(name):
    model, x, y = make()
    with pytest.warns(AttackWarning, match=r"no gradient for \d+ of 40 examples.*logits=") as said:
        found = CLIMBS[name](lambda v: torch.tanh(1e6 * model(v)), x, y, 0.001)
    assert len(said) == 1
    assert said[0].filename == __file__
    assert not bool(found.success.all())
    with pytest.warns(AttackWarning, match="40 of 40"):
        CLIMBS[name](lambda v: model(v) + torch.nan * v.sum(1, keepdim=True), x, y, 0.1)


@pytest.mark.parametrize("scale", [1e20, torch.inf])
def test_logits_that_overflow_are_warned_of(scale):
    """Nothing is found there, and elsewhere what there is."""
    model, x, y = make(6)
    x[:2, 0] += 5
    y[:2] = model(x[:2]).argmax(1)

    def overflowing(v):
        return model(v) * 1e20 * torch.where(v[:, :1] > 3, scale, 1e-20)

    said = r"no gradient for 2 of \d examples: it is 0, or it or the output is no number"
    for run in (pgd, ad.attack.minimum_norm, ad.attack.ensemble):
        for ball in (ad.LinfBall(0.2), ad.L2Ball(0.5)):
            with pytest.warns(AttackWarning, match=said):
                found = run(overflowing, x, y, ball, steps=4)
            assert not found.success[:2].any()
            assert found.success[2:].any()


def test_dead_units_and_sets_of_one_point_are_not_warned_of():
    """At x no unit is on; a little further some are."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    x = torch.full((3, 6), 0.5, dtype=torch.float64)
    with torch.no_grad():
        model[0].bias.copy_(-1e-9 - model[0].weight @ x[0])
    y = model(x).argmax(1)
    assert not bool(torch.func.jacrev(lambda v: model(v))(x).any())
    found = pgd(model, x, y, 0.2, steps=5)
    assert bool((found.x != x).any()), "a random point was tried"
    pgd(model, x, y, 0.0, steps=5)
    for run in (square, search):
        run(lambda v: model(v).sign(), x, y, 0.2, steps=5)


def test_the_callers_success_needs_the_callers_slope():
    _, x, y = make(4)
    flat = partial(pgd, loss=lambda z, y: 0 * z.sum(1), success=lambda z, y: z.sum(1) > 1e9)
    with pytest.warns(AttackWarning, match="4 of 4"):
        flat(lambda v: v, x, y, 0.1)


@pytest.mark.parametrize(
    ("part", "refused"),
    [
        (nn.Dropout(0.5), True),
        (nn.BatchNorm1d(5), True),
        (nn.RReLU(), True),
        (nn.Dropout(0.0), False),
        (nn.RReLU(0.1, 0.1), False),
        (nn.ReLU(), False),
        (nn.Dropout(0.5).eval(), False),
        (nn.BatchNorm1d(5).eval(), False),
    ],
    ids=repr,
)
def test_training_mode_is_refused_where_it_matters(part, refused):
    x, y = torch.rand(4, 3), torch.zeros(4, dtype=torch.long)
    model = nn.Sequential(nn.Linear(3, 5), part, nn.Linear(5, 3))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for run in (*CLIMBS.values(), square, partial(worst_of, attacks=(search,)), search):
        if refused:
            with pytest.raises(
                ModelError, match=r"training mode, and 1 \(Dropout.*model\.eval\(\)"
            ):
                run(model, x, y, 0.1)
        else:
            run(model, x, y, 0.1)
        assert model[1].training == part.training
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


MISLEADING = {
    "noise": lambda v: v[:, :3] + 0.1 * torch.randn(len(v), 3),
    "dropout": lambda v: nn.functional.dropout(v, 0.3)[:, :3],
    "batch norm": nn.BatchNorm1d(4, track_running_stats=False).eval(),
    "mixed": lambda v: v - v.mean(0),
}


@pytest.mark.parametrize("name", MISLEADING)
@pytest.mark.parametrize("loss", ["logits", "own", "reduced"])
def test_what_answers_one_question_twice_is_refused(name, loss):
    torch.manual_seed(0)
    x, y = torch.rand(9, 4), torch.arange(9) % 3
    own = {"loss": lambda out, y: out.norm(dim=1), "success": lambda out, y: out.sum(1) < 0}
    more = {"logits": {}, "own": own, "reduced": {"loss": nn.functional.cross_entropy}}[loss]
    for run in (pgd, fgsm, search):
        with pytest.raises(ModelError, match=r"two answers to one question.*eot="):
            run(MISLEADING[name], x, y, 0.1, **more)


def test_random_models_are_judged_by_their_mean():
    """At ε = 0 lucky draws are no success, and with ε the attack finds what there is to find."""
    model, x, y = make()
    random = nn.Sequential(*model[:3], nn.Dropout(0.5), model[3])
    drawn = torch.stack([random(x) for _ in range(400)]).mean(0)
    gap = drawn.gather(1, y[:, None])[:, 0] - drawn.scatter(1, y[:, None], -torch.inf).amax(1)
    sure = gap > gap.median()
    x, y = x[sure], y[sure]
    assert not bool(pgd(random, x, y, 0.0, steps=5, eot=100).success.any())
    there = random.eval()
    expected = int(pgd(there, x, y, 0.1).success.sum())
    assert expected > len(x) / 2
    random.train()
    for run in (partial(pgd, steps=10), partial(apgd, steps=10, early_stop=True)):
        found = run(random, x, y, 0.1, eot=20)
        assert int(found.success.sum()) >= 0.6 * expected
    with pytest.raises(InputError, match="eot=0"):
        pgd(random, x, y, 0.1, eot=0)
    with pytest.raises(ModelError, match=r"training mode, and 0 \(Dropout"):
        pgd(nn.Sequential(nn.BatchNorm1d(20), random), x, y, 0.1, eot=2)


def test_draws_are_averaged():
    """Loss, gradient and logits are means; a verdict is the majority's."""
    x, y, asked = torch.rand(3, 4), torch.zeros(3, dtype=torch.long), []

    def model(v):
        asked.append(len(asked))
        return v * (1 + asked[-1] % 3)

    found = search(model, x, y, 0.0, steps=1, eot=3)
    torch.testing.assert_close(found.margins, 2 * (x[:, :1] - x))
    votes = {"loss": lambda out, y: out.sum(1), "success": lambda out, y: out.sum(1) > x.sum(1)}
    asked.clear()
    assert bool(pgd(model, x, y, 0.0, steps=1, eot=3, **votes).success.all())


def test_the_margin_is_climbed_only_where_the_loss_has_no_slope():
    model, x, y = make()
    asked = []

    def counted(point):
        asked.append(len(point))
        return model(point)

    pgd(counted, x, y, 0.01, steps=3)
    assert asked == [40] * 6
    asked.clear()
    pgd(counted, x, y, 0.01, steps=3, loss=losses.margin)
    assert asked == [40] * 6
