"""What attacks take: labels of every kind or none, models with several arguments, properties."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import autodual as ad
from autodual.attack import apgd, fgsm, losses, msd, multi_targeted, pgd, search, square, worst_of
from autodual.errors import InputError
from tests.nets import random_mlp
from tests.test_labels import (
    MANY,
    NONE,
    ONE,
    classes,
    logit,
    logits,
    margins_at,
    mask,
    pixels,
    setup,
)

ATTACKS = {
    "fgsm": fgsm,
    "pgd": partial(pgd, steps=5, restarts=2),
    "early": partial(pgd, steps=5, early_stop=True),
    "margin": partial(pgd, steps=5, loss=losses.margin),
    "cross-entropy": partial(apgd, steps=5, loss=losses.cross_entropy),
    "multi_targeted": partial(multi_targeted, steps=3),
    "square": partial(square, steps=10),
    "search": partial(search, steps=10),
    "msd": partial(msd, steps=3),
    "worst_of": partial(worst_of, attacks=(fgsm, partial(apgd, steps=3)), early_stop=True),
}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("make", [*MANY, *ONE[:2]])
def test_attacks_take_the_labels_that_bounds_take(make, name):
    """No attack beats the bound, label by label, and what it says of its points is so."""
    model, x, y = setup(make)
    y.view(-1)[::5] = NONE
    found = ATTACKS[name](model, x, y, 0.1)
    with torch.no_grad():
        there = margins_at(model, found.x, y).masked_fill((y == NONE).unsqueeze(1), 0)
        falls = (logits(model(found.x)).argmax(1) != y) & (y != NONE)
    torch.testing.assert_close(found.margins, there)
    assert found.success.shape == y.shape
    assert bool((found.success | ~falls).all())
    assert not found.success[y == NONE].any()
    certificate = ad.certify(model, 0.1)(x, y)
    assert bool((found.margins >= certificate.margins - 1e-9).all())
    assert not (found.success & certificate.verified).any()


def test_more_labels_fall_where_more_can():
    """The point kept is the one at which most labels fall; it stops when all have."""
    model, x, y = setup(pixels, seed=3)
    y = logits(model(x)).argmax(1)
    assert not pgd(model, x, y, 0.0).success.any()
    counts = [int(pgd(model, x, y, eps, steps=10).success.sum()) for eps in (0.01, 0.1, 1.0)]
    assert counts[0] <= counts[1] <= counts[2]
    assert counts[2] > 0.5 * y.numel()
    assert "90 labels fall" in str(pgd(model, x, y, 0.1))
    one = torch.full_like(y, NONE)
    one[:, 2, 3] = y[:, 2, 3]
    found = pgd(model, x, one, 1.0, steps=20, early_stop=True)
    assert torch.equal(found.done, found.success[:, 2, 3])


def test_targets_for_every_label():
    model, x, y = setup(pixels, seed=3)
    aim = torch.ones_like(y)
    found = pgd(model, x, y, 2.0, targets=aim, steps=20)
    assert torch.equal(found.success, model(found.x).argmax(1) == 1)
    assert int(found.success.sum()) > int((model(x).argmax(1) == 1).sum())


@pytest.mark.parametrize("make", [classes, pixels, logit])
def test_labels_in_every_form_and_none(make):
    model, x, y = setup(make)
    run = partial(pgd, model, x, eps=0.1, steps=3)
    for form in (y.tolist(), y.int(), y.numpy(), tuple(y.tolist())):
        assert torch.equal(run(y=form).x, run(y=y).x)
    own = logits(model(x)).argmax(1)
    assert torch.equal(run(y=None).margins, run(y=own).margins)
    if make is logit:
        assert torch.equal(run(y=y.double()).x, run(y=y).x)
    with pytest.raises(InputError, match="classes 0 to"):
        run(y=y + 7)
    with pytest.raises(InputError, match="one label for each of 3"):
        run(y=y[:2])


def test_a_loss_of_the_callers_is_given_what_the_caller_gave():
    model, x, y = setup(logit)
    floats, bce = y.double().unsqueeze(1), F.binary_cross_entropy_with_logits
    loss = lambda z, y: bce(z, y, reduction="none").sum(1)  # noqa: E731
    found = pgd(model, x, floats, 0.1, loss=loss)
    torch.testing.assert_close(found.margins, pgd(model, x, y, 0.1).margins)


@pytest.mark.parametrize("run", [pgd, partial(apgd, early_stop=True), square, worst_of])
def test_no_labels_where_a_loss_says_it_all(run):
    model, x, _ = setup(classes)
    unit = torch.eye(3).double()
    safe = ad.AtLeastOne(unit[1:] - unit[:1], -0.2) & ad.All(-unit, -1.0)
    found = run(model, x, None, 0.5, loss=safe.loss, success=safe.violated)
    assert torch.equal(found.success, safe.violated(model(found.x)))
    torch.testing.assert_close(found.score, safe.loss(model(found.x)).detach())
    bound = ad.certify(model, 0.5).holds(x, safe)
    assert bool((safe.margins(model(found.x)) >= bound.margins - 1e-9).all())
    assert not (found.success & bound.verified).any()
    with pytest.raises(InputError, match="needs a loss= of the output alone"):
        run(model, x, None, 0.5, success=safe.violated)


@pytest.mark.parametrize("name", ["steps", "restarts", "eot"])
@pytest.mark.parametrize("given", [2.5, -1, "3", True])
def test_what_counts_is_a_whole_number(name, given):
    model, x, y = setup(classes)
    said = rf"{name}={given!r}: give a whole number"
    for run in (pgd, apgd, msd, square, search, multi_targeted):
        with pytest.raises(InputError, match=said):
            run(model, x, y, 0.1, **{name: given})
    if name == "steps":
        for run in (ad.attack.ensemble, ad.attack.minimum_norm, ad.attack.wasserstein):
            with pytest.raises(InputError, match=said):
                run(model, x, y, 0.1, steps=given)


def test_other_numbers_of_attacks():
    model, x, y = setup(classes)
    for run, options in (
        (multi_targeted, {"classes": 1.5}),
        (ad.attack.ensemble, {"batch": 0}),
        (ad.attack.wasserstein, {"every": 0.5}),
    ):
        ((name, given),) = options.items()
        with pytest.raises(InputError, match=f"{name}={given}: give a whole number"):
            run(model, x, y, 0.1, **options)
    assert torch.equal(pgd(model, x, y, 0.1, steps=np.int64(3)).x, pgd(model, x, y, 0.1, steps=3).x)


@pytest.mark.parametrize("make", [classes, pixels, logit])
def test_labels_are_no_targets(make):
    """An example is at such a target before it is attacked; of many labels some may stay."""
    model, x, _ = setup(make)
    y = logits(model(x)).argmax(1)
    aim = (y + 1) % 2
    aim[1] = y[1]
    for run in (partial(pgd, steps=2), partial(square, steps=2)):
        for own in (y, None):
            with pytest.raises(InputError, match=r"themselves for 1 of 3 examples.*other classes"):
                run(model, x, own, 0.1, targets=aim)
    aim.view(3, -1)[1, 0] += 1
    aim %= 2
    y[0] = NONE
    aim[0] = 0
    pgd(model, x, y, 0.1, targets=aim, steps=2)


def test_wasserstein_attacks_no_other_set():
    model, x, y = setup(classes)
    for other in (ad.LinfBall(0.1), ad.Union(ad.Wasserstein(0.1)), {0: ad.Wasserstein(0.1)}):
        with pytest.raises(InputError, match=r"not (Linf|Union|0: ).*ad\.Wasserstein\(eps\).*pgd"):
            ad.attack.wasserstein(model, x, y, other)


class Two(nn.Module):
    """Each example has a state, a weight of its own, and a table that all share."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x, state, *, weight, table):
        return self.fc(torch.tanh(x * weight + state @ table))


