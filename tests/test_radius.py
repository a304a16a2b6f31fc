"""The search for radii: right, narrow, few tries; interrupted, it gives what it has."""

import pytest
import torch
from torch import nn

import autodual as ad
from autodual.errors import Interrupted
from autodual.ladder.radius import FAR, Brackets

CURVES = {
    "straight": lambda u: 1 - u,
    "power": lambda u: 3 * (1 - u**5),
    "exponential": lambda u: 1 - torch.expm1(4 * u) / torch.expm1(torch.tensor(4.0).double()),
    "jump": lambda u: torch.where(u < 1, 1 - u / 2, -1e6),
    "undefined": lambda u: torch.where(u < 1, 1 - u / 2, torch.nan),
}


@pytest.mark.parametrize("kind", CURVES)
def test_radii_are_found_to_the_width_asked_for(kind):
    torch.manual_seed(0)
    root = torch.logspace(-3, 2, 60).double()[torch.randperm(60)]
    curve = CURVES[kind]
    search = Brackets(curve(torch.zeros_like(root)), 0.1, steps=20)
    while search.open.any():
        index = search.open.nonzero().squeeze(1)
        search.tell(index, curve(search.radius[index] / root[index]))
    assert (search.found < root).all()
    assert ((root - search.found) / root).max() < 2**-19
    assert search.tried.double().mean() < (30 if kind in ("jump", "undefined") else 12)
    assert search.done == len(root)


def test_radii_without_an_end_and_without_a_start():
    nominal = torch.tensor([1.0, 1.0, 0.0, -1.0, torch.nan, -torch.inf])
    search = Brackets(nominal, 0.1, steps=10)
    assert search.open.tolist() == [True, True, False, False, False, False]
    while search.open.any():
        index = search.open.nonzero().squeeze(1)
        search.tell(index, torch.tensor([1.0, -torch.inf])[index])
    assert FAR < search.found[0] < 4 * FAR
    assert search.found[1:].tolist() == [0.0] * 5


def make():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4)).double()
    x = torch.rand(9, 6, dtype=torch.float64)
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("ball", [ad.LinfBall(0.1), ad.L2Ball(torch.full((9,), 3.0), (-9, 9))])
def test_every_radius_is_certified_and_a_little_more_is_not(ball):
    model, x, y = make()
    y[4] = (y[4] + 1) % 4
    net = ad.certify(model, ball)
    radius = net.radius(x, y)
    assert radius[4] == 0
    assert (radius[torch.arange(9) != 4] > 0).all()
    found = radius > 0
    assert net.at(radius)(x, y).verified[found].all()
    assert not net.at(radius * (1 + 1e-5))(x, y).verified[found].any()
    alone = ad.certify(model, ad.LinfBall(0.3)).radius(x[:1], y[:1])
    torch.testing.assert_close(alone, ad.certify(model, 0.1).radius(x, y)[:1], rtol=1e-5, atol=0)


def test_an_interrupted_search_gives_what_it_has_and_that_holds(monkeypatch):
    model, x, y = make()
    net, count = ad.certify(model, 0.01), 0
    lower = ad.Certified._lower

    def interrupted(self, *args):
        nonlocal count
        count += 1
        if count == 5:
            raise KeyboardInterrupt
        return lower(self, *args)

    monkeypatch.setattr(ad.Certified, "_lower", interrupted)
    with pytest.raises(Interrupted, match="of 9 radii are found") as caught:
        net.radius(x, y)
    partial = caught.value.partial
    assert partial.shape == (9,)
    assert (partial > 0).any()
    full = net.radius(x, y)
    assert (partial <= full).all()
    held = partial > 0
    assert net.at(partial)(x, y).verified[held].all()


def test_a_search_says_how_far_it_is(monkeypatch):
    monkeypatch.setattr("autodual.working.PATIENCE", 0.0)
    monkeypatch.setattr("autodual.working.EVERY", 0.0)
    model, x, y = make()
    said = []
    with ad.progress(said.append):
        ad.certify(model, 0.01).radius(x, y)
    shares = [report.share for report in said if report.what == "radius"]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] > 0.99


@pytest.mark.parametrize("ball", [ad.LinfBall(0.1), ad.L2Ball(0.2, (-9, 9)), ad.L1Ball(0.3)])
def test_attacks_find_the_other_side(ball):
    model, x, y = make()
    y[4] = (y[4] + 1) % 4
    net = ad.certify(model, ball)
    radii = net.radius(x, y, attack=True)
    assert torch.equal(radii.lower, net.radius(x, y))
    assert (radii.upper >= radii.lower).all()
    assert radii.upper[4] == 0
    found = radii.upper.isfinite()
    assert found.sum() > 6
    z = model(radii.x)
    wrong = z.gather(1, y[:, None]) <= z.scatter(1, y[:, None], -torch.inf).amax(1, keepdim=True)
    assert wrong[found].all()
    far = ball.with_eps(radii.upper.clamp(max=1e6)).contains(x, radii.x)
    assert far[found].all()
    with pytest.raises(ad.errors.InputError, match="leave attack=True out"):
        ad.certify(model, ad.Wasserstein(0.1)).radius(x, y, attack=True)


def test_exact_radii_are_no_smaller():
    model, x, y = make()
    dual, exact = (ad.certify(model, 0.1, bounds=rung) for rung in (ad.Dual(), ad.MILP(2)))
    below, radii = dual.radius(x[:3], y[:3]), exact.radius(x[:3], y[:3], steps=8, attack=True)
    assert (radii.lower >= 0.99 * below).all()
    assert (radii.upper >= 0.999 * radii.lower).all()
