"""The one way in: no bound is of a function that the model no longer computes."""

import functools
import gc
import math
import pickle
import weakref
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import autodual as ad
from autodual.errors import BatchError, CaptureError, InputError, UnsoundError
from autodual.front import door
from tests.zoo import Net

X = torch.linspace(-1, 1, 12).view(3, 4)
DOUBLE = torch.float64
Y = torch.tensor([0, 1, 2])
NUMBER = 1.0


class Model(nn.Module):
    """A linear layer, what ``f`` makes of the model and its output, and attributes."""

    rate = 1.0

    def __init__(self, f=lambda m, z: z, **attributes):
        super().__init__()
        self.fc, self.f = nn.Linear(4, 3), f
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.f(self, self.fc(x))


class Listed(nn.Module):
    """Layers in a plain list: torch does not know them, forward does."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = list(layers)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def assert_bounds_are_the_models(net, model, x=X):
    """At radius 0, where both ends of every kind of bound are the model's output."""
    z = model(x).detach()
    box = net.bounds(x)
    torch.testing.assert_close((box.lower, box.upper), (z, z))
    spec = torch.eye(z.shape[1])
    torch.testing.assert_close(net.lower_bound(x, spec), z)
    y = z.argmax(1)
    torch.testing.assert_close(net(x).margins, z.gather(1, y.unsqueeze(1)) - z)
    assert bool(net.within(x, 1e-4).verified.all())
    torch.testing.assert_close(net.relax(x).interval(net.graph.output).lower, z)


@pytest.fixture
def counted(monkeypatch):
    """How often captures and plans have been made and models been called to compare."""
    counts = SimpleNamespace(capture=0, make_plan=0, call_untouched=0)

    def count(module, name):
        function = getattr(module, name)

        @functools.wraps(function)
        def counting(*args, **kwargs):
            setattr(counts, name, getattr(counts, name) + 1)
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, counting)

    count(door, "capture")
    count(door, "call_untouched")
    count(ad.certified, "make_plan")
    return counts


def leaky(slope):
    return functools.partial(F.leaky_relu, negative_slope=slope)


CHANGES = {
    "a config object": (
        lambda: Model(lambda m, z: z * m.cfg.scale, cfg=SimpleNamespace(scale=1.0)),
        lambda model, patch: setattr(model.cfg, "scale", 5.0),
    ),
    "a class attribute": (
        lambda: Model(lambda m, z: z * m.rate),
        lambda model, patch: patch.setattr(Model, "rate", 5.0),
    ),
    "a global": (
        lambda: Model(lambda m, z: z * NUMBER),
        lambda model, patch: patch.setitem(globals(), "NUMBER", 5.0),
    ),
    "a partial's keyword": (
        lambda: Model(lambda m, z: m.act(z), act=leaky(0.1)),
        lambda model, patch: model.act.keywords.update(negative_slope=5.0),
    ),
    "a captured variable": (
        lambda: Model(lambda m, z, box=[1.0]: z * box[0]),
        lambda model, patch: model.f.__defaults__[0].__setitem__(0, 5.0),
    ),
    "a weight that torch does not know": (
        lambda: Listed(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)),
        lambda model, patch: setattr(model.layers[2], "weight", nn.Parameter(torch.ones(4, 4))),
    ),
    "a layer that torch does not know": (
        lambda: Listed(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)),
        lambda model, patch: model.layers.__setitem__(1, nn.ReLU()),
    ),
    "a weight's shape": (
        lambda: Model(),
        lambda model, patch: (
            setattr(model.fc, "weight", nn.Parameter(torch.ones(5, 4))),
            setattr(model.fc, "bias", nn.Parameter(torch.zeros(5))),
        ),
    ),
    "a weight's data's shape": (
        lambda: Model(),
        lambda model, patch: (
            setattr(model.fc.weight, "data", torch.ones(5, 4)),
            setattr(model.fc.bias, "data", torch.zeros(5)),
        ),
    ),
}


