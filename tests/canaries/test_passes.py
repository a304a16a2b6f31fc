"""The passes, broken on purpose, one by one: a graph no longer computes its model, or its bound."""

import contextlib
import copy
import math
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import autodual as ad
from autodual.bound.plan import METHODS, make_plan
from autodual.duals import REGISTRY
from autodual.errors import UnsupportedOpError
from autodual.front.capture import capture
from autodual.front.evaluate import entries, run
from autodual.front.fidelity import check_ranges
from autodual.front.passes import simplify
from autodual.front.passes.rewrite import substitute
from autodual.front.passes.stop_gradient import _detach
from autodual.inputs import Inputs
from tests.canaries.canary import Canary, checks_of, must_be_noticed
from tests.test_capture import Frozen, Residual, make, picture
from tests.test_decompositions import MODELS, Around
from tests.zoo import Net

aten = torch.ops.aten


def of(name):
    """Return a maker of the model of this name in the tests of decompositions."""
    op, shape, *inner = copy.deepcopy(MODELS[name])  # what is shared is left alone
    return lambda: (Around(op, shape, *inner), shape)


def around(op, *shape):
    return lambda: (Around(op, shape), shape)


def residual():
    return Residual(), (1, 4, 4)


class Filtered(nn.Module):
    """A filter on the spectrum."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, dtype=torch.complex128))
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        return self.last(torch.fft.irfft(torch.fft.rfft(x) * self.weight, 4))


def filtered():
    return Filtered(), (4,)


def in_training():
    return Residual().train(), (1, 4, 4)


STOCK = {
    "views": around(lambda z: z.view(-1, 2, 3).mT.reshape(-1, 6), 6),
    "constants of z's shape": around(lambda z: z + 2 * torch.ones_like(z), 4),
    "flattened layers": of("multi-head attention"),
    "batch norm": in_training,
    "the spectrum": filtered,
    "clones": around(lambda z: z.clone().neg() + z.expand(-1, 4), 4),
    "where": of("where on a comparison"),
    "where on constants": of("where on constants"),
    "where at ties": around(lambda z: torch.where(z.relu() <= 0, z.exp(), z), 4),
    "where on another value": of("where on another value"),
    "RReLU": around(lambda z: F.rrelu(z, 0.1, 0.9, training=False), 4),
    "attention, causal": of("attention, causal"),
    "layer norm": of("layer norm"),
    "norms": of("variance and norms"),
    "softmax, −∞ added": of("softmax, −∞ added"),
    "log softmax": of("log softmax"),
    "max pool": of("max pool 2d"),
    "max over a dimension": of("max over a dimension"),
    "squares": of("square"),
    "minimum": of("maximum with a constant"),
    "roots": around(lambda z: torch.sqrt(torch.tanh(z) + 2), 4),
    "roots of squares": around(lambda z: torch.sqrt(z * z), 4),
    "skips": residual,
    "root mean squares": around(lambda z: z * z.pow(2).mean(1, keepdim=True).rsqrt(), 4),
    "cosines": around(lambda z: F.cosine_similarity(z, z.exp(), dim=1)[:, None], 4),
    "entropy": around(lambda z: torch.special.entr(z.sigmoid()), 4),
}
WITHOUT_BOUND = {"entropy"}
"""Taken apart to choices between finite values and −∞."""


@cache
def stock(name):
    """Return a model, its inputs, and its graph before all passes."""
    torch.manual_seed(0)
    model, shape = STOCK[name]()
    model = model.double() if model.training and name == "batch norm" else model.double().eval()
    with torch.no_grad():
        for p in model.parameters():
            if bool((p == p.flatten()[0]).all()):  # zeros and ones hide what is dropped
                p.normal_()
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return model, x, capture(model, Inputs(x), 0, None, frozenset())


def simplified(name):
    model, x, captured = stock(name)
    graph = simplify(captured.graph)
    now = replace(captured, graph=graph)
    return model, x, now, entries(graph, model, now.bind(Inputs(x)))


def computes(name):
    """Return the check that a stock model's graph still computes it, with a dual layer for all."""

    def check():
        model, x, captured, env = simplified(name)
        state = {k: v.clone() for k, v in model.state_dict().items()}
        with torch.no_grad():
            expected, found = model(x), run(captured.graph, env)
        model.load_state_dict(state)
        torch.testing.assert_close(
            found, expected, msg=lambda m: f"{name}: graph and model differ: {m}"
        )
        if name not in WITHOUT_BOUND:
            make_plan(captured.graph, REGISTRY, METHODS["ibp&dual"])

    check.__name__ = f"the graph computes its model: {name}"
    return check


