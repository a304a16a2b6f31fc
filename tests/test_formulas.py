"""What libraries compute for softmax, norms and their like, by one formula or another."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import autodual as ad
from autodual import Inputs
from autodual.bound import outward
from autodual.errors import UnsupportedOpError
from autodual.front.capture import capture
from autodual.front.evaluate import entries, run_nodes
from autodual.front.passes import simplify
from autodual.front.passes.ranges import ranges_of
from autodual.front.passes.rewrite import Emit

u = 2.0**-24
f = np.float32


def total(values, order):
    """Sums over the last axis, one by one."""
    found = f(0) * values[..., 0]
    for i in order(values.shape[-1]):
        found = found + values[..., i]
    return found[..., None]


FORWARD, BACKWARD = range, lambda n: reversed(range(n))


def softmax(z, order=FORWARD):
    powers = np.exp(z - z.max(-1, keepdims=True))
    return powers / total(powers, order)


def in_stretches(z, length=3):
    """Softmax with the largest score and the sum of all that was read so far."""
    most, below = np.full_like(z[..., :1], -np.inf), f(0) * z[..., :1]
    powers = np.zeros_like(z)
    for i in range(0, z.shape[-1], length):
        part = z[..., i : i + length]
        now = np.maximum(most, part.max(-1, keepdims=True))
        powers, below = powers * np.exp(most - now), below * np.exp(most - now)
        powers[..., i : i + length] = np.exp(part - now)
        below = below + total(powers[..., i : i + length], FORWARD)
        most = now
    return powers / below


def log_sum(z, order=FORWARD):
    most = z.max(-1, keepdims=True)
    return most + np.log(total(np.exp(z - most), order))


def log_softmax(z, order=FORWARD):
    away = z - z.max(-1, keepdims=True)
    return away - np.log(total(np.exp(away), order))


def two_passes(z, order=FORWARD):
    n = f(z.shape[-1])
    away = z - total(z, order) / n
    return total(z, order) / n, total(away * away, order) / n


def welford(z):
    mean, squares = z[..., :1] * f(0), z[..., :1] * f(0)
    for i in range(z.shape[-1]):
        away = z[..., i : i + 1] - mean
        mean = mean + away / f(i + 1)
        squares = squares + away * (z[..., i : i + 1] - mean)
    return mean, squares / f(z.shape[-1])


def from_squares(z):
    """The formula that is not allowed for."""
    n = f(z.shape[-1])
    mean = total(z, FORWARD) / n
    return mean, np.maximum(total(z * z, FORWARD) / n - mean * mean, f(0))


EPS = f(1e-5)


def normed(moments):
    def formula(z):
        mean, variance = moments(z)
        return (z - mean) / np.sqrt(variance + EPS)

    return formula


def scaled(moments):
    def formula(z):
        mean, variance = moments(z)
        scale = f(1) / np.sqrt(variance + EPS)
        return z * scale - mean * scale

    return formula


def length(z):
    most = np.abs(z).max(-1, keepdims=True)
    return most * np.sqrt(total((z / most) ** 2, FORWARD))


def back(formula):
    return lambda z: formula(z, BACKWARD)


def layer_norm(z):
    return F.layer_norm(z, z.shape[1:], eps=float(EPS))


def last(function, **options):
    return lambda z: function(z, dim=-1, **options)


OPS = {
    "softmax": (last(torch.softmax), [softmax, back(softmax), in_stretches]),
    "log softmax": (
        last(torch.log_softmax),
        [log_softmax, back(log_softmax), lambda z: z - log_sum(z)],
    ),
    "log sum exp": (last(torch.logsumexp, keepdim=True), [log_sum, back(log_sum)]),
    "layer norm": (
        layer_norm,
        [form(m) for form in (normed, scaled) for m in (two_passes, back(two_passes), welford)],
    ),
    "variance": (
        last(torch.var, correction=0, keepdim=True),
        [lambda z: two_passes(z)[1], lambda z: back(two_passes)(z)[1], lambda z: welford(z)[1]],
    ),
    "norm": (
        last(torch.linalg.vector_norm, keepdim=True),
        [length, lambda z: np.sqrt(total(z * z, FORWARD))],
    ),
    "norm of order 3": (last(torch.linalg.vector_norm, ord=3, keepdim=True), []),
}


class Do(nn.Module):
    """A function of one tensor."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, z):
        return self.function(z)


