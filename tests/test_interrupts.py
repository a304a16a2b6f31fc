"""Ctrl-C leaves what is finished, in the form of the whole result."""

import pytest
import torch
from torch import nn

import autodual as ad
from autodual.bound.module import BoundModule
from autodual.errors import Interrupted

SETS = {"ball": ad.LinfBall(0.02), "union": ad.Union(ad.LinfBall(0.01), ad.L2Ball(0.03))}


def make():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 3))
    return model, torch.rand(4, 4)


ASKED = {
    "net": lambda net, x: net(x),
    "within": lambda net, x: net.within(x, 0.5),
    "holds": lambda net, x: net.holds(x, ad.AtLeastOne(torch.eye(3)) & ad.All(torch.eye(3), -9.0)),
    "bounds": lambda net, x: net.bounds(x),
    "lower_bound": lambda net, x: net.lower_bound(x, torch.eye(3)),
    "detect": lambda net, x: net.detect(x),
    "margins": lambda net, x: net.margins(x, torch.zeros(4, dtype=torch.long)),
    "worst": lambda net, x: net.worst(x, torch.zeros(4, dtype=torch.long)),
}

NOTHING = {
    "bounds": (-torch.inf, torch.inf),
    "lower_bound": (-torch.inf,),
    "detect": (False,),
}
"""What is said of examples that were not reached."""


def tensors(result):
    """Return the tensors of a result, those that say something per example."""
    if isinstance(result, ad.Interval):
        return result.lower, result.upper
    if isinstance(result, ad.Certificate):
        return (result.margins,)
    return result if isinstance(result, tuple) else (result,)


def interrupt(patch, call):
    """Interrupt at this call of what relaxes the network for a part of the batch."""
    relax, count = BoundModule.relax, 0

    def interrupted(self, *args, **options):
        nonlocal count
        count += 1
        if count == call:
            raise KeyboardInterrupt
        return relax(self, *args, **options)

    patch.setattr(BoundModule, "relax", interrupted)


@pytest.fixture
def one_by_one(monkeypatch):
    monkeypatch.setattr("autodual.bound.module.PART", 1.0)
    return monkeypatch


@pytest.mark.parametrize("threat", SETS.values(), ids=SETS)
@pytest.mark.parametrize("asked", ASKED)
@torch.no_grad()
def test_what_is_finished_is_what_the_whole_says_of_it(asked, threat, one_by_one):
    (model, x), ask = make(), ASKED[asked]
    net, members = ad.certify(model, threat), len(threat.members)
    whole = ask(net, x)
    interrupt(one_by_one, 3 * members)  # at the last member for the third example
    with pytest.raises(Interrupted, match="2 of 4 examples are finished") as caught:
        ask(net, x)
    partial = caught.value.partial
    assert type(partial) is type(whole)
    for mine, full in zip(tensors(partial), tensors(whole), strict=True):
        assert mine.shape == full.shape
        torch.testing.assert_close(mine[:2], full[:2])
    if isinstance(partial, ad.Certificate):
        assert not partial.verified[2:].any()
        assert torch.equal(partial.verified[:2], whole.verified[:2])
    for mine, nothing in zip(tensors(partial), NOTHING.get(asked, ()), strict=False):
        assert (mine[2:] == nothing).all()


@pytest.mark.parametrize("asked", ASKED)
@torch.no_grad()
def test_before_the_first_is_finished_there_is_nothing(asked, one_by_one):
    model, x = make()
    interrupt(one_by_one, 2)  # the second member for the first example
    with pytest.raises(KeyboardInterrupt) as plain:
        ASKED[asked](ad.certify(model, SETS["union"]), x)
    assert not isinstance(plain.value, Interrupted)


@pytest.mark.parametrize("call", [2, 7])
def test_a_radius_is_one_that_was_certified(call, one_by_one):
    model, x = make()
    net = ad.certify(model, 0.02)
    whole = net.radius(x)
    interrupt(one_by_one, call)
    with pytest.raises(KeyboardInterrupt) as caught:
        net.radius(x)
    if call == 2:  # ε = 0 is tried first
        assert not isinstance(caught.value, Interrupted)
        return
    partial = caught.value.partial
    assert partial.shape == whole.shape
    assert (partial <= whole).all()


def test_pixels_and_single_logits_leave_what_is_finished(one_by_one):
    torch.manual_seed(0)
    segmenter = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 3, 1))
    net, x = ad.certify(segmenter, 0.01), torch.rand(3, 1, 4, 4)
    whole = net(x)
    interrupt(one_by_one, 3)
    with pytest.raises(Interrupted) as caught:
        net(x)
    torch.testing.assert_close(caught.value.partial.margins[:2], whole.margins[:2])
    assert not caught.value.partial.verified[2:].any()


def test_with_gradients_parts_that_memory_asks_for_are_kept(monkeypatch):
    model, x = make()
    monkeypatch.setattr(BoundModule, "_examples_at_once", lambda self, x: 1)
    net = ad.certify(model, SETS["union"])
    whole = net.bounds(x)
    torch.testing.assert_close(whole.lower, ad.certify(model, SETS["union"]).bounds(x).lower)
    (whole.upper - whole.lower).sum().backward()
    in_parts = [p.grad.clone() for p in model.parameters()]
    monkeypatch.undo()
    model.zero_grad()
    box = net.bounds(x)
    (box.upper - box.lower).sum().backward()
    for mine, p in zip(in_parts, model.parameters(), strict=True):
        torch.testing.assert_close(mine, p.grad)
    monkeypatch.setattr(BoundModule, "_examples_at_once", lambda self, x: 1)
    interrupt(monkeypatch, 6)
    with pytest.raises(Interrupted, match="2 of 4") as caught:
        net.bounds(x)
    torch.testing.assert_close(caught.value.partial.upper[:2], whole.upper[:2].detach())


def test_the_loss_of_some_is_not_that_of_all(one_by_one):
    model, x = make()
    interrupt(one_by_one, 3)
    with torch.no_grad(), pytest.raises(KeyboardInterrupt) as plain:
        ad.robust_loss(model, x, torch.zeros(4, dtype=torch.long), eps=0.02)
    assert not isinstance(plain.value, Interrupted)
