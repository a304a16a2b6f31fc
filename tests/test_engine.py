"""The same bound by every way of computing it: forms of rows, orders, chunks, dtypes."""

import gc
import itertools
import random
import shutil
import traceback
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._dynamo import OptimizedModule
from torch.utils._python_dispatch import TorchDispatchMode

import autodual as ad
from autodual.bound.memory import default_memory, parse_memory
from autodual.bound.rows import Patches

seeds = st.integers(0, 2**32 - 1)
PACKAGE = Path(ad.__file__).parent


class Layer(nn.Module):
    """One random op on pictures, its kind chosen by name."""

    def __init__(self, pick: random.Random, channels: int, kind: str | None = None) -> None:
        super().__init__()
        self.kind = kind or pick.choice(
            ["conv", "conv", "conv", "pool", "norm", "residual", "cat", "scale", "sub", "leaky"]
        )
        kernel, dilation = pick.choice([(1, 1), (2, 1), (3, 1), (3, 2), ((2, 3), 1)])
        self.conv = nn.Conv2d(
            channels,
            channels,
            kernel,
            stride=pick.choice([1, 1, 2, (2, 1)]),
            padding=pick.choice([1, 2]) if dilation == 1 else 2,
            dilation=dilation,
            groups=pick.choice([1, 1, 2]),
        )
        self.same = nn.Conv2d(channels, channels, 3, padding=1)
        self.point = nn.Conv2d(channels, channels, 1)
        self.join = nn.Conv2d(2 * channels, channels, 1)
        self.norm = nn.BatchNorm2d(channels)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)
        self.pool = nn.AvgPool2d(2, stride=1, padding=1, count_include_pad=pick.random() < 0.5)

    def forward(self, z):
        match self.kind:
            case "conv":
                return torch.relu(self.conv(z))
            case "pool":
                return self.pool(z)
            case "norm":
                return torch.relu(self.norm(z))
            case "residual":
                return torch.relu(self.point(z) + self.same(torch.relu(self.same(z))))
            case "cat":
                return self.join(torch.cat([torch.relu(z), self.point(z)], dim=1))
            case "scale":
                return 0.5 * z / 2 - 1
            case "sub":
                return z - self.same(self.same(z))
            case "max":
                return nn.functional.max_pool2d(z, 3, stride=2, padding=1)
            case "gate":
                return z * torch.sigmoid(self.point(z).mean((2, 3), keepdim=True))
            case "leaky":
                return nn.functional.leaky_relu(z, 0.1)
        raise AssertionError(self.kind)


def picture_net(seed, *kinds):
    """Return a float64 net on pictures [2, 7, 6], its input and labels."""
    pick = random.Random(seed)
    torch.manual_seed(seed)
    layers = [nn.Conv2d(2, 4, 3, padding=1), nn.ReLU()]
    kinds = kinds or [None] * pick.randint(1, 4)
    layers += [Layer(pick, 4, kind) for kind in kinds]
    middle = nn.Sequential(*layers).eval()
    x = torch.rand(3, 2, 7, 6)
    width = middle(x).flatten(1).shape[1]
    net = nn.Sequential(middle, nn.Flatten(), nn.Linear(width, 5), nn.ReLU(), nn.Linear(5, 3))
    return net.double().eval(), x.double(), torch.tensor([0, 1, 2])


def ball(seed):
    """Return one of the sets, with one ε for each example."""
    eps = torch.tensor([0.02, 0.1, 0.5], dtype=torch.float64)
    kinds = [
        ad.LinfBall(0.2),
        ad.LinfBall(eps),
        ad.LinfBall(eps, (0, 1)),
        ad.L2Ball(eps),
        ad.L1Ball(0.3, (0, 1)),
    ]
    return kinds[seed % len(kinds)]


def result(model, x, y, threat, **options):
    """Return the margins and the gradients of the robust loss."""
    net = ad.certify(model, threat, **options)
    margins = net(x, y).margins
    model.zero_grad()
    ad.robust_loss(net, x, y).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [margins, *gradients]


def assert_same(a, b, **close):
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, **(close or {"rtol": 1e-8, "atol": 1e-9}))


