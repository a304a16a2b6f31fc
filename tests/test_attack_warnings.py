"""Attacks say when their answer misleads: no gradient, and models in training mode."""

import warnings
from functools import partial

import pytest
import torch
from torch import nn

import autodual as ad
from autodual.attack import apgd, fgsm, losses, msd, multi_targeted, pgd, search, square, worst_of
from autodual.errors import AttackWarning

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
@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_large_logits_are_attacked_by_their_margin(name, scale):
    """Cross-entropy underflows, or is no number, and the attack works all the same."""
    model, x, y = make()
    eps = 0.02 if name == "wasserstein" else 0.04
    plain = CLIMBS[name](model, x, y, eps).success
    assert 0 < int(plain.sum()) < len(x)
    large = CLIMBS[name](lambda v: scale * model(v), x, y, eps).success
    assert int(large.sum()) >= 0.9 * int(plain.sum())


@pytest.mark.parametrize("name", CLIMBS)
def test_saturated_outputs_are_warned_of(name):
    model, x, y = make()
    with pytest.warns(AttackWarning, match=r"no gradient for \d+ of 40 examples.*logits=") as said:
        found = CLIMBS[name](lambda v: torch.softmax(1e5 * model(v), 1), x, y, 0.001)
    assert len(said) == 1
    assert said[0].filename == __file__
    assert not bool(found.success.all())
    with pytest.warns(AttackWarning, match="40 of 40"):
        CLIMBS[name](lambda v: model(v) + torch.nan * v.sum(1, keepdim=True), x, y, 0.1)


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
    ("part", "told"),
    [
        (nn.Dropout(0.5), True),
        (nn.BatchNorm1d(5), True),
        (nn.RReLU(), True),
        (nn.Dropout(0.0), False),
        (nn.BatchNorm1d(5, track_running_stats=False), False),
        (nn.RReLU(0.1, 0.1), False),
        (nn.ReLU(), False),
        (nn.Dropout(0.5).eval(), False),
        (nn.BatchNorm1d(5).eval(), False),
    ],
    ids=repr,
)
def test_training_mode_is_warned_of_where_it_matters(part, told):
    x, y = torch.rand(4, 3), torch.zeros(4, dtype=torch.long)
    model = nn.Sequential(nn.Linear(3, 5), part, nn.Linear(5, 3))
    for run in (*CLIMBS.values(), square, partial(worst_of, attacks=(search,)), search):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            run(model, x, y, 0.1)
        assert {"training mode, and 1 " in str(w.message) for w in said} == (
            {True} if told else set()
        )
        assert model[1].training == part.training
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AttackWarning)
        model(pgd(model, x, y, 0.1).x)


def test_the_margin_is_climbed_only_where_the_loss_has_no_slope():
    model, x, y = make()
    asked = []

    def counted(point):
        asked.append(len(point))
        return model(point)

    pgd(counted, x, y, 0.01, steps=3)
    assert asked == [40] * 5
    asked.clear()
    pgd(counted, x, y, 0.01, steps=3, loss=losses.margin)
    assert asked == [40] * 5