def scores():
    """Rows of numbers of many sizes, far from 0 and close to it."""
    torch.manual_seed(0)
    for n, size, shift in itertools.product((2, 7, 25), (1e-2, 1.0, 30.0), (0.0, 100.0)):
        yield size * torch.randn(20, n) + shift


def share(name, formulas=None):
    """How much of what is allowed for an op is used up by what libraries compute for it."""
    function, own = OPS[name]
    worst = 0.0
    for z in scores():
        wide = Inputs(z.double())
        captured = capture(Do(function), wide, 0, None, frozenset())
        graph = simplify(captured.graph)
        assert graph.rewritten == ()
        env = entries(graph, Do(function), replace(captured, graph=graph).bind(wide))
        run_nodes(graph.nodes, env, len(z))
        ((value, how),) = graph.inexact.items()
        exact = env[value]
        allowed = how.relative * exact.abs() + how.absolute
        for c, values in how.terms:
            sizes = (env[v].abs().reshape(len(z), -1).amax(1) for v in values)
            allowed = allowed + c * math.prod(sizes)[:, None]
        found = [formula(z.numpy()) for formula in own if formulas is None]
        found += [formula(z.numpy()) for formula in formulas or ()] or [function(z).numpy()]
        for each in found:
            assert each.dtype == f
            low, high = how.range
            assert bool(((each >= low) & (each <= high)).all())
            off = (torch.from_numpy(each).double() - exact).abs()
            worst = max(worst, float((off / (u * allowed)).nan_to_num(math.inf).max()))
    return worst


@pytest.mark.parametrize("name", list(OPS))
def test_formulas_of_libraries_lie_within_what_is_allowed_for(name):
    assert 0 < share(name) <= 1


def test_formulas_that_lose_digits_do_not():
    assert share("layer norm", [normed(from_squares)]) > 1
    assert share("log softmax", [lambda z: np.log(softmax(z) + f(1e-30))]) > 1
    assert share("norm", [lambda z: np.sqrt(total(np.abs(z), FORWARD) ** 2)]) > 1


ENDS = {
    "a constant before tanh": (lambda x: torch.log(torch.tanh(x) + 1.00000001), -8.0, 4.0, -12.0),
    "one before a root": (lambda x: torch.rsqrt(torch.tanh(x) + 1.00000001), -8.0, 4.0, -12.0),
    "one after a sigmoid": (lambda x: torch.log(1.00000001 - torch.sigmoid(x)), 15.0, 4.0, 19.0),
    "a difference": (lambda x: torch.sigmoid(x) - 1.00000001, 50.0, 0.0, 50.0),
    "the end of a clamp": (lambda x: x.clamp(max=0.1) - (0.1 + 1e-9), 50.0, 0.0, 50.0),
    "a clamp in a logarithm": (
        lambda x: torch.log(0.1000000005 - x.clamp(max=0.1)),
        0.0,
        1.0,
        1.0,
    ),
    "underflow": (lambda x: torch.log(x.clamp(min=1e-20) * 1e-30 * 1e10), 1.0, 1.0, 0.0),
    "subnormals": (lambda x: torch.log(x.clamp(min=1e-20) * 1e-24 * 1e4), 1.0, 1.0, 0.0),
    "a power": (lambda x: torch.log(x.clamp(min=1e-12) ** 4 * 1e25), 1.0, 1.0, 0.0),
    "all numbers there are": (lambda x: torch.nan_to_num(x) + 1, 0.0, 1.0, 1.0),
    "twice as many": (lambda x: torch.nan_to_num(x) * 2, 0.0, 1.0, 1.0),
}
"""A function, the center and radius of an interval, and a point where an end of a range is met."""


@pytest.mark.parametrize("name", list(ENDS))
@pytest.mark.parametrize("options", [{}, {"bounds": "ibp"}, {"slopes": "equal"}], ids=str)
def test_ranges_are_those_of_computed_values(name, options):
    """Numbers in the code are rounded, too, and what is small may underflow."""
    function, center, eps, point = ENDS[name]
    net = ad.certify(Do(function), eps, rounding="deployed", **options)
    found, z = net.bounds(torch.tensor([[center]])), function(torch.tensor([[point]]))
    assert bool((z >= found.lower).all() and (z <= found.upper).all())