@pytest.mark.long
@pytest.mark.parametrize("bounds", ["dual", "ibp&dual"])
@given(seed=seeds)
@settings(max_examples=12)
def test_patches_equal_dense_rows(bounds, seed):
    case = *picture_net(seed), ball(seed)
    patches = result(*case, bounds=bounds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Patches, "serve", staticmethod(lambda value: False))
        dense = result(*case, bounds=bounds)
    assert_same(patches, dense)


def test_the_nets_above_do_use_patches():
    forms = set()
    for seed in range(8):
        model, x, y = picture_net(seed)
        net = ad.certify(model, 0.05, bounds="dual")
        net(x, y)
        forms |= {row[6] for row in net.explain(x).rows}
    assert forms >= {"dense", "dense, patches"}


@given(seed=seeds)
@settings(max_examples=8)
def test_chunks_and_recomputation_change_nothing(seed):
    case = *picture_net(seed), ball(seed)
    whole = result(*case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autodual.bound.estimators.exact.CACHE_BYTES", 5000)
        patch.setattr("autodual.bound.estimators.exact.KEPT", 2**40)
        patch.setattr("autodual.bound.estimators.exact.MEMO", 2**40)
        chunked = result(*case)
    assert_same(whole, chunked)


@pytest.mark.parametrize("bounds", ["dual", "ibp&dual"])
@given(seed=seeds)
@settings(max_examples=4)
def test_forward_order_equals_backward_order(bounds, seed):
    model, x, y = picture_net(seed)
    threat = ball(seed % 3)
    net = ad.certify(model, threat, bounds=bounds)
    net(x, y)
    names = [value.name for value in net.plan.bounded if value != net.graph.perturbed]
    everywhere = dict.fromkeys([*names, net.graph.output.name], "forward")
    options = {"bounds": bounds, "slopes": "equal"}
    forward = result(model, x, y, threat, **options, choose=everywhere)
    backward = result(model, x, y, threat, **options, choose=dict.fromkeys(names, "backward"))
    assert_same(forward, backward)
    mixed = result(model, x, y, threat, **options, choose={names[-1]: "forward"})
    assert_same(forward, mixed)


def deep_mlp():
    torch.manual_seed(0)
    sizes = [20, *[200] * 7, 3]
    layers = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1]).double()


@given(seed=seeds)
@settings(max_examples=3)
def test_a_batch_in_parts_is_the_same_as_whole(seed):
    """Also when each part is computed anew for its gradient, in the order that was planned."""
    model, x, y = picture_net(seed)
    x, y = x.repeat(4, 1, 1, 1), y.repeat(4)
    whole = result(model, x, y, 0.05)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autodual.bound.module.BoundModule._examples_at_once", lambda *args: 3)
        assert_same(result(model, x, y, 0.05), whole)


def test_memory_decides_how_many_examples_go_together():
    model, x = nn.Sequential(nn.Linear(4, 1000), nn.ReLU(), nn.Linear(1000, 2)), torch.rand(3, 4)
    for memory, most in (("16MiB", 70), ("64MiB", 280)):
        net = ad.certify(model, 0.1, memory=memory)
        assert most / 2 < net.admitted(x).program._examples_at_once(x) <= 2 * most


def test_the_planner_takes_forward_order_where_it_is_cheaper(monkeypatch):
    """Twenty inputs and few open neurons against 200 rows through ever more layers."""
    model, y = deep_mlp(), torch.tensor([0, 1])
    x = torch.rand(2, 20, dtype=torch.float64)
    net = ad.certify(model, 0.001, bounds="dual", slopes="equal")
    first, later = net(x, y).margins, net(x, y).margins
    shown = str(net.explain(x))
    assert shown.count("forward") == 7
    assert shown.count("columns") >= 7
    torch.testing.assert_close(first, later, rtol=1e-9, atol=1e-10)
    monkeypatch.setattr("autodual.bound.cost.SHARE", 10**9)  # columns do not fit
    tight = ad.certify(deep_mlp(), 0.001, bounds="dual", slopes="equal")
    tight(x, y)
    assert "forward" not in str(tight.explain(x))


def test_explain_counts_the_rows_of_all_parts(monkeypatch):
    model, x, _ = picture_net(2)
    net = ad.certify(model, 0.1)
    whole = net.explain(x).rows
    monkeypatch.setattr("autodual.bound.module.BoundModule._examples_at_once", lambda *args: 2)
    assert [row[7] for row in net.explain(x).rows] == [row[7] for row in whole]


