"""The bound as a straight line: on its own, and where it serves a net by itself."""

import pytest
import torch
from torch import nn

import autodual as ad
from autodual.bound import emit
from autodual.duals import Elementwise, Lines
from autodual.errors import InputError, UnsoundError

DOUBLE = torch.float64


class Net(nn.Module):
    """Pictures through convolution, normalisation, a constant and two linear layers."""

    def __init__(self, last=torch.relu):
        super().__init__()
        self.last = last
        self.conv, self.norm = nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2)
        self.inner = nn.ModuleList([nn.Linear(32, 6), nn.Linear(6, 3)])
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        z = self.norm(self.conv(x)).relu().flatten(1)
        z = self.inner[0](z + torch.linspace(0, 1, 32, dtype=DOUBLE))
        return self.inner[1](self.last(z))


X = 0.8 * torch.rand(3, 1, 4, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
C = torch.randn(3, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
EPS = torch.tensor([0.01, 0.05, 0.2], dtype=DOUBLE)
OTHER = torch.tensor([0.1, 0.0, 0.02], dtype=DOUBLE)
HIGH = torch.linspace(0.8, 1, 16, dtype=DOUBLE).view(1, 4, 4)
BALLS = {
    "linf": lambda eps: ad.LinfBall(eps),
    "linf in a domain": lambda eps: ad.LinfBall(eps, (0, 1)),
    "linf below an image": lambda eps: ad.LinfBall(eps, (0.0, HIGH)),
    "l2": lambda eps: ad.L2Ball(eps),
    "l2 in a domain": lambda eps: ad.L2Ball(eps, (0, 1)),
}
KINDS = [
    ("linf", "ibp", torch.relu),
    ("linf in a domain", "ibp&dual", torch.relu),
    ("l2", "ibp+dual", torch.tanh),
    ("l2 in a domain", "dual", torch.relu),
    ("linf below an image", "ibp+dual", torch.relu),
]
"""Each ball and each method, though not with each other. Lines of smooth functions are long."""


def make(last=torch.relu):
    torch.manual_seed(3)
    return Net(last).double().eval()


def assert_close(found, right):
    torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("ball", "bounds", "last"),
    [
        pytest.param(*kind, id="-".join(kind[:2]), marks=[pytest.mark.long] if i > 1 else [])
        for i, kind in enumerate(KINDS)
    ],
)
def test_a_line_is_the_bound_and_has_its_gradient(ball, bounds, last):
    """At other points, of other radii, for other questions than those it was drawn at."""
    model = make(last)
    line = ad.certify(model, BALLS[ball](EPS), bounds=bounds).emit(X)
    x, eps, spec = X.flip(0) * 0.9, OTHER.clone(), C.clone()
    leaves = [*(t.requires_grad_() for t in (x, eps, spec)), *model.parameters()]
    eager = ad.certify(model, BALLS[ball](eps), bounds=bounds, select=False)
    answers = line(x, eps, spec.unsqueeze(0)), eager.lower_bound(x, spec)
    assert_close(*answers)
    gradients = [torch.autograd.grad(a.sigmoid().sum(), leaves) for a in answers]
    for one, other in zip(*gradients, strict=True):
        assert bool((other != 0).any())
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)
    with torch.no_grad():
        eye, box = torch.eye(3, dtype=DOUBLE).unsqueeze(0), eager.bounds(x)
        assert_close(line(x, eps, eye), box.lower)
        assert_close(-line(x, eps, -eye), box.upper)


def test_rows_may_differ_from_example_to_example():
    model = make()
    net = ad.certify(model, ad.LinfBall(EPS), bounds="ibp&dual", select=False)
    own = torch.randn(3, 2, 3, dtype=DOUBLE)
    assert_close(net.emit(X, own)(X, EPS, own), net.lower_bound(X, own))