def test_ranges_of_computed_values_are_those_of_real_ones_and_hardly_more():
    """None is lost, and each holds the real one: of a sum, a power, a mean and a clamp."""

    def function(x):
        z = (x.clamp(-0.1, 0.3) + torch.tanh(x) * 0.7) ** 2 + 0.1
        return torch.rsqrt(z.mean(1, keepdim=True) + 0.25)

    captured = capture(Do(function), Inputs(torch.randn(3, 5)), 0, None, frozenset())
    graph = simplify(captured.graph)
    real, computed = ranges_of(graph), ranges_of(graph, 2.0**-22, torch.finfo(torch.float).tiny)
    assert real.keys() == computed.keys()
    for value, (low, high) in real.items():
        wide = computed[value]
        assert wide[0] <= low
        assert wide[1] >= high
        assert wide == pytest.approx((low, high), abs=1e-3)


SHORT = {
    "an edge": lambda x: torch.where(x > 0.1, x + 1, x - 1),
    "an edge of a mask": lambda x: (x > 0.1) * x,
    "an edge that is filled in": lambda x: torch.where(x > torch.full_like(x, 0.1), x, x - 1),
    "a share of a logit": lambda x: torch.logit(x, eps=1e-3),
    "a clamp": lambda x: torch.atanh(x.clamp(-0.999, 0.999)),
    "an exponent": lambda x: (1 + x * x) ** 4.1,
}


@pytest.mark.parametrize("name", list(SHORT))
def test_numbers_that_libraries_round_to_bfloat16_are_refused(name):
    x = torch.tensor([[0.10009765625]])
    with pytest.raises(UnsupportedOpError, match="no number that bfloat16 holds"):
        ad.certify(Do(SHORT[name]), 0.0, rounding="bfloat16").bounds(x)
    ad.certify(Do(SHORT[name]), 0.0, rounding="deployed").bounds(x)


def test_sums_of_one_number_say_nothing_of_what_comes_before():
    """The value itself is returned there: what is known of it stays, and is not counted twice."""

    class One(nn.Module):
        def forward(self, x):
            z = F.layer_norm(x.reshape(-1, 1, 8), (8,))
            return z.logsumexp(1, keepdim=True).flatten(1)

    x = torch.randn(3, 8)
    found = ad.certify(One(), 0.01, rounding="deployed").bounds(x)
    assert bool(((One()(x) >= found.lower) & (One()(x) <= found.upper)).all())


MASKS = {
    "causal": lambda z: F.scaled_dot_product_attention(z, z, z, is_causal=True),
    "a mask": lambda z: F.scaled_dot_product_attention(
        z, z, z, attn_mask=torch.tensor([[True, False], [True, True]])
    ),
    "numbers to add": lambda z: F.scaled_dot_product_attention(
        z, z, z, attn_mask=torch.tensor([[0.5, -torch.inf], [0.0, 1.0]])
    ),
    "scores that are filled": lambda z: torch.softmax(
        z.masked_fill(torch.tensor([True, False, False, False]), -torch.inf), -1
    ),
}


@pytest.mark.parametrize("name", list(MASKS))
def test_masked_attention(name):
    torch.manual_seed(3)
    model, x = Between(lambda z: MASKS[name](z.reshape(-1, 2, 4)).flatten(1)), torch.randn(4, 5)
    for eps in (0.0, 2.0**-8):
        found = ad.certify(model, eps, rounding="deployed").bounds(x)
        for _ in range(20):
            p = (x + eps * torch.randint(-1, 2, x.shape)).clamp(x - eps, x + eps)
            assert bool(((model(p) >= found.lower) & (model(p) <= found.upper)).all())


class Between(nn.Module):
    """An op between two linear layers."""

    def __init__(self, function, sizes=(5, 8, 3)):
        super().__init__()
        n, m, k = sizes
        self.one, self.other, self.function = nn.Linear(n, m), nn.Linear(m, k), function

    def forward(self, x):
        return self.other(self.function(self.one(x)))


def heads(z):
    """Attention over two places, of four numbers each."""
    z = z.reshape(-1, 2, 4)
    return F.scaled_dot_product_attention(z, z.flip(1), z).flatten(1)


