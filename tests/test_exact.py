"""Exact verdicts against independent programs, brute force, and what cannot be decided."""

import numpy as np
import pytest
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import nn

import autodual as ad
from autodual.duals import pieces
from autodual.errors import InputError, Interrupted
from autodual.ladder import exact as exactly
from autodual.solve import whole_network

from . import oracles
from .nets import random_convnet, random_mlp
from .questions import DOUBLE
from .test_own_set import Ellipsoid

SETS = {
    "box": lambda x: ad.Box(x - 0.3, x + 0.2),
    "l1": lambda x: ad.L1Ball(0.5, domain=(0, 1)),
    "l2": lambda x: ad.L2Ball(0.4),
    "wasserstein": lambda x: ad.Wasserstein(0.1, domain=(0, 1)),
    "union": lambda x: ad.Union(ad.LinfBall(0.1), ad.L1Ball(0.3)),
}


def inside(threat, x, point):
    members = (m.around((x.shape[1:],)) for m in threat.members)
    return any(torch.allclose(m.project(x, point), point, atol=1e-6) for m in members)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(6))
def test_verdicts_are_those_of_an_independent_program(seed):
    model, shape = random_convnet(seed) if seed % 2 else (random_mlp(seed, (4, 8, 8, 3)), (4,))
    torch.manual_seed(seed)
    x = torch.rand(5, *shape, dtype=DOUBLE)
    y = model(x).argmax(1)
    for eps in (0.05, 0.2, 0.5):
        net = ad.certify(model, eps)
        verdict = net.exact(x, y)
        assert not verdict.unknown.any()
        for i in range(len(x)):
            others = [k for k in range(3) if k != y[i]]
            spec = (torch.eye(3)[y[i]] - torch.eye(3)[others]).numpy()
            low, high = ((x[i] + s * eps).flatten().numpy() for s in (-1, 1))
            weights = oracles.layers(model, shape)
            boxes = oracles.algorithm_1(weights, x[i].flatten().numpy(), eps)
            true = oracles.optimum(weights, boxes, low, high, spec, exact=True).min()
            assert bool(verdict.verified[i]) == (true > 0)
            assert verdict.lower[i] <= true + 1e-6
            assert verdict.upper[i] >= true - 1e-6
        wrong = verdict.falsified
        assert (model(verdict.x[wrong]).argmax(1) != y[wrong]).all()
        assert ((verdict.x - x).abs() <= eps + 1e-9).all()


FAMILIES = {
    "relu": nn.ReLU(),
    "leaky": nn.LeakyReLU(0.2),
    "prelu": nn.PReLU(2, init=0.4),
    "abs": lambda z: z.abs(),
    "hardtanh": nn.Hardtanh(-0.3, 0.5),
    "relu6": lambda z: nn.functional.relu6(8 * z + 2),
    "hardsigmoid": lambda z: nn.functional.hardsigmoid(5 * z),
    "softshrink": lambda z: nn.functional.softshrink(z, 0.2),
    "maximum": lambda z: torch.maximum(z, 0.3 * z.flip(1) - 0.1),
    "minimum": lambda z: torch.minimum(z, 0.3 * z.flip(1) - 0.1),
    "amax": lambda z: torch.cat([z, 0.2 - z], 1).amax(1, keepdim=True) - z,
    "pool": lambda z: nn.functional.max_pool1d(torch.cat([z, -z], 1)[:, None], 2)[:, 0] - z,
}


class Family(nn.Module):
    """Two layers with one kind of op between and behind."""

    def __init__(self, op):
        super().__init__()
        self.op, self.a, self.b = op, nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.op(self.b(self.op(self.a(x))))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_least_value_is_that_of_brute_force(name):
    torch.manual_seed(1)
    model = Family(FAMILIES[name]).double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    x, eps = torch.zeros(1, 2, dtype=DOUBLE), 0.8
    axis = torch.linspace(-eps, eps, 401, dtype=DOUBLE)
    z = model(torch.cartesian_prod(axis, axis)).detach()
    net = ad.certify(model, eps)
    network, output = net.relax(x).travelled, net.graph.output
    whole = whole_network(network)
    for row in (torch.tensor([1.0, -0.7]), torch.tensor([-1.0, 0.4]), torch.tensor([0.2, 1.0])):
        row = row.double()
        cost = whole.cost({output: row[None]})[0]
        found = milp(
            cost,
            constraints=LinearConstraint(whole.rows, -np.inf, whole.most),
            bounds=Bounds(whole.low, whole.high),
            integrality=whole.integral.astype(int),
        )
        least = found.fun + float(row @ network.nominal(output).detach().flatten())
        best = float((z @ row).amin())
        assert best - 0.06 <= least <= best + 1e-6
        there = x + torch.from_numpy(found.x[:2])
        assert abs(float(model(there)[0].detach() @ row) - least) < 1e-5


