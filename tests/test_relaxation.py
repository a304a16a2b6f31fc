"""The relaxed network as an object: examples chosen, slopes and intervals from outside, origins."""

import math

import pytest
import torch
from torch import nn

import autodual as ad
from autodual.bound.estimators import ExactSums, Setting
from autodual.bound.reading import lower
from autodual.duals.relaxed import Product, Sides
from autodual.errors import InputError

DOUBLE = torch.float64
ROWS = torch.tensor([2, 0, 0, 1, 2, 2])
"""Examples by row, some of them several times."""


class Net(nn.Module):
    """A function of x, and of what else is given, with linear layers of its own."""

    def __init__(self, f, width=4):
        super().__init__()
        self.f = f
        self.a, self.b = nn.Linear(4, width), nn.Linear(4, width)
        self.c, self.last = nn.Linear(width, width), nn.Linear(width, 3)
        self.conv = nn.Conv2d(1, 2, 2, padding=1)

    def forward(self, x, *others):
        return self.last(self.f(self, x, *others))


def attention(net, x):
    h = x.unsqueeze(1) * torch.tensor([[1.0], [-0.5], [2.0]], dtype=DOUBLE)
    return ((net.a(h) @ net.b(h).transpose(1, 2)).tanh() @ h).mean(1)


NETS = {
    "lines": lambda net, x: net.c(net.a(x).relu()).tanh(),
    "pictures": lambda net, x: net.conv(x.view(-1, 1, 2, 2)).relu().flatten(1)[:, ::5].sigmoid(),
    "product of two": lambda net, x: net.a(x).relu() * net.b(x).sigmoid(),
    "product of matrices": attention,
    "examples last": lambda net, x: (net.a(x).t().relu() * 2 - 1).sin().t(),
    "another argument": lambda net, x, m: net.c((net.a(x) * m).relu()).exp(),
}
SETS = {
    "linf": lambda x: ad.LinfBall(torch.tensor([0.05, 0.2, 0.4], dtype=DOUBLE)),
    "linf in a domain": lambda x: ad.LinfBall(0.3, (0, 1)),
    "l2": lambda x: ad.L2Ball(torch.tensor([0.1, 0.3, 0.5], dtype=DOUBLE), (0, 1)),
    "l1": lambda x: ad.L1Ball(0.4),
    "box": lambda x: ad.Box(x - 0.2, x + torch.rand_like(x)),
}


def make(name):
    """Return a net, its inputs for three examples, and the same for one of them."""
    torch.manual_seed(1)
    model = Net(NETS[name], 4).double()
    x = torch.rand(3, 4, dtype=DOUBLE)
    if name != "another argument":
        return model, x, lambda i: x[i : i + 1]
    m = torch.randn(3, 4, dtype=DOUBLE)
    return model, ad.Inputs(x, m), lambda i: ad.Inputs(x[i : i + 1], m[i : i + 1])


def perturbed(inputs):
    return inputs.args[0] if isinstance(inputs, ad.Inputs) else inputs


def images(model, threat, inputs, tried=200):
    """The model's outputs [tried, N, K] at random points of the set and at corners of its box."""
    x, generator = perturbed(inputs), torch.Generator().manual_seed(3)
    found = []
    for i in range(tried):
        point = threat.random_start(x, generator)
        if i % 2:
            box = threat.interval(x)
            side = torch.rand(x.shape, generator=generator, dtype=DOUBLE) < 0.5
            point = threat.project(x, torch.where(side, box.lower, box.upper))
        moved = inputs.replace(0, point).args if isinstance(inputs, ad.Inputs) else (point,)
        found.append(model(*moved).detach())
    return torch.stack(found)


def free_steps(net):
    """The steps whose ops take slopes."""
    return [step for step in net.plan.steps if step.rule.takes_slopes]


def random_slopes(net, batch, generator, sides=False):
    """Slopes for every op that takes some, other ones for each example, in the model's layout."""

    def side(step):
        v, arguments = step.out, len(step.variables)
        draw = [
            v.in_layout(torch.randn(batch, *v.size(1), generator=generator, dtype=DOUBLE))
            for _ in range(arguments)
        ]
        return tuple(draw) if arguments > 1 else draw[0]

    steps = free_steps(net)
    return {s.out: Sides(side(s), side(s)) if sides else side(s) for s in steps}


def row_of(slopes, k, batch):
    """The k-th row's own slopes, of those for a batch."""

    def pick(value, slope):
        if isinstance(slope, tuple):
            return tuple(pick(value, s) for s in slope)
        return value.in_layout(value.per_example(slope, batch)[k : k + 1])

    return {value: pick(value, slope) for value, slope in slopes.items()}