def two(seed=0, n=4):
    torch.manual_seed(seed)
    model, x, state = Two().double(), torch.rand(n, 4).double(), torch.rand(n, 5).double()
    weight, table = torch.rand(n, 1).double() + 0.5, torch.rand(5, 4).double()
    return model, ad.Inputs(x, state, weight=weight, table=table)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("which", [0, "x", "state", 1])
def test_models_with_several_arguments(which, name):
    model, inputs = two()
    key = {"x": 0, "state": 1}.get(which, which)
    y = model(*inputs.args, **inputs.kwargs).argmax(1)
    threat = ad.Union(ad.LinfBall(0.2), ad.L2Ball(0.3)) if "of" in name else ad.LinfBall(0.2)
    found = ATTACKS[name](model, inputs, y, threat, perturb=which)
    moved = inputs.replace(key, found.x)
    z = model(*moved.args, **moved.kwargs)
    torch.testing.assert_close(found.margins, (z.gather(1, y.unsqueeze(1)) - z).detach())
    bound = ad.certify(model, threat, perturb=which)(inputs, y)
    assert bool((found.margins >= bound.margins - 1e-9).all())
    assert bool(threat.contains(inputs.get(key), found.x).all())


def test_arguments_that_are_not_there():
    model, inputs = two()
    with pytest.raises(InputError, match="perturb='z' names no argument"):
        pgd(model, inputs, None, 0.1, perturb="z")
    with pytest.raises(InputError, match="pgd takes no pertub=: did you mean perturb"):
        pgd(model, inputs, None, 0.1, pertub=0)
    with pytest.raises(InputError, match="non-empty batch of numbers"):
        pgd(model, ad.Inputs("x", 3), None, 0.1)