@pytest.mark.parametrize("name", SETS)
def test_over_every_set_that_programs_take(name):
    model, shape = random_convnet(4)
    torch.manual_seed(4)
    x = torch.rand(6, *shape, dtype=DOUBLE)
    threat = SETS[name](x)
    verdict = ad.certify(model, threat).exact(x)
    assert not verdict.unknown.any()
    assert verdict.verified.any() or verdict.falsified.any()
    bound = ad.certify(model, threat)(x)
    assert (verdict.verified | ~bound.verified).all()
    for i in verdict.falsified.nonzero().flatten().tolist():
        one = ad.Box(x[i : i + 1] - 0.3, x[i : i + 1] + 0.2) if name == "box" else threat
        assert inside(one, x[i : i + 1], verdict.x[i : i + 1])


def test_an_input_outside_of_its_set_falsifies_nothing():
    model = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [-1.0], [1.0], [1.0]]))
        model[0].bias.zero_()
        model[2].weight.copy_(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]))
        model[2].bias.zero_()
    x = torch.tensor([[-1.0]], dtype=DOUBLE)  # class 1; on the set, where it is positive, class 0
    verdict = ad.certify(model, ad.Box(-x, 2 - x)).exact(x, [0])
    assert verdict.verified.all()
    assert not verdict.falsified.any()


def test_bounds_that_are_not_finite_leave_an_example_unknown():
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        model[0].weight.mul_(1e38)
        model[2].weight.mul_(1e38)
    verdict = ad.certify(model, 0.1).exact(torch.zeros(2, 2), [0, 1])
    assert not verdict.verified.any()


def test_one_logit_and_other_inputs():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.out = nn.Linear(3, 8), nn.Linear(8, 1)

        def forward(self, x, scale):
            return self.out(self.fc(x * scale).relu())

    torch.manual_seed(0)
    model = Scaled().double()
    inputs = ad.Inputs(torch.rand(8, 3, dtype=DOUBLE), torch.rand(8, 1, dtype=DOUBLE))
    verdict = ad.certify(model, 0.6).exact(inputs)
    z = model(inputs.args[0], inputs.args[1])[:, 0]
    assert torch.equal(verdict.labels, (z > 0).long())
    assert not verdict.unknown.any()
    moved = model(verdict.x, inputs.args[1])[:, 0]
    assert ((moved > 0) != (z > 0))[verdict.falsified].all()


def test_pieces_without_length_change_nothing():
    model, x = random_mlp(0, (4, 8, 8, 3)), torch.rand(8, 4, dtype=DOUBLE)
    twice = {"aten.relu.default": pieces(0.0, 0.0)}
    plain, other = (ad.certify(model, 0.3, rules=rules).exact(x) for rules in (None, twice))
    assert not other.unknown.any()
    assert torch.equal(plain.verified, other.verified)


def test_what_the_time_does_not_suffice_for_is_unknown_with_its_reason(monkeypatch):
    model = random_mlp(0, (4, 8, 8, 3))
    torch.manual_seed(0)
    x = torch.rand(20, 4, dtype=DOUBLE)
    net, heard = ad.certify(model, 0.3), []
    attacked = net.exact(x)
    monkeypatch.setattr(exactly._Deciding, "attack", lambda *_: None)
    verdict = net.exact(x, time_limit=1e-9, told=lambda i, why: heard.append((i, why)))
    assert verdict.unknown.any()
    assert any("were over" in why for why in verdict.reasons)
    assert "unknown" in str(verdict)
    assert sorted(i for i, _ in heard) == list(range(20))
    alone = net.exact(x)  # programs find what attacks would
    assert "falsified by programs" in alone.reasons
    assert torch.equal(alone.verified, attacked.verified)
    assert torch.equal(alone.falsified, attacked.falsified)


def test_an_interrupt_keeps_what_is_decided(monkeypatch):
    model = random_mlp(0, (4, 8, 8, 3))
    x = torch.rand(10, 4, dtype=DOUBLE)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(exactly._Deciding, "programs", stop)
    with pytest.raises(Interrupted) as caught:
        ad.certify(model, 0.3).exact(x)
    partial = caught.value.partial
    assert len(partial) == 10
    assert (partial.verified | partial.falsified).any()


def test_what_programs_cannot_say_is_refused():
    x = torch.rand(3, 4)
    smooth = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 3))
    with pytest.raises(InputError, match=r"sigmoid.*no linear pieces.*optimize"):
        ad.certify(smooth, 3.0).exact(x, [0, 1, 2])
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    with pytest.raises(InputError, match=r"programs take.*not Ellipsoid"):
        ad.certify(net, Ellipsoid(torch.ones(4), torch.ones(3))).exact(x)
    with pytest.raises(InputError, match="seconds above 0"):
        ad.certify(net, 0.1).exact(x, time_limit=0)
    with pytest.raises(InputError, match="ibp"):
        ad.certify(net, 0.1, bounds="ibp").exact(x)