def found_by(network, spec):
    """Lower bounds [N, S] on the output by rows through a network."""
    setting = Setting((), 0, 2**28, True)
    return lower(ExactSums(network, setting), {network.plan.graph.output: spec.unsqueeze(0)})


def spec_of(model):
    return torch.randn(5, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))


def assert_close(found, right):
    torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("name", NETS)
def test_each_row_can_have_slopes_of_its_own(name, kind):
    model, inputs, one = make(name)
    x = perturbed(inputs)
    threat, spec = SETS[kind](x), spec_of(model)
    net = ad.certify(model, threat, bounds="ibp+dual")
    network = net.relax(inputs).networks[0]
    slopes = random_slopes(net, len(ROWS), torch.Generator().manual_seed(4))
    rows = found_by(network.select(ROWS).with_slopes(slopes), spec)
    assert_close(found_by(network.select(ROWS), spec), net.lower_bound(inputs, spec)[ROWS])
    for k, i in enumerate(ROWS.tolist()):
        alone = net.at(threat.select(x, torch.tensor([i])))
        mine = row_of(slopes, k, len(ROWS))
        bound = alone.relax(one(i), slopes={v.name: s for v, s in mine.items()})
        assert_close(rows[k : k + 1], bound.lower({net.graph.output: spec.unsqueeze(0)}))