@pytest.mark.parametrize("make", [pixels, mask, logit])
def test_self_check_takes_them_all(make):
    model, x, y = setup(make, seed=1)
    y.view(-1)[::4] = NONE
    net = ad.certify(model, ad.LinfBall(0.1))
    assert ad.self_check(net, x, y, steps=2).passed
    assert ad.self_check(net, x, steps=2).passed
    inner, inputs = two()
    assert ad.self_check(ad.certify(inner, 0.1, perturb="state"), inputs, steps=2).passed


def test_a_bound_that_is_too_good_for_one_pixel_is_caught(monkeypatch):
    """Canary: self_check looks at every label, and attacks the nearest alone."""
    from autodual.bound import reading

    model, x, y = setup(pixels)
    margins = reading.margins

    def lifted(sums, value, labels):
        found = margins(sums, value, labels)
        least = found.scatter(1, labels.unsqueeze(1), torch.inf).flatten(1)
        rise = torch.zeros_like(least).scatter(1, least.argmin(1, keepdim=True), 0.4)
        return found + rise.reshape(found.shape)

    monkeypatch.setattr(reading, "margins", lifted)
    with pytest.raises(ad.errors.CrossingError):
        ad.self_check(ad.certify(model, 0.05), x, y, steps=10)


def test_a_mlp_of_dead_units_needs_no_rows_of_its_own():
    """Examples without a slope are attacked elsewhere with the arguments that are theirs."""

    class Dead(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = random_mlp(0, (3, 4, 3))

        def forward(self, x, shift):
            return self.body(F.relu(x + shift))

    x, shift = torch.rand(3, 3).double(), torch.tensor([[0.0], [-9.0], [0.5]]).double()
    with pytest.warns(ad.errors.AttackWarning, match="no gradient for 1 of 3"):
        pgd(Dead(), ad.Inputs(x, shift), None, 0.1)


@pytest.mark.parametrize("run", [partial(pgd, steps=8), partial(apgd, steps=8), worst_of])
def test_what_all_share_may_be_as_long_as_the_batch(run):
    """Examples that are left behind take no rows of it with them."""

    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x, adjacency):
            return self.fc(torch.tanh(x @ adjacency))

    torch.manual_seed(0)
    model, x = Graph().double(), torch.rand(4, 4).double()
    inputs = ad.Inputs(x, torch.rand(4, 4).double())
    y = model(*inputs.args).argmax(1)
    y[0] = (y[0] + 1) % 3  # falls at once
    found = run(model, inputs, y, ad.Union(ad.LinfBall(0.3), ad.L2Ball(0.2)), early_stop=True)
    z = model(found.x, inputs.args[1])
    torch.testing.assert_close(found.margins, (z.gather(1, y.unsqueeze(1)) - z).detach())
    assert torch.equal(found.inputs.args[1], inputs.args[1])
