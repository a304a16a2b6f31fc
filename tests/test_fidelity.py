"""A certificate is one of the function that the model computes now, at this x."""

import functools
import math
import random
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import autodual as ad
from autodual.front import door

X = torch.linspace(-1, 1, 12).view(3, 4)
NUMBER = 1.0


class Scaled(nn.Module):
    """A linear layer times a number that comes from somewhere."""

    rate = 1.0

    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.how, self.config = nn.Linear(4, 3), how, SimpleNamespace(scale=1.0)

    def forward(self, x):
        return self.how(self, self.layer(x))


def assert_bounded_or_refused(net, x):
    """The model's own output lies within its bounds, unless there are none."""
    try:
        found = net.bounds(x)
    except ad.errors.AutodualError:
        return
    z = net.model(x)
    inside = (z >= found.lower - 1e-4) & (z <= found.upper + 1e-4)
    assert bool(inside.all()), "a certificate of another function"


def certified(model, x=X):
    net = ad.certify(model, 0.01)
    assert_bounded_or_refused(net, x)
    return net


def test_an_object_that_the_model_holds_changes():
    model = Scaled(lambda m, z: z * m.config.scale)
    net = certified(model)
    model.config.scale = 5.0
    assert_bounded_or_refused(net, X)


def test_an_attribute_of_the_class_changes(monkeypatch):
    net = certified(Scaled(lambda m, z: z * m.rate))
    monkeypatch.setattr(Scaled, "rate", 5.0)
    assert_bounded_or_refused(net, X)


def test_a_global_number_changes(monkeypatch):
    net = certified(Scaled(lambda m, z: z * NUMBER))
    monkeypatch.setitem(globals(), "NUMBER", 5.0)
    assert_bounded_or_refused(net, X)


def test_a_keyword_of_a_partial_changes():
    model = Scaled(lambda m, z: m.act(z))
    model.act = functools.partial(F.leaky_relu, negative_slope=0.1)
    net = certified(model)
    model.act.keywords["negative_slope"] = 5.0
    assert_bounded_or_refused(net, X)


class Unregistered(nn.Module):
    """Layers in a plain list: forward knows them, torch does not."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = list(layers)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def test_a_weight_that_torch_does_not_know_is_replaced():
    model = Unregistered(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    net = certified(model)
    model.layers[2].weight = nn.Parameter(torch.full((4, 4), 2.0))
    assert_bounded_or_refused(net, X)


def test_a_batch_norm_that_torch_does_not_know_starts_to_train():
    model = Unregistered(nn.Linear(4, 4), nn.BatchNorm1d(4).eval())
    net = certified(model)
    model.layers[1].train()
    try:
        found = net(X)
    except ad.errors.AutodualError:
        return
    assert not isinstance(found, ad.Certificate)


class Alone(nn.Module):
    """Computes something else for a single example."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return 5 * self.layer(x) if x.size(0) > 1 else self.layer(x)


def test_one_example_after_many():
    assert_bounded_or_refused(certified(Alone()), X[:1])


class Chance(nn.Module):
    """Draws with Python's own random numbers."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 3), nn.Linear(3, 3)

    def forward(self, x):
        z = self.one(x)
        return z + 10 * self.two(z) if random.random() < 0.5 else z


@pytest.mark.parametrize("seed", range(6))
def test_a_model_that_draws(seed):
    state = random.getstate()
    try:
        random.seed(seed)
        net = ad.certify(Chance(), 0.01)
        for _ in range(10):
            assert_bounded_or_refused(net, X)
    finally:
        random.setstate(state)


class Attention(nn.Module):
    """NaN where all of a sequence is padding."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x, pad):
        h = x.view(x.size(0), 3, 4)
        scores = self.q(h) @ self.k(h).transpose(1, 2)
        weights = scores.masked_fill(pad[:, None, :], -math.inf).softmax(-1)
        return self.o((weights @ self.v(h)).mean(1))