def test_a_line_takes_the_arguments_of_the_model():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x, mask, *, scale):
            return self.fc(x * mask).relu() * scale

    model = Two().double()
    x, other = torch.rand(2, 3, 4, dtype=DOUBLE)
    mask, scale = torch.rand(3, 4, dtype=DOUBLE), torch.tensor(2.0, dtype=DOUBLE)
    net = ad.certify(model, 0.1, bounds="ibp+dual", select=False)
    line = net.emit(ad.Inputs(x, mask, scale=scale), C)
    for inputs in (ad.Inputs(x, mask, scale=scale), ad.Inputs(other, 1 - mask, scale=3 * scale)):
        eps = torch.full((3,), 0.1, dtype=DOUBLE)
        found = line(*inputs.leaves(), eps, C.unsqueeze(0))
        assert_close(found, net.lower_bound(inputs, C))


def test_a_line_holds_the_models_own_parameters():
    model = make()
    net = ad.certify(model, ad.LinfBall(EPS), bounds="ibp+dual", select=False)
    line = net.emit(X, C)
    own, theirs = dict(line.named_parameters()), dict(model.named_parameters())
    assert own.keys() == theirs.keys()
    assert all(own[name] is theirs[name] for name in own)
    optimizer = torch.optim.SGD(line.parameters(), 0.5)
    before = line(X, EPS, C.unsqueeze(0))
    before.sum().neg().backward()
    optimizer.step()
    after = line(X, EPS, C.unsqueeze(0))
    assert not torch.allclose(before, after)
    assert_close(after, net.lower_bound(X, C))
    with torch.no_grad():
        model.norm.running_mean.add_(1)
    assert_close(line(X, EPS, C.unsqueeze(0)), net.lower_bound(X, C))


@pytest.mark.parametrize("bounds", ["ibp", "ibp&dual"])
def test_a_line_is_lean_and_printable(bounds):
    line = ad.certify(make(), ad.LinfBall(EPS, (0, 1)), bounds=bounds).emit(X, C)
    nodes = list(line.graph.nodes)
    assert all(node.users for node in nodes if node.op not in ("placeholder", "output"))
    assert [n.target for n in nodes if n.op == "placeholder"] == ["x", "eps", "C"]
    assert {node.op for node in nodes} == {"placeholder", "get_attr", "call_function", "output"}
    line.graph.lint()
    assert "torch.ops.aten" in line.code


@pytest.mark.parametrize(("ball", "bounds"), [("linf in a domain", "ibp+dual"), ("l2", "ibp")])
def test_a_line_can_be_exported(ball, bounds):
    line = ad.certify(make(), BALLS[ball](EPS), bounds=bounds).emit(X, C)
    exported = torch.export.export(line, (X, EPS, C.unsqueeze(0))).module()
    given = X.flip(0) * 0.7, OTHER, -C.unsqueeze(0)
    assert_close(exported(*given), line(*given))


@pytest.mark.parametrize(
    "threat",
    [
        ad.L1Ball(0.1),
        ad.Box(X - 0.1, X + 0.1),
        ad.Wasserstein(0.1),
        ad.Union(ad.LinfBall(0.1), ad.L2Ball(0.1)),
    ],
    ids=lambda threat: type(threat).__name__,
)
def test_lines_are_for_two_kinds_of_ball(threat):
    with pytest.raises(InputError, match=r"serves LinfBall and L2Ball|member by member"):
        ad.certify(make(), threat).emit(X)


@pytest.mark.parametrize("options", [{"estimator": ad.Cauchy(5)}, {}], ids=str)
def test_what_guarantees_nothing_has_no_line(options):
    model = make()
    model.norm.train(not options)
    with pytest.raises(UnsoundError, match="no guarantee"):
        ad.certify(model, 0.1, **options).emit(X)


@pytest.fixture
def drawn(monkeypatch):
    """The lines drawn so far; the first one after three calls."""
    lines, trace = [], emit.trace

    def counted(*args):
        lines.append(trace(*args))
        return lines[-1]

    monkeypatch.setattr(emit, "trace", counted)
    monkeypatch.setattr(emit, "TIMES", 3)
    return lines