def ranges_hold(name):
    """Return the check that values lie in the ranges that are noted for them."""

    def check():
        _, _, captured, env = simplified(name)
        assert captured.graph.ranges, f"{name}: no range is noted"
        check_ranges(captured.graph, env)

    check.__name__ = f"ranges hold: {name}"
    return check


def nothing_dead_is_left():
    for name in ("where on another value", "RReLU"):
        graph = simplified(name)[2].graph
        needed = {graph.output}
        for node in reversed(graph.nodes):
            needed |= set(node.inputs) if node.out in needed else set()
        dead = [n.out.name for n in graph.nodes if n.out not in needed]
        assert not dead, f"{name}: nothing reads {', '.join(dead)}"


def no_gradient_passes_no_grad():
    model = make(Frozen)
    loss = ad.robust_loss(model, picture(), torch.tensor([0, 1, 2]), 0.1)
    assert loss.requires_grad, "no gradient reaches what follows a detach"
    loss.backward()
    assert model.features.weight.grad is None, "a gradient went through no_grad"
    assert model.head.weight.grad is not None, "no gradient reaches what follows a detach"


class Square(nn.Module):
    def forward(self, x):
        return x * x


def a_square_is_not_negative():
    """As one op it knows that its factors are the same."""
    ask, x = torch.eye(2, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    net = ad.certify(Square(), 1.0, bounds="dual")
    assert bool((net.lower_bound(x, -ask) <= -1).all()), "a square lies above its bound"
    assert bool((net.lower_bound(x, ask) > -1e-9).all()), "a square may be negative"


def a_choice_by_nan_hides_nothing():
    """√x is no number below 0, where the model gives 5."""
    net = ad.certify(Net(lambda net, x: torch.where(x.sqrt().isnan(), 5.0, x)), 1.0)
    with contextlib.suppress(UnsupportedOpError):
        upper = net.bounds(torch.full((1, 2), 0.5, dtype=torch.float64)).upper
        assert bool((upper >= 5).all()), "the model's output lies above its bound"


def is_nan(emit, condition, q):
    """Forget that q must read what may be NaN."""
    made = emit.producer(condition)
    return made is not None and made.op == "aten.isnan.default"


def with_last(**args):
    """Change arguments of the last node that a decomposition writes."""

    def change(f):
        def broken(emit, *given, **more):
            found = f(emit, *given, **more)
            if found is not None and emit.nodes:
                last = emit.nodes[-1]
                new = {k: v(last) if callable(v) else v for k, v in args.items()}
                emit.nodes[-1] = replace(last, args={**last.args, **new})
            return found

        return broken

    return change


def with_entry(op, change):
    """Change what a table says for an op."""
    return lambda table: {**table, f"aten.{op}": change(table[f"aten.{op}"])}


def without(name):
    """Leave a pass out."""
    return lambda passes: tuple(p for p in passes if p.__name__ != name)


def instead(name, change):
    """Put another pass in the place of one."""
    return lambda passes: tuple(change(p) if p.__name__ == name else p for p in passes)


def one_short(f):
    """Forget the last entry along a dimension."""

    def broken(emit, op, x, dim):
        short = emit(aten.slice.Tensor, x, dim, 0, x.shape[dim] - 1)
        return f(emit, op, short, dim)

    return broken


def replace_literals(emit):
    """A writer of nodes whose literals nobody reads."""
    twin = copy.copy(emit)
    twin.literals = {}
    return twin


def all_detached(graph):
    """Detach every parameter, whatever reads it."""
    detached = [_detach(v) for v in graph.constants]
    new = {node.args["self"]: node.out for node in detached}
    return replace(graph, nodes=(*detached, *(substitute(n, new) for n in graph.nodes)))


DIFFER = "{}: graph and model differ"
PASSES = "autodual.front.passes"


def computed(name, path, change, says=None):
    return Canary(f"{PASSES}.{path}", change, CHECKED[name], says or DIFFER.format(name))


CHECKED = {name: computes(name) for name in STOCK}
NOTED = "layer norm", "norms", "roots", "roots of squares", "root mean squares", "cosines"
RANGES = {name: ranges_hold(name) for name in NOTED}

CANARIES = {
    "dead code: kept": Canary(
        f"{PASSES}.PIPELINE",
        without("remove_dead_code"),
        nothing_dead_is_left,
        "nothing reads",
    ),
    "dead code: the first node taken for dead": computed(
        "skips",
        "PIPELINE",
        instead(
            "remove_dead_code",
            lambda f: lambda graph: replace(f(graph), nodes=f(graph).nodes[1:]),
        ),
        "before definition",
    ),
    "views: dimensions exchanged": computed(
        "views",
        "reshapes._reshape",
        lambda f: (
            lambda n: replace(
                f(n), args={**f(n).args, "shape": [n.args["size"][0], *n.args["size"][:0:-1]]}
            )
        ),
        r"gives torch.float64 \(",
    ),
    "constants: another number": computed(
        "constants of z's shape", "constants._full", with_last(fill_value=0.5)
    ),
    "constants: left where z is asked for": computed(
        "constants of z's shape", "PIPELINE", without("fill_by_shape"), "no dual layer"
    ),
    "flattened layers: bias dropped": computed(
        "flattened layers", "flattened._unflattened", with_last(bias=None)
    ),
    "batch statistics: another correction": computed(
        "batch norm",
        "batch_norm._statistics",
        lambda f: (
            lambda x, node: tuple(replace(n, args={**n.args, "correction": 1}) for n in f(x, node))
        ),
    ),
    "batch statistics: mean and variance exchanged": computed(
        "batch norm", "batch_norm._statistics", lambda f: lambda x, node: f(x, node)[::-1]
    ),
    "no_grad dropped": Canary(
        f"{PASSES}.PIPELINE",
        without("stop_gradients"),
        no_gradient_passes_no_grad,
        "a gradient went through no_grad",
    ),
    "no_grad: everything detached": Canary(
        f"{PASSES}.PIPELINE",
        lambda passes: (all_detached, *passes),
        no_gradient_passes_no_grad,
        "no gradient reaches",
    ),
    "spectra: sines of the wrong sign": computed(
        "the spectrum",
        "fourier._waves",
        lambda f: lambda n, like: (f(n, like)[0], -f(n, like)[1]),
    ),
    "spectra: i² = 1": computed(
        "the spectrum",
        "fourier._product",
        lambda f: (
            lambda emit, a, b: (
                emit(
                    aten.add.Tensor,
                    emit(aten.mul.Tensor, a[0], b[0]),
                    emit(aten.mul.Tensor, a[1], b[1]),
                ),
                f(emit, a, b)[1],
            )
        ),
    ),
    "identities: one too many": computed(
        "clones", "identities.IF_TYPE_IS_KEPT", lambda ops: ops | {"aten.neg.default"}
    ),
    "choices: ≤ taken for <": computed(
        "where at ties", "conditions.OPPOSITE", lambda table: {**table, "le": "ge"}
    ),
    "choices: c ≥ z taken for z ≥ c": computed(
        "where on constants", "conditions.MIRRORED", lambda table: {**table, "ge": "ge"}
    ),
    "choices: one piece moved": computed(
        "where",
        "conditions.split",
        lambda f: lambda input, edge, *given: f(input, edge + 0.5, *given),
    ),
    "choices: the opposite forgotten": computed(
        "where on another value", "conditions._complement", lambda f: lambda emit, one: one
    ),
    "choices: ∞ times 0": computed(
        "entropy", "conditions._infinite", lambda f: lambda emit, value: False
    ),
    "RReLU: the least of its slopes": computed(
        "RReLU",
        "pointwise.TABLE",
        with_entry("rrelu_with_noise_functional.default", with_last(negative_slope=0.1)),
    ),
    "attention: mask dropped": computed(
        "attention, causal",
        "attention.softmax",
        lambda f: lambda emit, z, dim, mask: f(emit, z, dim, None),
    ),
    "normalisation: another ε": computed(
        "layer norm",
        "normalization.standardize",
        lambda f: lambda emit, x, dims, eps: f(emit, x, dims, 0.1),
    ),
    "normalisation: cut too short": computed(
        "layer norm",
        "normalization.standardize",
        with_last(min=-0.5, max=0.5),
    ),
    "normalisation: a wrong range noted": Canary(
        f"{PASSES}.rewrite.Emit.within",
        lambda f: lambda self, low, high: f(self, 0.1 * low, 0.1 * high),
        RANGES["norms"],
        r"leaves \[-0.1, 0.1\]",
    ),
    "quotients: a divisor taken for longer": Canary(
        f"{PASSES}.quotients.Shares.share",
        lambda f: lambda self, *given: 5 * f(self, *given),
        RANGES["norms"],
        "div leaves",
    ),
    "quotients: the mean of squares taken for their sum": Canary(
        f"{PASSES}.quotients._count",
        lambda f: lambda value, dims: 1,
        RANGES["root mean squares"],
        r"leaves \[-1.0, 1.0\]",
    ),
    "quotients: cosines of vectors that are too long": Canary(
        f"{PASSES}.quotients.Shares.length",
        lambda f: lambda self, value, dims: 0.1,
        RANGES["cosines"],
        "leaves",
    ),
    "softmax: masked scores count": computed(
        "softmax, −∞ added", "softmax.NEVER", lambda never: 0.0
    ),
    "softmax: a score is its own rival": computed(
        "log softmax",
        "softmax.log_softmax",
        lambda f: lambda emit, z, dim: f(emit, emit(aten.mul.Scalar, z, 2.0), dim),
    ),
    "max pools: the first of each window": computed(
        "max pool", "max_pool.combined", lambda f: lambda emit, combine, values: values[0]
    ),
    "reductions: the last entry forgotten": computed(
        "max over a dimension", "reductions.fold", one_short
    ),
    "pairs: cubes": computed(
        "squares", "products.TABLE", with_entry("mul.Tensor", with_last(exponent=3))
    ),
    "pairs: a square as a product": Canary(
        f"{PASSES}.products.TABLE",
        with_entry("mul.Tensor", lambda f: lambda emit, node: None),
        a_square_is_not_negative,
        "a square may be negative",
    ),
    "pairs: a minimum taken for a maximum": computed(
        "minimum",
        "products.TABLE",
        lambda table: {**table, "aten.minimum.default": table["aten.maximum.default"]},
    ),
    "choices: what may be NaN is dropped": Canary(
        f"{PASSES}.conditions._never_nan",
        lambda f: is_nan,
        a_choice_by_nan_hides_nothing,
        "above its bound",
    ),
    "ranges: a function of any sign taken for positive": Canary(
        f"{PASSES}.ranges.IMAGES",
        lambda images: {**images, "tanh": (0.0, math.inf)},
        RANGES["roots"],
        r"leaves \[2.0, inf\]",
    ),
    "ranges: squares above 1": Canary(
        f"{PASSES}.ranges._power",
        lambda f: lambda z, exponent: (1 + f(z, exponent)[0], f(z, exponent)[1]),
        RANGES["roots of squares"],
        r"leaves \[1.0, inf\]",
    ),
    "ranges: none noted": Canary(
        f"{PASSES}.PIPELINE",
        without("note_ranges"),
        RANGES["roots of squares"],
        "no range is noted",
    ),
    "rewriting: literals lost": computed(
        "log softmax",
        "rewrite.Emit.literal",
        lambda f: lambda self, tensor: f(replace_literals(self), tensor),
        "before definition",
    ),
}
CHECKS = checks_of(CANARIES)


@pytest.mark.parametrize("name", CHECKS)
def test_checks_pass_on_the_unbroken_passes(name):
    CHECKS[name]()


@pytest.mark.parametrize("name", CANARIES)
def test_broken_passes_are_noticed(name, monkeypatch):
    must_be_noticed(CANARIES[name], monkeypatch)