@torch.no_grad()
@pytest.mark.parametrize("sides", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_other_slopes_on_the_same_boxes_are_as_if_given_at_once(name, sides):
    """Where boxes depend on no slopes before the last, or on none at all."""
    model, inputs, _ = make(name)
    spec = spec_of(model)
    for bounds in ("ibp+dual", "dual"):
        net = ad.certify(model, SETS["linf"](perturbed(inputs)), bounds=bounds)
        before = net.relax(inputs).networks[0]
        slopes = random_slopes(net, 3, torch.Generator().manual_seed(5), sides)
        if bounds == "dual":
            inner = [step.out for step in net.plan.steps if not step.rule.exact][:-1]
            slopes = {v: s for v, s in slopes.items() if v not in inner}
            if not slopes:  # a product of matrices reads what the last lines enclose
                continue
        at_once = net.relax(inputs, slopes=slopes).lower({net.graph.output: spec.unsqueeze(0)})
        assert_close(found_by(before.with_slopes(slopes), spec), at_once)
        assert not torch.allclose(at_once, found_by(before, spec))
        assert_close(found_by(before.with_slopes({}), spec), net.lower_bound(inputs, spec))


@pytest.mark.long
@torch.no_grad()
@pytest.mark.parametrize("bounds", ["dual", "ibp&dual", "ibp+dual"])
@pytest.mark.parametrize("sides", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_no_point_beats_slopes_from_outside(name, sides, bounds):
    """Whatever slopes are given, for all lines and planes and for each side."""
    model, inputs, _ = make(name)
    spec = spec_of(model)
    for kind in ("linf in a domain", "l2"):
        threat = SETS[kind](perturbed(inputs))
        net = ad.certify(model, threat, bounds=bounds)
        net.relax(inputs)
        slopes = random_slopes(net, 3, torch.Generator().manual_seed(6), sides)
        assert slopes
        bound = net.relax(inputs, slopes=slopes)
        below = bound.lower({net.graph.output: spec.unsqueeze(0)})
        box, z = bound.interval(net.graph.output), images(model, threat, inputs)
        slack = 1e-9 * (1 + below.abs())
        assert bool((z @ spec.T >= below - slack).all())
        assert bool((z >= box.lower - 1e-9 * (1 + box.lower.abs())).all())
        assert bool((z <= box.upper + 1e-9 * (1 + box.upper.abs())).all())


def test_the_nets_above_hold_what_they_are_meant_to():
    """A product of two with a slope for each, one of matrices, and a batch that comes last."""
    net = {name: ad.certify(make(name)[0], 0.1) for name in NETS}
    networks = {name: net[name].relax(make(name)[1]).networks[0] for name in NETS}
    product, matrices = "product of two", "product of matrices"
    assert any(len(step.variables) == 2 for step in free_steps(net[product]))
    assert any(isinstance(layer.relaxed, Product) for layer in networks[matrices].layers.values())
    assert any(v.batch_dim == 1 for v in networks["examples last"].layers)


def test_slopes_broadcast_and_have_gradients():
    model, x, _ = make("lines")
    net = ad.certify(model, 0.2, bounds="dual")
    net.relax(x)
    relu, tanh = (step.out for step in free_steps(net))
    one = torch.tensor(0.5, dtype=DOUBLE, requires_grad=True)
    many = torch.rand(4, dtype=DOUBLE, requires_grad=True)
    bound = net.relax(x, slopes={relu: one, tanh.name: many})
    for slope in torch.autograd.grad(bound.interval(net.graph.output).lower.sum(), (one, many)):
        assert bool((slope != 0).any())
    wide = {relu: torch.full((3, 4), 0.5, dtype=DOUBLE), tanh: many.detach().expand(3, 4)}
    assert_close(
        bound.interval(net.graph.output).lower,
        net.relax(x, slopes=wide).interval(net.graph.output).lower,
    )


TIGHTER = ("lines", "product of matrices", "another argument")
"""Where rows know more than intervals of values inside."""


@pytest.mark.long
@torch.no_grad()
@pytest.mark.parametrize("bounds", ["ibp", "ibp+dual", "dual", "ibp&dual"])
@pytest.mark.parametrize("name", NETS)
def test_what_is_known_of_a_value_tightens_the_bound(name, bounds):
    model, inputs, _ = make(name)
    threat, spec = ad.LinfBall(0.3), spec_of(model)
    known = ad.certify(model, threat, bounds="ibp&dual").relax(inputs).boxes
    net = ad.certify(model, threat, bounds=bounds)
    without = net.relax(inputs)
    question = {net.graph.output: spec.unsqueeze(0)}
    given = {v.name: known[w] for v, w in zip(without.boxes, known, strict=True)}
    bound = net.relax(inputs, given=given)
    for v, box in bound.boxes.items():
        assert bool((box.lower >= given[v.name].lower).all())
        assert bool((box.upper <= given[v.name].upper).all())
        if bounds != "dual":  # on smaller boxes lines have other slopes, for better or worse
            assert bool((box.lower >= without.boxes[v].lower - 1e-12).all())
            assert bool((box.upper <= without.boxes[v].upper + 1e-12).all())
    found = bound.lower(question)
    z, slack = images(model, threat, inputs), 1e-9 * (1 + found.abs())
    assert bool((z @ spec.T >= found - slack).all())
    if bounds in ("ibp", "ibp+dual") and name in TIGHTER:
        assert float((found - without.lower(question)).mean()) > 1e-6
    nothing = {
        v: ad.Interval(b.lower - math.inf, b.upper + math.inf) for v, b in without.boxes.items()
    }
    assert_close(net.relax(inputs, given=nothing).lower(question), without.lower(question))


@torch.no_grad()
def test_what_is_given_is_recorded_with_the_layer_that_reads_it():
    model, x, _ = make("lines")
    net = ad.certify(model, 0.3, bounds="ibp+dual")
    read = list(net.relax(x).boxes)
    wide = ad.Interval(*(torch.full((3, 4), end, dtype=DOUBLE) for end in (-0.2, 0.2)))
    bound = net.relax(x, given={read[1]: wide})
    layers = {v.name: layer for v, layer in bound.networks[0].layers.items()}
    assert [layers[n].origins for n in ("relu", "tanh")] == [("ibp",), ("ibp&given",)]
    (box,) = layers["tanh"].boxes
    assert float(box.upper.max()) <= 0.2
    assert float(box.lower.min()) >= -0.2
    assert torch.equal(box.lower, bound.boxes[read[1]].lower)


class Both(nn.Module):
    """A net whose output is what ``first`` and ``last`` say of two values, or both in one."""

    def __init__(self, together):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 4), nn.Linear(4, 3)
        self.together = together

    def forward(self, x):
        inner = self.b(self.a(x).relu())
        z = self.c(inner.tanh())
        return torch.cat([inner, z], dim=1) if self.together else z


@torch.no_grad()
@pytest.mark.parametrize("threat", [ad.LinfBall(0.2), ad.L2Ball(0.3), ad.L1Ball(0.4)], ids=str)
@pytest.mark.parametrize("bounds", ["ibp", "ibp+dual", "dual", "ibp&dual"])
def test_rows_at_two_values_at_once_are_one_question(bounds, threat):
    one, other = Both(False).double(), Both(True).double()
    other.load_state_dict(one.state_dict())
    x = torch.randn(3, 4, dtype=DOUBLE)
    inner, z = torch.randn(3, 6, 4, dtype=DOUBLE), torch.randn(1, 6, 3, dtype=DOUBLE)
    net, whole = (ad.certify(m, threat, bounds=bounds) for m in (one, other))
    bound = net.relax(x)
    (middle,) = (v for v in bound.boxes if v.name == net.plan.steps[-2].variables[0].name)
    found = bound.lower({middle: inner, net.graph.output: z})
    rows = torch.cat([inner, z.expand(3, -1, -1)], dim=2)
    assert_close(found, whole.lower_bound(x, rows))
    values = images(other, threat, x)
    sums = torch.einsum("tnk,nsk->tns", values, rows)
    assert bool((sums >= found - 1e-9 * (1 + found.abs())).all())
    separate = bound.lower({middle: inner}) + bound.lower({net.graph.output: z})
    assert bool((found >= separate - 1e-9 * (1 + separate.abs())).all())


class Kinds(nn.Module):
    """Ops that read the input, and values inside."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.b(self.a(x.relu()).sigmoid())


ORIGINS = {"ibp": "ibp", "ibp+dual": "ibp", "dual": "dual", "ibp&dual": "ibp&dual"}


@pytest.mark.parametrize("bounds", ORIGINS)
def test_origins_say_where_a_box_came_from(bounds):
    net = ad.certify(Kinds(), 0.5, bounds=bounds)
    x = torch.rand(2, 4)
    bound = net.relax(x)
    for network in bound.networks:
        affine, (first, second) = _by_rule(network)
        assert (first.origins, second.origins) == (("input",), (ORIGINS[bounds],))
        assert all(layer.origins == () and layer.boxes == () for layer in affine)
        for layer in (first, second):
            assert layer.boxes == (bound.boxes[layer.step.variables[0]],)
        assert network.select(torch.tensor([1])).layers[first.value].origins == ("input",)
        assert network.with_slopes({}).layers[second.value].origins == (ORIGINS[bounds],)
    given = {v: ad.Interval(b.lower, b.upper) for v, b in bound.boxes.items()}
    _, (first, second) = _by_rule(net.relax(x, given=given).networks[0])
    assert first.origins == ("input&given",)
    assert second.origins == (f"{ORIGINS[bounds]}&given",)


def _by_rule(network):
    layers = list(network.layers.values())
    return [la for la in layers if la.step.rule.exact], [
        la for la in layers if not la.step.rule.exact
    ]


def test_a_relaxed_network_prints_itself():
    net = ad.certify(Kinds(), 0.5)
    x = torch.rand(2, 4)
    lines = str(net.relax(x).networks[0]).splitlines()
    names = [v.name for v in (net.graph.perturbed, *net.relax(x).networks[0].layers)]
    assert [line.split(":")[0] for line in lines] == names
    assert lines[0].endswith("LinfBall(0.5)")
    assert lines[1].endswith(f"two lines on {names[0]} (input)")
    assert lines[3].endswith(f"two lines on {names[2]} (ibp&dual)")
    assert " on " not in lines[2]


ONES = torch.ones(3, 4, dtype=DOUBLE)
UNIT = ad.Interval(-ONES, ONES)
REFUSED = {
    "no such value": ({"slopes": {"nowhere": ONES}}, "no value 'nowhere'; there are .*relu"),
    "no such box": ({"given": {"nowhere": UNIT}}, "no value 'nowhere'; there are .*relu"),
    "affine": ({"slopes": {"linear": ONES}}, "slopes are given for linear: .*relu, tanh"),
    "not read": ({"given": {"tanh": UNIT}}, "intervals are given for tanh: .*linear"),
    "too wide": ({"slopes": {"relu": torch.ones(3, 7)}}, r"shapes \[\[3, 7\]\].*\[3, 4\]"),
    "a pair": ({"slopes": {"relu": (ONES, ONES)}}, r"shapes.* takes 1 .*\[3, 4\]"),
    "a wide side": ({"slopes": {"tanh": Sides(ONES, torch.ones(2, 4))}}, r"\[2, 4\].*\[3, 4\]"),
    "a wide box": (
        {"given": {"linear": ad.Interval(torch.ones(3, 7), torch.ones(3, 7))}},
        r"linear.*\[3, 7\].*\[3, 4\]",
    ),
    "a larger batch": (
        {"given": {"linear": ad.Interval(-torch.ones(5, 3, 4), torch.ones(5, 3, 4))}},
        r"linear.*\[5, 3, 4\].*\[3, 4\]",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_by_name(name):
    model, x, _ = make("lines")
    wrong, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        ad.certify(model, 0.1).relax(x, **wrong)


def test_slopes_that_do_not_fit_a_network_are_refused():
    model, x, _ = make("product of two")
    net = ad.certify(model, 0.1)
    network = net.relax(x).networks[0]
    product = free_steps(net)[-1].out
    with pytest.raises(InputError, match=r"takes 2 that broadcast to \[3, 4\]"):
        network.with_slopes({product: ONES})
    with pytest.raises(InputError, match=f"slopes are given for {net.graph.output}"):
        network.with_slopes({net.graph.output: ONES})
    with pytest.raises(InputError, match=f"slopes are given for {net.graph.output}"):
        net.relax(x, slopes={net.graph.output.name: ONES})