def assert_same(found, right):
    """The line repeats the operations that it was drawn from; what each sums up may be laid out
    otherwise in memory, which the last bit can tell."""
    torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-13)


def answers(net, calls, x=X, eps=EPS, spec=C):
    with torch.no_grad():
        return [net.at(net.threat.with_eps(eps)).lower_bound(x, spec) for _ in range(calls)]


@pytest.mark.parametrize(
    ("ball", "bounds"), [("linf", "ibp"), *((ball, "ibp+dual") for ball in BALLS if ball != "linf")]
)
def test_a_net_answers_the_same_by_a_line(ball, bounds, drawn):
    """Before and after it is drawn, for any point and question, and for changed parameters."""
    model = make()
    net = ad.certify(model, BALLS[ball](EPS), bounds=bounds)
    others = net.at(net.threat.with_eps(OTHER))
    for change, memory in ((0.0, "1GB"), (0.1, "2GB")):
        with torch.no_grad():
            model.conv.weight.add_(change)
            model.inner[1].bias.sub_(change)
        fresh = ad.certify(model, BALLS[ball](EPS), bounds=bounds, memory=memory)
        before = answers(fresh, 1)[0], answers(fresh, 1, X.flip(0) * 0.7, OTHER, -C)[0]
        for found in answers(net, 6):
            assert_same(found, before[0])
        assert_same(answers(others, 1, X.flip(0) * 0.7, OTHER, -C)[0], before[1])
        assert len(drawn) == 1


def test_a_line_follows_the_domain_and_the_certificate(drawn):
    model = make()
    net = ad.certify(model, ad.LinfBall(0.3, (0, 1)), bounds="ibp")
    threats = [ad.LinfBall(0.3, domain) for domain in ((0, 1), (0.0, HIGH), (-1, 2), None)]
    right = [ad.certify(make(), t, bounds="ibp")(X).margins for t in threats]
    for _ in range(5):
        for threat, margins in zip(threats, right, strict=True):
            assert_same(net.at(threat)(X).margins, margins)
    assert len(drawn) == 3  # with two numbers, with an image, with no domain


def test_lines_are_drawn_only_where_they_answer_the_same(drawn):
    """Not for gradients, many examples, rows inside, noise, or sets that have no line."""
    model, many = make(), X.repeat(2, 1, 1, 1)
    net = ad.certify(model, 0.1, bounds="ibp+dual")
    for _ in range(6):
        net.lower_bound(X, C)
        net(many)
        net.within(X, 0.5)
        for other in (
            ad.certify(model, 0.1, bounds="dual"),
            ad.certify(model, 0.1, bounds="ibp&dual"),
            ad.certify(model, ad.L1Ball(0.1), bounds="ibp+dual"),
            ad.certify(model, 0.1, bounds="ibp+dual", estimator=ad.Geometric(5, 2, 0.1)),
        ):
            other(X)
    assert drawn == []
    for _ in range(4):
        net(X)
    assert len(drawn) == 1


def test_a_rule_that_looks_at_data_is_never_drawn(drawn):
    def lines(call, box, slope):
        one = torch.ones_like(box.lower)
        if bool((box.lower >= 0).all()):
            return Lines.parallel(one, 0 * one, 0 * one)
        low, high = (call(end) - one / 2 * end for end in (box.lower, box.upper))
        return Lines.parallel(one / 2, torch.zeros_like(one), torch.maximum(low, high))

    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    net = ad.certify(model, 0.2, bounds="ibp+dual", rules={"aten.relu.default": Elementwise(lines)})
    x = torch.rand(2, 4, dtype=DOUBLE)
    first, *others = (net(x).margins for _ in range(8))
    assert drawn == []
    assert all(torch.equal(first, other) for other in others)