def test_ibp_at_a_chosen_node_loosens_the_bound():
    model, x, y = picture_net(5)
    net = ad.certify(model, 0.05)
    free = net(x, y).margins
    chosen = ad.certify(model, 0.05, choose={"2": "ibp"})  # the last Linear but one
    assert bool((chosen(x, y).margins <= free + 1e-12).all())
    shown = {row[0]: row for row in chosen.explain(x).rows}
    assert any(row[5] == "ibp" for row in shown.values())


@given(seed=seeds)
@settings(max_examples=5)
def test_single_precision_agrees(seed):
    model, x, y = picture_net(seed)
    double = ad.certify(model, 0.05)(x, y).margins
    single = ad.certify(model.float(), 0.05)(x.float(), y).margins
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-4)


def test_gradients_reach_the_input_and_the_radius_when_rows_are_recomputed(monkeypatch):
    model, x, _ = picture_net(3)
    x.requires_grad_()
    found = []
    for kept in (1, 2**40):
        monkeypatch.setattr("autodual.bound.estimators.exact.KEPT", kept)
        for threat in (ad.LinfBall, ad.L2Ball):
            eps = torch.full((3,), 0.05, dtype=torch.float64, requires_grad=True)
            spec = torch.randn(3, 2, 3, dtype=torch.float64, generator=torch.manual_seed(0))
            spec.requires_grad_()
            net = ad.certify(model, threat(eps))
            total = net.lower_bound(x, spec).sum()
            found.append(torch.autograd.grad(total, (x, eps, spec)))
    for i in (0, 1):
        assert_same(found[i], found[i + 2])
        assert all(bool((g != 0).any()) for g in found[i])


@pytest.mark.parametrize("bounds", ["dual", "ibp&dual", "ibp+dual", "ibp"])
def test_rows_for_every_entry_give_the_same_bound(bounds):
    """Without selection entries that are exact already may get tighter intervals, never looser."""
    for seed in (1, 3, 5):
        model, x, y = picture_net(seed)
        selected = result(model, x, y, ad.LinfBall(0.05), bounds=bounds)
        everything = result(model, x, y, ad.LinfBall(0.05), bounds=bounds, select=False)
        if bounds == "ibp&dual":
            assert bool((everything[0] >= selected[0] - 1e-12).all())
        else:
            assert_same(selected, everything)