def test_where_the_output_is_nan_nothing_is_verified():
    x, pad = torch.randn(2, 12), torch.zeros(2, 3, dtype=torch.bool)
    net = ad.certify(Attention(), 0.01)
    assert bool(net.lower_bound(ad.Inputs(x, pad), torch.eye(4)).isfinite().all())
    pad[1] = True
    inputs = ad.Inputs(x, pad)
    assert not bool(net(inputs).verified[1])
    assert not bool(net.within(inputs, 1e6).verified[1])
    assert bool(net.lower_bound(inputs, torch.eye(4))[1].isneginf().all())
    box = net.bounds(inputs)
    assert bool(box.lower[1].isneginf().all())
    assert bool(box.upper[1].isposinf().all())


class Masked(nn.Module):
    """Makes a buffer when it is first called."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("mask", None)

    def forward(self, x):
        if self.mask is None:
            self.mask = torch.linspace(0, 1, x.shape[1])
        return self.layer(x * self.mask)


def test_a_capture_leaves_the_model_as_it_was():
    model = Masked()
    certified(model)
    assert type(model(X)) is torch.Tensor


def test_what_a_one_way_cost_cannot_undo_is_not_detected():
    cost = torch.tensor([[0.0, 0.1], [math.inf, 0.0]])  # mass moves from pixel 0 to pixel 1 only
    ball = ad.Wasserstein(0.1, cost=cost)
    x, found = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert bool(ball.contains(x, found))
    try:
        said = ad.certify(nn.Flatten(), ball).detect(found)
    except ad.errors.AutodualError:
        return
    assert not bool(said)


# ---- what is remembered -----------------------------------------------------------------------


@pytest.fixture
def captures(monkeypatch):
    """The number of captures so far, in a list."""
    counted, real = [], door.capture
    monkeypatch.setattr(door, "capture", lambda *a, **k: counted.append(1) or real(*a, **k))
    return counted


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def test_a_loss_captures_and_plans_once(captures, monkeypatch):
    planned, real = [], ad.certified.make_plan
    monkeypatch.setattr(
        "autodual.certified.make_plan", lambda *a, **k: planned.append(1) or real(*a, **k)
    )
    model, y = mlp(), torch.tensor([0, 1, 2])
    for _ in range(5):
        ad.robust_loss(model, X, y, 0.1).backward()
    assert len(captures) == 1
    assert len(planned) == 1


class Counting(nn.Module):
    """Counts its own calls, which changes nothing that it computes."""

    def __init__(self):
        super().__init__()
        self.layer, self.steps = nn.Linear(4, 3), 0

    def forward(self, x):
        self.steps += 1
        return self.layer(x)


def test_a_counter_causes_one_further_capture_at_most(captures):
    model, y = Counting(), torch.tensor([0, 1, 2])
    for _ in range(5):
        model.steps += 1
        ad.robust_loss(model, X, y, 0.1)
    assert len(captures) <= 2


def test_a_parameter_of_another_shape_is_captured_anew(captures):
    model = mlp()
    net = certified(model)
    model[0] = nn.Linear(4, 7)
    model[2].weight = nn.Parameter(torch.randn(3, 7))
    net.bounds(X)
    assert_bounded_or_refused(net, X)
    assert len(captures) == 2


def test_captures_that_no_longer_hold_are_dropped():
    scales = {"now": 1.0}  # what no fingerprint sees
    model = Scaled(lambda m, z: z * scales["now"])
    net = certified(model)
    for scale in (2.0, 3.0, 4.0):
        scales["now"] = scale
        net.bounds(X)
        assert_bounded_or_refused(net, X)
    assert len(door._MEMORY[model].held) == 1


def test_objects_are_told_apart_though_they_follow_each_other():
    """A new object may be where an old one was."""

    class Cap:
        def __init__(self, top):
            self.top = top

        def __call__(self, z):
            return z.clamp(-1, self.top)

    class Capped(nn.Module):
        def forward(self, x):
            return self.cap(3.5 * x)

    model, x = Capped(), torch.zeros(1, 2)
    for top in (1.0, 5.0, 2.0, 3.0):
        model.cap = None
        model.cap = Cap(top)
        upper = ad.certify(model, 1.0).bounds(x).upper
        torch.testing.assert_close(upper, torch.full_like(upper, min(top, 3.5)))