@pytest.mark.parametrize("bounds", ["ibp", "ibp&dual"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_bound_follows_what_forward_reads(name, bounds, monkeypatch):
    build, change = CHANGES[name]
    model = build()
    net = ad.certify(model, 0.0, bounds=bounds)
    assert_bounds_are_the_models(net, model)
    before = model(X)
    change(model, monkeypatch)
    after = model(X)
    assert before.shape != after.shape or not torch.allclose(before, after)
    assert_bounds_are_the_models(net, model)


def test_a_graph_that_no_longer_holds_is_dropped(counted, monkeypatch):
    model = Model(lambda m, z: z * NUMBER)
    net = ad.certify(model, 0.0)
    net(X)
    before = [weakref.ref(held) for held in door._MEMORY[model].held.values()]
    monkeypatch.setitem(globals(), "NUMBER", 5.0)
    assert_bounds_are_the_models(net, model)
    gc.collect()
    assert [ref() for ref in before] == [None]
    assert len(door._MEMORY[model].held) == 1
    assert counted.capture == 2


@pytest.mark.parametrize("question", ["call", "bounds", "lower_bound", "within", "radius"])
def test_each_question_finds_out_by_itself(question, monkeypatch):
    model = Model(lambda m, z: z * NUMBER)
    net = ad.certify(model, 0.01)
    spec = torch.eye(3)
    asked = {
        "call": lambda net: net(X, Y).margins,
        "bounds": lambda net: net.bounds(X).lower,
        "lower_bound": lambda net: net.lower_bound(X, spec),
        "within": lambda net: net.within(X, 1.0).margins,
        "radius": lambda net: net.radius(X, model(X).argmax(1)),
    }[question]
    before = asked(net)
    monkeypatch.setitem(globals(), "NUMBER", -5.0)
    after = asked(net)
    fresh = Model(model.f)
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(after, asked(ad.certify(fresh, 0.01)))
    assert not torch.allclose(before, after)


def test_batch_norm_that_torch_does_not_know_starts_to_train():
    model = Listed(nn.Linear(4, 4), nn.BatchNorm1d(4).eval())
    net = ad.certify(model, 0.01)
    assert isinstance(net(X), ad.Certificate)
    model.layers[1].train()
    assert isinstance(net(X), ad.Estimate)
    with pytest.raises(UnsoundError):
        net.bounds(X)


@pytest.mark.parametrize("first", [3, 1])
def test_a_batch_of_one_that_is_another_function(first):
    model = Model(lambda m, z: 5 * z if z.size(0) > 1 else z)
    net = ad.certify(model, 0.0)
    for x in (X[:first], X[: 4 - first]):
        try:
            box = net.bounds(x)
        except BatchError as error:
            assert "computes for" in str(error)  # noqa: PT017
        else:
            torch.testing.assert_close(box.lower, model(x).detach())


class Attention(nn.Module):
    """Sequences of three with padding; all padding has no answer."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x, pad):
        h = x.view(x.size(0), 3, 4)
        scores = self.q(h) @ self.k(h).transpose(1, 2)
        weights = scores.masked_fill(pad[:, None, :], -math.inf).softmax(-1)
        return self.o((weights @ self.v(h)).mean(1))


@pytest.mark.parametrize("bounds", ["ibp", "ibp+dual", "dual", "ibp&dual"])
def test_an_example_without_an_output_has_no_bound(bounds):
    model, x = Attention(), torch.randn(2, 12)
    pad = torch.zeros(2, 3, dtype=torch.bool)
    net = ad.certify(model, 1e-4, bounds=bounds)
    assert bool(net(ad.Inputs(x, pad)).margins.isfinite().all())
    pad[1] = True
    inputs = ad.Inputs(x, pad)
    assert bool(model(x, pad)[1].isnan().all())
    for y in (None, torch.tensor([0, 0])):
        certificate = net(inputs, y)
        assert not bool(certificate.verified[1])
        assert bool(certificate.margins[0].isfinite().all())
    assert not bool(net.within(inputs, 1e6).verified[1])
    assert not bool(net.within(inputs, 1e6, torch.zeros(2, 4)).verified[1])
    assert bool(net.within(inputs, 1e6).verified[0])
    assert bool(net.lower_bound(inputs, torch.eye(4))[1].isneginf().all())
    box = net.bounds(inputs)
    assert bool(box.lower[1].isneginf().all() and box.upper[1].isposinf().all())
    assert bool(box.lower[0].isfinite().all() and box.upper[0].isfinite().all())
    assert net.radius(inputs, torch.tensor([0, 0]))[1] == 0
    assert not bool(net.detect(inputs)[1])


def test_bookkeeping_is_captured_once_more_at_most(counted):
    """Counters and logs that forward keeps, or someone around it, change no graph."""

    def forward(model, z):
        model.calls += 1
        model.log.append(model.calls)
        model.last = z
        return z

    model = Model(forward, calls=0, log=[], last=None)
    net = ad.certify(model, 0.0)
    for step in range(6):
        model(X)
        model.epoch = step
        assert_bounds_are_the_models(net, model)
        ad.robust_loss(net, X, Y).backward()
    assert counted.capture <= 2
    assert len(door._MEMORY[model].held) == 1


def test_what_looked_like_bookkeeping_may_matter_later():
    """A warm-up: the graph changes at some value of a counter."""
    model = Model(lambda m, z: z if m.step < 4 else 3 * z, step=0)
    net = ad.certify(model, 0.0)
    for _ in range(8):
        assert_bounds_are_the_models(net, model)
        model.step += 1


def test_training_neither_captures_nor_plans_at_each_step(counted):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.0), nn.Linear(8, 3))
    optimizer = torch.optim.Adam(model.parameters())
    for step in range(12):
        optimizer.zero_grad()
        ad.robust_loss(model, X, Y, 0.01 * step).backward()
        optimizer.step()
        model.steps = step
    assert counted.make_plan == counted.capture <= 2
    model.eval()
    ad.certify(model, 0.1)(X, Y)
    model.train()
    before = counted.capture
    for threat in (ad.LinfBall(0.2), ad.L2Ball(0.1), ad.LinfBall(0.1, (-1, 1))):
        ad.robust_loss(model, X.repeat(3, 1), Y.repeat(3), threat).backward()
    assert counted.capture == before


def test_training_compares_now_and_then_and_certificates_always(counted):
    net = ad.certify(Model(), 0.01)
    for _ in range(100):
        ad.robust_loss(net, X, Y)
    assert 2 <= counted.call_untouched <= 8
    for ask in (
        lambda: net(X),
        lambda: net.bounds(X),
        lambda: net.lower_bound(X, torch.eye(3)),
        lambda: net.within(X, 1.0),
        lambda: net.relax(X),
        lambda: net.emit(X),
    ):
        before = counted.call_untouched
        ask()
        assert counted.call_untouched > before
    assert counted.capture == 1


def test_training_hears_of_a_change_before_long(monkeypatch):
    model = Model(lambda m, z: z * NUMBER)
    net = ad.certify(model, 0.01)
    for _ in range(10):
        first = ad.robust_loss(net, X, Y)
    monkeypatch.setitem(globals(), "NUMBER", 5.0)
    for _ in range(door.NOW_AND_THEN):
        last = ad.robust_loss(net, X, Y)
    fresh = Model(model.f)
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(last, ad.robust_loss(fresh, X, Y, 0.01))
    assert not torch.allclose(first, last)


def test_nets_of_one_model_share_its_captures_and_plans(counted):
    model = Model()
    for _ in range(3):
        ad.certify(model, 0.1)(X)
        ad.certify(model, ad.L2Ball(0.2))(X[:2])
    assert (counted.capture, counted.make_plan) == (1, 1)
    ad.certify(model, 0.1, bounds="ibp")(X)
    assert (counted.capture, counted.make_plan) == (1, 2)


def test_few_captures_are_remembered(counted):
    model = Listed(nn.Tanh())
    net = ad.certify(model, 0.1)
    for width in range(1, door.MOST + 4):
        net.bounds(torch.rand(2, width))
    assert len(door._MEMORY[model].held) == door.MOST
    made = counted.capture
    net.bounds(torch.rand(5, width))
    assert counted.capture == made
    net.bounds(torch.rand(2, 1))
    assert counted.capture == made + 1


@pytest.mark.parametrize("used", [False, True])
def test_nets_can_be_pickled(used):
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    net = ad.certify(model, ad.L2Ball(0.1), bounds="dual")
    if used:
        net(X)
    twin = pickle.loads(pickle.dumps(net))
    assert twin.model is not model
    torch.testing.assert_close(twin(X, Y).margins, net(X, Y).margins)
    assert str(twin) == str(net)


def test_captures_die_with_their_model():
    model = Model()
    net = ad.certify(model, 0.1)
    ad.robust_loss(net, X, Y).backward()
    net(X)
    (held,) = door._MEMORY[model].held.values()
    watched = [weakref.ref(thing) for thing in (model, held, held.captured, net.plan, net.program)]
    remembered = len(door._MEMORY)
    del model, net, held
    gc.collect()
    assert all(ref() is None for ref in watched)
    assert len(door._MEMORY) < remembered


def test_layers_of_another_width_are_captured_anew(counted):
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    net = ad.certify(model, 0.0)
    assert_bounds_are_the_models(net, model)
    model[0] = nn.Linear(4, 7)
    model[2].weight = nn.Parameter(torch.randn(3, 7))
    assert_bounds_are_the_models(net, model)
    assert counted.capture == 2


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


def test_the_perturbed_argument_goes_by_its_name_or_its_position():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x, state, *, scale=None):
            return self.fc(x * 2 + state.tanh())

    x, state, y = torch.rand(2, 3), torch.rand(2, 3), torch.tensor([0, 1])
    model = Two()
    positions, names = ad.Inputs(x, state), ad.Inputs(x=x, state=state)
    for one, two in (("x", 0), ("state", 1)):
        found = [
            ad.certify(model, 0.1, perturb=which)(inputs, y).margins
            for which in (one, two)
            for inputs in (positions, names, ad.Inputs(x, state=state))
        ]
        assert all(torch.equal(margins, found[0]) for margins in found)
        ad.self_check(ad.certify(model, 0.1, perturb=one), positions, y, steps=2)
    assert not torch.equal(found[0], ad.certify(model, 0.1)(positions, y).margins)
    for wrong in ("scale", "z", 2):
        with pytest.raises(InputError, match="names no argument"):
            ad.certify(model, 0.1, perturb=wrong)(positions, y)


SHARED = {
    "a scale": (lambda x, a: x * a, (3,)),
    "a matrix from the left": (lambda x, a: x @ a, (3, 3)),
    "a matrix from the right": (lambda x, a: F.linear(x, a), (3, 3)),
    "keys and values": (lambda x, a: F.softmax(x @ a.T, 1) @ a, (3, 3)),
    "centers": (lambda x, a: torch.cdist(x, a), (3, 3)),
    "a mean": (lambda x, a: x + a.mean(0), (3, 3)),
    "beside one of each example": (lambda x, a, b: x @ a + b, (3, 3)),
}


@pytest.mark.parametrize("name", SHARED)
def test_a_shared_argument_may_be_as_long_as_the_batch(name, monkeypatch):
    """Whatever the batch, in parts as well: of 3 examples, 5 of them, and 3 again."""
    at_once = "autodual.bound.module.BoundModule._examples_at_once"
    function, shape = SHARED[name]
    model = Net(lambda net, x, *others: function(net.fc(x), *others), fc=nn.Linear(3, 3)).double()
    shared = torch.randn(shape, dtype=DOUBLE)
    for count in (3, 5, 3):
        x = torch.randn(count, 3, dtype=DOUBLE)
        others = (
            (shared, torch.randn(count, 3, dtype=DOUBLE))
            if name.startswith("beside")
            else (shared,)
        )
        z = torch.stack([model(x + 0.2 * torch.rand_like(x) - 0.1, *others) for _ in range(50)])
        net, inputs = ad.certify(model, 0.1), ad.Inputs(x, *others)
        box, eye = net.bounds(inputs), torch.eye(3, dtype=DOUBLE)
        assert bool(((box.lower <= z + 1e-5) & (z <= box.upper + 1e-5)).all()), count
        with monkeypatch.context() as patch:
            patch.setattr(at_once, lambda *_: 1)
            parts = net.lower_bound(inputs, eye)
        torch.testing.assert_close(parts, net.lower_bound(inputs, eye))


def test_examples_that_mix_are_refused_however_arguments_are_read():
    model = Net(lambda net, x, a: x - x.mean(0) + a)
    with pytest.raises(BatchError, match="mixed"):
        ad.certify(model, 0.1).bounds(ad.Inputs(torch.rand(3, 3), torch.rand(3, 3)))


def test_a_graph_that_overflows_where_its_model_does_not_is_said_to():
    model = Net(lambda net, x: torch.where(x > 0.5, 1 / x, x))
    with pytest.raises(CaptureError, match="∞ or NaN, and the model does not"):
        ad.certify(model, 0.01).bounds(torch.zeros(2, 5))