def test_windows_beyond_the_image(monkeypatch):
    """A stride that skips most of a picture: its windows start beyond some of the pictures."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 3, (1, 3), padding=1),
        nn.Conv2d(3, 2, 1, stride=(2, 1)),
        nn.MaxPool2d(3, (3, 2), padding=1),
        nn.MaxPool2d(1, (1, 4), ceil_mode=True),
        nn.Hardshrink(0.2),
        nn.Conv2d(2, 2, 1),
    ).double()
    x = torch.rand(2, 3, 3, 6, dtype=torch.float64)
    found = ad.certify(model, ad.L2Ball(0.1), bounds="dual").bounds(x)
    monkeypatch.setattr(Patches, "serve", staticmethod(lambda value: False))
    dense = ad.certify(model, ad.L2Ball(0.1), bounds="dual").bounds(x)
    assert_same((found.lower, found.upper), (dense.lower, dense.upper))


def alive():
    gc.collect()
    return sum(type(thing) is torch.Tensor for thing in gc.get_objects())


STEPS = [
    (ad.LinfBall(0.05), {"bounds": "ibp"}),
    (ad.LinfBall(0.05), {"bounds": "ibp&dual"}),
    (ad.LinfBall(0.05), {"bounds": "dual", "memory": "17MB"}),
    (ad.LinfBall(0.05), {"bounds": "dual", "slopes": "free"}),
    (ad.LinfBall(0.05), {"bounds": "ibp+dual", "select": False}),
    (ad.LinfBall(0.05), {"estimator": ad.Cauchy(5)}),
    (ad.LinfBall(0.05), {"estimator": ad.Geometric(5, 2, 0.1)}),
    (ad.L2Ball(0.2), {"bounds": "ibp&dual"}),
    (ad.L2Ball(0.2), {"estimator": ad.Normal(5)}),
    (ad.Wasserstein(0.05), {"bounds": "ibp+dual"}),
]


def test_training_steps_leave_no_tensor_behind():
    """A backward pass that keeps what comes after it keeps itself: memory would grow for ever."""
    model, x, y = picture_net(2)
    nets, counts = [ad.certify(model, threat, **options) for threat, options in STEPS], []
    for _ in range(2):
        for net in nets * 2:
            model.zero_grad()
            ad.robust_loss(net, x.abs(), y).backward()
        counts.append(alive())
    assert counts[1] <= counts[0]


class Waits(TorchDispatchMode):
    """Notes who in autodual calls an op for which the host must wait for a GPU."""

    OPS = ("_local_scalar_dense", "nonzero", "equal", "unique", "masked_select", "bincount")
    INDEXED = ("index", "index_put", "index_put_")

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        indices = [i for i in args[1] if i is not None] if name in self.INDEXED else []
        masks = any(i.dtype == torch.bool for i in indices)
        if masks or name.strip("_").startswith(tuple(op.strip("_") for op in self.OPS)):
            frames = traceback.extract_stack()
            self.found.add([f.name for f in frames if PACKAGE in Path(f.filename).parents][-1])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("estimator", [ad.Exact(), ad.Cauchy(5)], ids=str)
@pytest.mark.parametrize("bounds", ["dual", "ibp&dual", "ibp+dual", "ibp"])
def test_without_selection_no_step_waits_for_the_host(bounds, estimator, monkeypatch):
    """As far as a CPU can tell. Seeds are drawn on the host; checks of x and y are for CPUs."""
    if bounds == "ibp" and not isinstance(estimator, ad.Exact):
        return
    monkeypatch.setattr(ad.Certified, "_looks", lambda self, x: False)
    model, x, y = picture_net(1)
    for select in (True, False):
        net = ad.certify(
            model, 0.05, bounds=bounds, estimator=estimator, select=select, memory="1GB"
        )
        ad.robust_loss(net, x, y).backward()
        with Waits() as waits:
            ad.robust_loss(net, x, y).backward()
        if select:
            assert waits.found  # it does see
            assert waits.found <= {"seed", "where", "those", "take", "backward", "_rows", "widen"}
        else:
            assert waits.found <= {"seed"}


@pytest.mark.parametrize("bounds", ["dual", "ibp&dual", "ibp+dual", "ibp"])
@pytest.mark.parametrize("domain", [None, (0, 1)])
def test_the_straight_line_equals_eager(bounds, domain, monkeypatch):
    """What is compiled, without the compiler."""
    monkeypatch.setattr(torch, "compile", lambda straight, **_: straight)
    check_compiled(bounds, domain)


def test_compiled_equals_eager(monkeypatch):
    """All but the last stage, which writes C++."""
    compiled = []

    def compile(line, **options):
        compiled.append(torch_compile(line, backend="aot_eager", **options))
        return compiled[-1]

    torch_compile = torch.compile
    monkeypatch.setattr(torch, "compile", compile)
    check_compiled("ibp+dual", None, fused=True)
    assert len(compiled) == 2  # the loss and the margins


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_to_the_end(tmp_path, monkeypatch):
    # what another run has left may be C++ for vectors that ATEN_CPU_CAPABILITY rules out here
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model, x, y = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), torch.rand(1, 2), torch.tensor([0])
    eager, compiled = (ad.certify(model, 0.1, bounds="ibp", compile=c) for c in (False, True))
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, y).margins, eager(x, y).margins)
    (line,) = compiled._last.straight._lines.values()
    assert isinstance(line, OptimizedModule)


def check_compiled(bounds, domain, fused=False):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(18, 4), nn.ReLU(), nn.Linear(4, 3))
    x, y = torch.rand(3, 1, 6, 6), torch.tensor([0, 1, 2])
    eps = torch.tensor([0.01, 0.05, 0.1])
    eager = ad.certify(model, ad.LinfBall(eps, domain), bounds=bounds, select=False)
    compiled = ad.certify(model, ad.LinfBall(eps, domain), bounds=bounds, compile=True)
    results = []
    for net in (eager, compiled):
        model.zero_grad()
        ad.robust_loss(net, x, y, fused=fused).backward()
        gradients = [p.grad for p in model.parameters()]
        results.append([net(x, y).margins, net.at(0.02)(x, y).margins, *gradients])
    assert_same(*results, rtol=1e-4, atol=1e-5)


def test_compilation_keeps_a_stop_of_gradients(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda straight, **_: straight)

    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            with torch.no_grad():
                z = self.a(x)
            return self.b(torch.relu(z))

    model = Frozen()
    net = ad.certify(model, 0.1, bounds="ibp+dual", compile=True)
    ad.robust_loss(net, torch.rand(2, 4), torch.tensor([0, 1])).backward()
    assert model.a.weight.grad is None or not bool(model.a.weight.grad.any())
    assert bool(model.b.weight.grad.any())


def test_a_compiled_bound_follows_the_domain(monkeypatch):
    """Two domains of many pixels print alike; they are not the same."""
    monkeypatch.setattr(torch, "compile", lambda straight, **_: straight)
    model = nn.Sequential(nn.Linear(2000, 3)).double()
    x = torch.full((1, 2000), 0.5, dtype=torch.float64)
    wide, narrow = (torch.ones(2000, dtype=torch.float64) for _ in range(2))
    narrow[500:1500] = 0.5
    spec = torch.eye(3, dtype=torch.float64)
    net = ad.certify(model, ad.LinfBall(0.4, (0.0, narrow)), bounds="ibp+dual", compile=True)
    for high in (narrow, wide):
        threat = ad.LinfBall(0.4, (0.0, high))
        exact = ad.certify(model, threat, bounds="ibp+dual").lower_bound(x, spec)
        torch.testing.assert_close(net.at(threat).lower_bound(x, spec), exact)


def test_compilation_is_refused_where_it_cannot_be():
    model = nn.Linear(2, 2)
    with pytest.raises(ad.errors.InputError, match="exact sums"):
        ad.certify(model, 0.1, compile=True, estimator=ad.Cauchy(5))
    with pytest.raises(ad.errors.InputError, match="serves LinfBall and L2Ball"):
        ad.certify(model, ad.L1Ball(0.1), compile=True)(torch.rand(1, 2))


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GiB", 2**31), ("500MB", 500_000_000), ("1.5 gb", 1_500_000_000), (2**25, 2**25)],
)
def test_memory_is_read(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize("wrong", ["", "2", "two GB", "1KB", 5, -1, True, 2.5e9, "nanGB"])
def test_memory_that_is_no_budget_is_refused(wrong):
    with pytest.raises(ad.errors.InputError, match="memory="):
        ad.certify(nn.Linear(2, 2), 0.1, memory=wrong)


def test_memory_has_a_default():
    assert default_memory(torch.device("cpu")) >= 2**28


@pytest.mark.parametrize(
    ("choose", "says"),
    [
        ({"nowhere": "ibp"}, "no node 'nowhere' is bounded; there are"),
        ({"linear": "sideways"}, "give one of"),
        ({"linear": ad.Geometric()}, "give one of"),
        ({"linear_1": "ibp"}, "needs a node inside"),
    ],
)
def test_choices_that_cannot_be_are_refused(choose, says):
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    net = ad.certify(model, 0.1, choose=choose)
    with pytest.raises(ad.errors.InputError, match=says):
        net(torch.rand(1, 2))


TWICE = {
    "repeat": lambda x: x.repeat(1, 2),
    "expand": lambda x: x[:, None].expand(-1, 2, 4).flatten(1),
    "index": lambda x: x[:, torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])],
}


@pytest.mark.parametrize("name", TWICE)
def test_rows_where_an_entry_is_read_twice(name):
    """They cancel in rows, not in intervals: with weights w and −w a ReLU reads a constant."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(8, 3)

        def forward(self, x):
            return torch.relu(self.first(TWICE[name](x)))

    model = Model()
    with torch.no_grad():
        w = torch.randn(3, 4)
        model.first.weight.copy_(torch.cat([w, -w], 1))
    found = ad.certify(model, 0.5).bounds(torch.rand(2, 4))
    assert (found.upper - found.lower).abs().max() < 1e-5
