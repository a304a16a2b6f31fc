"""Optimised duals: each row by its own best planes, from the network's on."""

import numpy as np
import pytest
import torch
from torch import nn

import autodual as ad
from autodual.bound.estimators import ExactSums, OptimisedSums, Setting
from autodual.bound.estimators.optimised import Climb
from autodual.bound.reading import lower
from autodual.bound.rows import Specs
from autodual.errors import InputError

from . import oracles
from .nets import random_convnet, random_mlp, random_net
from .questions import DOUBLE, SETS, no_random_point_lies_below, rows, values


class Pool(nn.Module):
    """Max pools, a product and smooth functions."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 3, 3, padding=1), nn.Linear(12, 3)

    def forward(self, x):
        z = nn.functional.max_pool2d(self.first(x).tanh(), 2)
        return self.last((z * z.mean((2, 3), keepdim=True).sigmoid()).flatten(1))


def setting():
    return Setting((), 0, 2**28, True)


@pytest.mark.long
@pytest.mark.parametrize("name", SETS)
def test_never_looser_and_sound_on_random_nets(name):
    gain = 0.0
    for seed in range(4):
        model, shape = random_net(seed)
        torch.manual_seed(seed)
        x, threat = torch.rand(3, *shape, dtype=DOUBLE), SETS[name]
        plain = ad.certify(model, threat).lower_bound(x, rows())
        net = ad.certify(model, threat, optimize=6)
        best = net.lower_bound(x, rows())
        assert (best >= plain - 1e-12).all()
        gain += float((best - plain).detach().sum())
        no_random_point_lies_below(best, model, threat, x)
    assert gain > 1e-3


def test_no_step_changes_nothing_and_each_step_is_no_looser():
    model, shape = random_convnet(0)
    torch.manual_seed(0)
    x = torch.rand(3, *shape, dtype=DOUBLE)
    bound = ad.certify(model, 0.3).relax(x)
    network = bound.travelled
    asked = {list(network.layers)[-1]: rows().unsqueeze(0)}
    exact = lower(ExactSums(network, setting()), asked)
    found = [lower(OptimisedSums(network, setting(), k), asked) for k in (0, 1, 2, 4, 8, 16)]
    torch.testing.assert_close(found[0], exact)
    assert all((more >= exact - 1e-12).all() for more in found)
    assert (found[-1] > exact + 1e-6).any()


@pytest.mark.parametrize("seed", range(6))
def test_between_the_fixed_planes_and_the_linear_program(seed):
    model = random_mlp(seed, (4, 8, 8, 3))
    torch.manual_seed(seed)
    x, eps = torch.rand(1, 4, dtype=DOUBLE), 0.3
    bound = ad.certify(model, eps).relax(x)
    network = bound.travelled
    output = list(network.layers)[-1]
    boxes = [
        (b.lower.detach().numpy()[0], b.upper.detach().numpy()[0]) for b in bound.boxes.values()
    ]
    weights, C = oracles.layers(model, (4,)), rows().unsqueeze(0)
    low, high = (x - eps)[0].numpy(), (x + eps)[0].numpy()
    program = oracles.optimum(weights, boxes, low, high, C[0].numpy(), exact=False)
    fixed = lower(ExactSums(network, setting()), {output: C})[0].detach().numpy()
    many = lower(OptimisedSums(network, setting(), 40), {output: C})[0].detach().numpy()
    assert (program >= many - 1e-7).all()
    # the program also holds stable units to their intervals
    assert (program - many).sum() <= 0.1 * (program - fixed).sum() + 1e-9
    whole = ad.certify(model, eps, optimize=40).lower_bound(x, C)[0].detach().numpy()
    exact = oracles.optimum(weights, boxes, low, high, C[0].numpy(), exact=True)
    assert (exact >= whole - 1e-7).all()
    assert (whole >= many - 0.1 * (program - fixed) - 1e-9).all()


def test_pools_products_and_smooth_functions_gain_too():
    torch.manual_seed(0)
    model, x = Pool().double(), torch.rand(2, 1, 4, 4, dtype=DOUBLE)
    plain = ad.certify(model, 0.3).lower_bound(x, rows())
    best = ad.certify(model, 0.3, optimize=20).lower_bound(x, rows())
    assert (best >= plain - 1e-12).all()
    assert (best - plain).mean() > 0.01 * plain.abs().mean()
    noise = 0.6 * torch.rand(200, *x.shape, dtype=DOUBLE) - 0.3
    found = torch.stack([values(model, x + d) for d in noise])
    assert (found >= best - 1e-9).all()


def test_gradients_are_those_at_the_planes_that_were_found():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    x = torch.rand(2, 3, dtype=DOUBLE)
    net = ad.certify(model, 0.3, optimize=60)  # one hidden layer: the best planes are corners

    def total():
        return net.margins(x, [0, 1]).sum()

    weight = model[0].weight
    (slope,) = torch.autograd.grad(total(), weight)
    step = 1e-6
    for place in ((0, 0), (3, 1), (5, 2)):
        with torch.no_grad():
            weight[place] += step
            up = total()
            weight[place] -= 2 * step
            down = total()
            weight[place] += step
        torch.testing.assert_close(slope[place], (up - down) / (2 * step), rtol=1e-3, atol=1e-5)
    tight = ad.certify(model, 0.3, optimize=60, memory="16MiB")
    (again,) = torch.autograd.grad(tight.margins(x, [0, 1]).sum(), weight)
    torch.testing.assert_close(again, slope)


def test_what_is_verified_without_steps_takes_none():
    model, shape = random_convnet(1)
    torch.manual_seed(1)
    x = torch.rand(6, *shape, dtype=DOUBLE)
    plain = ad.certify(model, 0.2)(x)
    best = ad.certify(model, 0.2, optimize=10)(x)
    done = plain.verified
    assert torch.equal(best.margins[done], plain.margins[done])
    assert (best.margins[~done] >= plain.margins[~done] - 1e-12).all()
    assert best.verified.sum() >= done.sum()
    alone = [ad.certify(model, 0.2, optimize=10)(x[i : i + 1]).margins for i in range(6)]
    torch.testing.assert_close(torch.cat(alone), best.margins)


def test_the_same_in_chunks_and_for_intervals():
    model, shape = random_convnet(2)
    torch.manual_seed(2)
    x = torch.rand(4, *shape, dtype=DOUBLE)
    whole = ad.certify(model, 0.3, optimize=4)
    box, plain = whole.bounds(x), ad.certify(model, 0.3).bounds(x)
    assert (box.lower >= plain.lower - 1e-12).all()
    assert (box.upper <= plain.upper + 1e-12).all()
    assert (box.upper - box.lower).sum() < (plain.upper - plain.lower).sum() - 1e-6
    ends = whole.lower_bound(x, rows()[:6])
    torch.testing.assert_close(ends[:, :3], box.lower)
    torch.testing.assert_close(-ends[:, 3:], box.upper)


def test_radius_grows():
    model, shape = random_convnet(3)
    torch.manual_seed(3)
    x = torch.rand(4, *shape, dtype=DOUBLE)
    plain = ad.certify(model, 0.1).radius(x)
    best = ad.certify(model, 0.1, optimize=10).radius(x)
    assert (best >= plain - 1e-3 * plain).all()
    assert (best > plain).any()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"optimize": -1}, "0 or more"),
        ({"optimize": 1.5}, "0 or more"),
        ({"optimize": 5, "bounds": "ibp"}, "dual networks"),
        ({"optimize": 5, "estimator": ad.Cauchy(10)}, "exact sums"),
        ({"optimize": 5, "compile": True}, "exact sums"),
    ],
)
def test_what_cannot_be_is_refused(options, said):
    with pytest.raises(InputError, match=said):
        ad.certify(nn.Linear(2, 2), 0.1, **options)
    with pytest.raises(InputError, match="inside"):
        ad.Steps(5, -2)


def test_it_is_said_and_not_written_as_a_line():
    net = ad.certify(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), 0.1, optimize=ad.Steps(7, 3))
    assert "optimize=Steps(last=7, inside=3)" in repr(net)
    with pytest.raises(InputError, match="optimize"):
        net.emit(torch.zeros(1, 2))
    assert np.isfinite(net.bounds(torch.zeros(1, 2)).lower.detach().numpy()).all()


def test_a_forecast_says_that_it_is_of_one_pass():
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.rand(2, 3)
    said = str(ad.certify(model, 0.1, optimize=8).explain(x))
    assert "one pass; each of the Steps(last=8, inside=4) takes about three" in said
    assert "Steps" not in str(ad.certify(model, 0.1).explain(x))


@pytest.mark.parametrize("taken", [0, 1, 4])
def test_rows_go_on_when_others_leave(taken):
    model, x = random_mlp(3, (6, 30, 30, 3)), torch.rand(2, 6, dtype=DOUBLE)
    net = ad.certify(model, 0.3)
    network = net.relax(x).networks[0]
    C, owner = rows().expand(2, -1, -1).flatten(0, 1), torch.arange(2).repeat_interleave(8)
    output = net.graph.output
    whole = Specs({output: C.reshape(-1, *output.size(1))}, owner, span=None)
    left = torch.tensor([13, 2, 7, 8])
    climbs = [Climb(network, whole.rows(x), 8) for _ in range(2)]
    for _ in range(taken):
        climbs[1].step()
    if taken == 0:
        climbs[1] = Climb(network, whole.take(left).rows(x), 8)
    else:
        climbs[1].reduced(whole.take(left).rows(x), left)
    full, some = (climb.all().best for climb in climbs)
    torch.testing.assert_close(some, full[left], rtol=1e-9, atol=1e-12)
