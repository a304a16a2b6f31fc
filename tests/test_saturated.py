"""Gradients of planes where functions are as good as constant, or overflow."""

import math

import pytest
import torch
from torch import nn

import autodual as ad
from autodual.duals import Elementwise, Sides
from autodual.interval import Interval
from autodual.testing.gradients import UNDEFINED, check_gradients
from tests.cases.rules import SMOOTH, rule_of
from tests.zoo import Net

ENDS = [(1e3, 2e3), (-2e3, -1e3), (100.0, 100.0), (-100.0, -100.0), (80.0, 90.0), (0.0, 1e3)]
ENDS += [(-1e3, 0.0), (-1e3, 2e3), (0.0, 0.0)]
FUNCTIONS = [case for case in SMOOTH if isinstance(rule_of(case), Elementwise)]


def boxes(shape, dtype):
    """Yield boxes whose entries lie between all the ends, in turn."""
    ends, size = torch.tensor(ENDS, dtype=dtype), math.prod(shape)
    for first in range(0, len(ENDS), size):
        some = ends[torch.arange(first, first + size) % len(ENDS)]
        yield [some[:, i].reshape(shape).requires_grad_() for i in (0, 1)]


def planes(rule, call, box):
    """Yield all planes that a rule gives on a box, by what they are."""
    slope = torch.full_like(box.lower, 0.3)
    yield "equal", rule.relax(call, box)
    yield "free", (free := rule.relax(call, box, at=[box.center.detach()]))
    yield "given", rule.relax(call, box, slopes=slope)
    yield "sides", rule.relax(call, box, slopes=Sides(slope, -slope))
    yield from ((f"beside {i}", p) for i, p in enumerate(rule.facets(call, box, chosen=free)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", FUNCTIONS, ids=str)
def test_whatever_is_finite_has_finite_gradients(case, dtype):
    rule = rule_of(case)
    call, (shape,) = case.build(torch.Generator().manual_seed(0), dtype)
    for lower, upper in boxes(shape, dtype):
        box = Interval(lower, upper)
        image = rule.interval(call, box)
        found = {"image": [image.lower, image.upper]}
        found |= {name: given.tensors for name, given in planes(rule, call, box)}
        for name, tensors in found.items():
            finite = (t[t.isfinite()] for t in tensors if t.requires_grad)
            known = [t.sum() for t in finite if len(t)]
            if known:
                gradients = torch.autograd.grad(
                    sum(known), [lower, upper], retain_graph=True, allow_unused=True
                )
                bound = torch.stack([t.isfinite().expand(shape) for t in tensors]).all(0)
                for gradient in gradients:
                    wrong = bound & (gradient is not None and ~gradient.isfinite())
                    assert not wrong.any(), (name, lower[wrong], upper[wrong])


@pytest.mark.parametrize("reach", [(1e3, 2e3), (-2e3, -1e3), (80.0, 100.0)])
def test_gradients_there_are_right(reach):
    for case in FUNCTIONS:
        call, (shape,) = case.build(torch.Generator().manual_seed(0), torch.float64)
        assert check_gradients(rule_of(case), call, shape, reach) in (None, UNDEFINED), case


@pytest.mark.parametrize("bounds", ["ibp", "ibp&dual"])
@pytest.mark.parametrize(
    "f", [torch.tanh, nn.Mish(), nn.GELU("tanh"), torch.erf], ids=["tanh", "mish", "gelu", "erf"]
)
def test_a_saturated_net_trains(f, bounds):
    torch.manual_seed(0)
    layer, last = nn.Linear(3, 5), nn.Linear(5, 3)
    model = Net(lambda net, x: net.last(f(2e3 * net.layer(x))), layer=layer, last=last)
    x, y = torch.rand(4, 3), torch.tensor([0, 1, 2, 0])
    loss = ad.robust_loss(ad.certify(model, 0.1, bounds=bounds), x, y)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert all(bool(g.isfinite().all()) for g in gradients)
    assert bool((gradients[-1] != 0).any())


@pytest.mark.parametrize("f", [torch.exp, torch.cosh, torch.expm1])
def test_a_net_trains_where_a_function_overflows(f):
    """What comes after is bounded all the same."""
    torch.manual_seed(0)
    layer = nn.Linear(2, 2)
    model = Net(lambda net, x: f(net.layer(x)).clamp(max=5), layer=layer)
    low = ad.certify(model, 1e4, bounds="ibp").lower_bound(torch.rand(2, 2), -torch.eye(2))
    assert bool(low.isfinite().all())
    gradients = torch.autograd.grad(low.sum(), list(model.parameters()))
    assert all(bool(g.isfinite().all()) for g in gradients)


def test_optimised_planes_train_where_a_second_derivative_is_infinite():
    torch.manual_seed(0)
    layer, last = nn.Linear(3, 5), nn.Linear(5, 3)
    model = Net(lambda net, x: net.last(net.layer(x).relu() ** 1.5), layer=layer, last=last)
    net = ad.certify(model, 0.3, optimize=3)
    loss = net.margins(torch.rand(4, 3), torch.tensor([0, 1, 2, 0])).sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert all(bool(g.isfinite().all()) for g in gradients)
