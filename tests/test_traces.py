"""Capture by two runs: what it takes, what it finds out, and that it leaves nothing behind."""

import functools
import math
import random
from types import SimpleNamespace

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import autodual as ad
from autodual import errors
from autodual.front.capture import call_untouched

X = torch.linspace(-1, 1, 12).view(3, 4)


class Model(nn.Module):
    """A linear layer, what ``f`` makes of the model and x, and attributes."""

    def __init__(self, f, **attributes):
        super().__init__()
        self.fc, self.f = nn.Linear(4, 3), f
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.f(self, x)


def written(f):
    """Return a forward that changes the linear layer's output in place."""

    def forward(model, x):
        z = model.fc(x)
        f(z)
        return z

    return forward


def assigned(index, value):
    return written(lambda z: z.__setitem__(index, value))


class Sharp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        with torch.no_grad():
            return z.tanh() * 2

    @staticmethod
    def backward(ctx, g):
        return g


CLIPPED = written(lambda z: z[:, :2].clamp_(min=0.1))
MASK = torch.tensor([True, False, True])

TAKEN = {
    "len": lambda m, x: m.fc(x.reshape(len(x), 4)),
    "mask": assigned((slice(None), MASK), 0.5),
    "masked_fill_": written(lambda z: z.masked_fill_(MASK, 0.25)),
    "view of a view": written(lambda z: z.view(-1, 3)[:, 1:].mul_(3).t()[0].add_(1)),
    "clamped slice": CLIPPED,
    "shape in place": lambda m, x: m.fc(x).unsqueeze_(1).transpose_(0, 1).squeeze_(0),
    "a number in the code": lambda m, x: m.fc(x) * torch.tensor(2.0).item(),
    "parameters as data": lambda m, x: F.linear(x, m.fc.weight.data) + m.fc(x),
    "inference mode": lambda m, x: torch.inference_mode()(lambda: m.fc(x) * 2)(),
    "vmap": lambda m, x: torch.vmap(lambda row: m.fc(row) * row[:3])(x),
    "arange": lambda m, x: m.fc(x + torch.arange(x.size(1), dtype=x.dtype)),
    "batch-sized ones": lambda m, x: m.fc(x) * torch.ones(len(x), 1),
    "numpy": lambda m, x: m.fc(x) * torch.as_tensor(numpy.float32([1, 2, 3])),
    "custom Function": lambda m, x: Sharp.apply(m.fc(x)).exp(),
    "checkpoint": lambda m, x: torch.utils.checkpoint.checkpoint(m.fc, x, use_reentrant=False),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_taken(name):
    model = Model(TAKEN[name])
    net = ad.certify(model, 0.0)
    for x in (X, X[:1], torch.cat([X, X, 2 * X])):
        with torch.no_grad():
            torch.testing.assert_close(net.bounds(x).lower, model(x))


def exact(f, box, low, high, tolerance=1e-3):
    bounds = ad.certify(Model(lambda m, x: f(x)), box).bounds(box.lower)
    low, high = torch.as_tensor(low), torch.as_tensor(high)
    assert bool((bounds.lower <= low + 1e-5).all() and (bounds.upper >= high - 1e-5).all())
    assert bool((bounds.lower >= low - tolerance).all())
    assert bool((bounds.upper <= high + tolerance).all())


def test_bounds_of_what_export_refused():
    unit = ad.Box(-torch.ones(1, 2), torch.ones(1, 2))
    exact(lambda x: x.reshape(len(x), 2) * 2, unit, -2.0, 2.0)
    box = ad.Box(torch.tensor([[0.5, 0.2]]), torch.tensor([[0.9, 0.4]]))
    least, most = math.sqrt(0.29), math.sqrt(0.97)
    exact(lambda x: torch.cdist(x, torch.zeros(1, 2)), box, least, most, 0.02)


def test_mended_distances_are_torchs():
    centers = torch.randn(2, 4)
    for p in (1.0, 2.0):
        model = Model(lambda m, x, p=p: torch.cdist(x.unsqueeze(0), centers, p=p).squeeze(0))
        torch.testing.assert_close(ad.certify(model, 0.0).bounds(X).lower, model(X))


def counted(m, x):
    m.count += 1
    return m.fc(x) * m.count


def late(m, x):
    if m.layer is None:
        m.layer = nn.Linear(x.shape[1], 2)
    return m.layer(x)


def refused(m, x):
    return m.fc(x) * 2 if x.size(0) > 5 else m.fc(x)


REFUSED = {
    "Python's random": (
        lambda m, x: m.fc(x) + (10 if random.random() < 0.5 else 0),
        errors.CaptureError,
        "draws from Python's random",
    ),
    "numpy.random": (
        lambda m, x: m.fc(x) * float(numpy.random.rand()),
        errors.CaptureError,
        "draws from numpy.random",
    ),
    "a count": (counted, errors.CaptureError, "answers differently to the same input"),
    "a generator": (
        lambda m, x: m.fc(x) + torch.rand(3, generator=m.generator),
        errors.CaptureError,
        "answers differently to the same input",
    ),
    "a late layer": (late, errors.CaptureError, "makes layer.weight on its first call.*once"),
    "many examples": (refused, errors.BatchError, "for 6 examples is not what it computes for 2"),
    "a parameter out of torch": (
        lambda m, x: m.fc(x) * m.fc.weight.detach().numpy().max(),
        errors.ControlFlowError,
        r"test_traces.py:\d+",
    ),
    "a parameter's number": (
        lambda m, x: m.fc(x) * m.fc.bias[0].item(),
        errors.ControlFlowError,
        r"test_traces.py:\d+",
    ),
    "root of the batch size": (
        lambda m, x: m.fc(x) / len(x) ** 0.5,
        errors.BatchError,
        r"fixes the batch size, at .*test_traces.py:\d+.*1\.41.* and then 1\.73",
    ),
    "one more than the batch": (
        lambda m, x: m.fc(torch.cat([x, x[:1]]))[:-1],
        errors.BatchError,
        "a size is 3 for two examples and 4 for three",
    ),
    "a loop over examples": (
        lambda m, x: torch.stack([m.fc(row) for row in x]),
        errors.BatchError,
        r"fixes the batch size, at .*test_traces.py:\d+",
    ),
    "a table for each batch size": (
        lambda m, x: m.fc(x * m.tables[len(x)]),
        errors.BatchError,
        "constant tensor is made by hand",
    ),
    "gradients": (
        lambda m, x: torch.autograd.grad(
            m.fc(y := x.detach().requires_grad_()).sum() + 0 * x.sum(), y
        )[0],
        errors.AutodualError,
        r"test_traces.py:\d+",
    ),
    "assigned data": (
        lambda m, x: setattr(m.fc.weight, "data", m.fc.weight.data * 1) or m.fc(x),
        errors.CaptureError,
        r"assigns to \.data at .*test_traces.py:\d+",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    forward, kind, message = REFUSED[name]
    made = {"count": 0, "layer": None, "generator": torch.Generator()}
    made["tables"] = {n: torch.ones(n, 1) for n in (2, 3, 6)}
    model = Model(forward, **made).eval()
    with pytest.raises(kind, match=message) as caught:
        ad.certify(model, 0.1).bounds(torch.cat([X, X]))
    assert "call .eval()" not in str(caught.value)
    assert model.layer is None
    assert model.count == 0


def test_lazy_layers_are_refused_untouched():
    model = nn.Sequential(nn.LazyLinear(3)).eval()
    with pytest.raises(errors.CaptureError, match=r"0\.weight has no shape yet.*once"):
        ad.certify(model, 0.1).bounds(X)
    assert type(model[0]) is nn.LazyLinear
    model(X)
    assert ad.certify(model, 0.1).bounds(X)


@pytest.mark.parametrize("seed", range(4))
def test_random_paths_are_found_whatever_is_drawn(seed):
    model = Model(lambda m, x: m.fc(x) * 2 if random.random() < 0.5 else m.fc(x))
    random.seed(seed)
    before = random.getstate()
    with pytest.raises(errors.CaptureError, match="Python's random"):
        ad.certify(model, 0.1).bounds(X)
    assert random.getstate() == before


@functools.lru_cache
def table(n):
    return torch.arange(n, dtype=torch.float32)


LAST = {}


class Keeper(nn.Module):
    """Keeps things everywhere."""

    def __init__(self):
        super().__init__()
        self.fc, self.norm = nn.Linear(4, 3), nn.BatchNorm1d(3)
        self.register_buffer("mask", None)
        self.register_buffer("seen", torch.zeros(3))
        self.plain = torch.zeros(3)
        self.cache, self.nested = {}, {"deep": [[], set()]}
        self.layers, self.config = [nn.Linear(3, 3), nn.BatchNorm1d(3)], SimpleNamespace(last=None)

    def forward(self, x):
        if self.mask is None:
            self.mask = torch.linspace(0, 1, x.shape[1])
        z = self.layers[1](self.layers[0](self.norm(self.fc(x * self.mask + table(x.shape[1])))))
        with torch.no_grad():
            self.seen += z.mean(0)
            self.plain.add_(1)
        self.cache[x.shape] = self.config.last = LAST["z"] = z
        self.nested["deep"][0].append(z)
        self.nested["deep"][1].add(len(x))
        self.training_steps = 1
        return z


def tensors(value):
    """Return all tensors in an object's reach, as they are now."""
    if isinstance(value, nn.Module):
        return [t for v in vars(value).values() for t in tensors(v)]
    if isinstance(value, dict):
        return [t for v in value.values() for t in tensors(v)]
    if isinstance(value, list | tuple | set):
        return [t for v in value for t in tensors(v)]
    return [value.clone()] if isinstance(value, torch.Tensor) else []


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_a_capture_leaves_everything_as_it_was(fails, training):
    table.cache_clear()
    model = Keeper().train(training)
    model.layers[1].train(training)
    if fails:
        model.fc.register_forward_hook(lambda module, args, z: z * float(z.sum()))
    before = tensors(model)
    states = random.getstate(), torch.get_rng_state(), numpy.random.get_state()[1].copy()
    try:
        ad.certify(model, 0.01).bounds(X)
        assert not fails
    except errors.AutodualError:
        assert fails or training
    assert model.mask is None
    assert model.cache == {}
    assert model.nested == {"deep": [[], set()]}
    assert model.config.last is None
    assert not hasattr(model, "training_steps")
    assert all(map(torch.equal, before, tensors(model)))
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    assert (numpy.random.get_state()[1] == states[2]).all()
    assert torch.is_grad_enabled()
    assert type(LAST["z"]) is type(table(4)) is torch.Tensor
    assert type(model(X)) is torch.Tensor


def test_a_call_leaves_everything_as_it_was():
    model = Keeper().train()
    before = tensors(model)
    found = call_untouched(model, ad.Inputs(X))
    assert all(map(torch.equal, before, tensors(model)))
    assert model.cache == {}
    torch.testing.assert_close(found, model(X))


def test_layers_in_plain_lists_are_live_and_named():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)]

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    model = Plain()
    net = ad.certify(model, 0.0)
    ad.robust_loss(net, X, torch.tensor([0, 1, 2])).backward()
    weight = model.layers[0].weight
    assert bool((weight.grad != 0).any())
    with torch.no_grad():
        weight.mul_(2)
    torch.testing.assert_close(net.bounds(X).lower, model(X))
    assert [node.source.module for node in net.graph.body] == ["layers.0", "layers.1", "layers.2"]


def test_gradients_pass_a_function_and_stop_at_no_grad():
    for f, reached in (
        (lambda m, x: Sharp.apply(m.fc(x)), True),
        (lambda m, x: torch.no_grad()(lambda: m.fc(x).tanh())() * m.scale, False),
        (lambda m, x: F.linear(x, m.fc.weight.data) * m.scale, False),
    ):
        model = Model(f, scale=nn.Parameter(torch.ones(())))
        ad.robust_loss(model, X, torch.tensor([0, 1, 2]), eps=0.01).backward()
        grad = model.fc.weight.grad
        assert (grad is not None and bool((grad != 0).any())) == reached


def test_a_table_made_by_a_cached_function_is_a_constant():
    table.cache_clear()
    model = Model(lambda m, x: m.fc(x + table(x.shape[1])))
    torch.testing.assert_close(ad.certify(model, 0.0).bounds(X).lower, model(X))


def test_values_written_in_place_keep_their_lines():
    net = ad.certify(Model(CLIPPED), 0.1)
    net.bounds(X)
    line = CLIPPED.__code__.co_firstlineno
    assert all("test_traces.py" in str(node.source) for node in net.graph.body)
    assert line + 1 in {node.source.line for node in net.graph.body}


class Catching(nn.Module):
    """Takes another way where it cannot look at a value."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        try:
            large = bool((x > 2).any())
        except Exception:
            large = False
        return self.fc(x) * (-1.0 if large else 1.0)


def test_a_refusal_that_the_model_catches_is_one_all_the_same():
    with pytest.raises(errors.ControlFlowError, match=r"test_traces.py:\d+"):
        ad.certify(Catching(), 0.1)(torch.full((1, 4), 1.95))


class Alternating(nn.Module):
    """Answers every other call with the other sign."""

    def __init__(self):
        super().__init__()
        self.fc, self.calls = nn.Linear(4, 3), 0

    def forward(self, x):
        self.calls += 1
        return self.fc(x) * (1.0 if self.calls % 2 else -1.0)


def test_a_model_that_alternates_is_found_out():
    with pytest.raises(errors.CaptureError, match="answers differently"):
        ad.certify(Alternating(), 0.1)(torch.rand(2, 4))