INSIDE = {
    "softmax": lambda z: torch.softmax(z, -1),
    "log softmax": lambda z: torch.log_softmax(z, -1),
    "a scale of softmax": lambda z: z * torch.softmax(z, -1),
    "layer norm": lambda z: F.layer_norm(z, (8,)),
    "group norm": lambda z: F.group_norm(z, 2),
    "variance": lambda z: z * z.var(-1, keepdim=True).sqrt(),
    "log sum exp": lambda z: z - torch.logsumexp(z, -1, keepdim=True),
    "attention": heads,
    "maximum": lambda z: z - z.amax(-1, keepdim=True),
    "choice": lambda z: torch.where(z > 0.125, z * z, z - 1),
    "mask": lambda z: (z > 0) * z,
    "sign": torch.sign,
    "softsign": F.softsign,
    "hypotenuse": lambda z: torch.hypot(z, z.flip(1)),
}


@pytest.mark.parametrize("name", list(INSIDE))
def test_what_torch_computes_lies_within_bounds(name):
    """In float32 and bfloat16, at the center of balls and at corners."""
    torch.manual_seed(1)
    for kind, eps in itertools.product(("deployed", "bfloat16"), (0.0, 2.0**-8)):
        model, x = Between(INSIDE[name]), torch.randn(4, 5)
        if kind == "bfloat16":
            model, x = model.bfloat16().float(), x.bfloat16().float()
        found = ad.certify(model, eps, rounding=kind).bounds(x)
        assert bool(found.lower.isfinite().all())
        points = [x + eps * torch.randint(-1, 2, x.shape) for _ in range(20)]
        points = [p.clamp(x - eps, x + eps) for p in points]
        short = model.bfloat16() if kind == "bfloat16" else model
        for p in points:
            p = p.bfloat16() if kind == "bfloat16" else p
            z = short(p).float()
            if kind == "bfloat16":  # points that are not in the ball say nothing
                inside = ((p.float() - x).abs() <= eps).all(1)
                z, low, high = (t[inside] for t in (z, found.lower, found.upper))
            else:
                low, high = found.lower, found.upper
            assert bool(((z >= low) & (z <= high)).all())


def charged(**options):
    """By how much bounds widen where libraries are said to be off by a thousandth."""
    torch.manual_seed(2)
    model, x, C = Between(INSIDE["softmax"]), torch.randn(3, 5), torch.randn(2, 3)
    with pytest.MonkeyPatch.context() as patch:
        low = ad.certify(model, 2.0**-8, rounding="deployed", **options).lower_bound(x, C)
        nearly = Emit.nearly
        patch.setattr(
            Emit, "nearly", lambda self, value, *a, **o: nearly(self, value, 0, 2.0**-10 / u)
        )
        copied = Between(model.function)
        copied.load_state_dict(model.state_dict())
        other = ad.certify(copied, 2.0**-8, rounding="deployed", **options).lower_bound(x, C)
    effect = (C @ model.other.weight).abs().sum(1) * 2.0**-10
    return float(((low - other) / effect).detach().min())


@pytest.mark.parametrize(
    "options",
    [{"bounds": "ibp"}, {"bounds": "dual"}, {}, {"slopes": "equal"}, {"optimize": 3}],
    ids=str,
)
def test_every_way_to_bound_is_charged_for_what_libraries_are_off(options):
    assert charged(**options) > 0.9


def test_what_is_not_charged_for_is_noticed(monkeypatch):
    off = outward.inexactness
    monkeypatch.setattr(outward, "inexactness", lambda *args: 0 * off(*args))
    assert charged() < 0.1


REFUSED = {
    "product": lambda z: z + z.prod(-1, keepdim=True),
    "quotient by a length": lambda z: z / (1 + torch.linalg.vector_norm(z, dim=-1, keepdim=True)),
    "linear of several ops": lambda z: torch.where(z > 0, (z + 4096.0) - 4096.0, z),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_is_refused(name):
    model = Between(REFUSED[name])
    with pytest.raises(UnsupportedOpError, match="by one formula or another"):
        ad.certify(model, 0.1, rounding="deployed")(torch.randn(2, 5))
    ad.certify(model, 0.1, rounding="outward")(torch.randn(2, 5))
