"""Linear programs over the relaxed network, between optimised duals and what is true."""

import numpy as np
import pytest
import torch
from torch import nn

import autodual as ad
from autodual.errors import InputError
from autodual.solve import Linear
from autodual.solve.polytope import polytope

from . import oracles
from .nets import random_convnet, random_mlp, random_net
from .questions import DOUBLE, SETS, no_random_point_lies_below, rows, values
from .test_own_set import Ellipsoid


@pytest.mark.long
@pytest.mark.parametrize("name", SETS)
def test_no_looser_than_optimised_duals_on_the_same_planes_and_sound(name):
    gain = 0.0
    for seed in range(2 if "l2" in name else 4):
        model, shape = random_net(seed)
        torch.manual_seed(seed)
        x, threat = torch.rand(2, *shape, dtype=DOUBLE), SETS[name]
        optimised = ad.certify(model, threat, optimize=ad.Steps(30, 0)).lower_bound(x, rows())
        program = ad.certify(model, threat).lp(x, rows())
        scale = 1 + program.abs()
        # an ℓ2 ball is cut out by tangents, and by the last a little remains outside
        assert (program >= optimised - (1e-3 if "l2" in name else 1e-7) * scale).all()
        gain += float((program - optimised).detach().sum())
        no_random_point_lies_below(program, model, threat, x)
    assert gain > (-1e-3 if "l2" in name else 0)


@pytest.mark.parametrize("seed", range(5))
def test_the_program_written_from_the_formulas_is_the_same(seed):
    model = random_mlp(seed, (4, 7, 6, 3))
    torch.manual_seed(seed)
    x, eps = torch.rand(1, 4, dtype=DOUBLE), 0.3
    net = ad.certify(model, eps)
    boxes = [
        (b.lower[0].detach().numpy(), b.upper[0].detach().numpy())
        for b in net.relax(x).boxes.values()
    ]
    low, high = (x - eps)[0].numpy(), (x + eps)[0].numpy()
    weights = oracles.layers(model, (4,))
    mine = net.lp(x, rows())[0].numpy()
    theirs = oracles.optimum(weights, boxes, low, high, rows().numpy(), exact=False)
    assert (mine <= theirs + 1e-7).all()  # theirs also holds stable units to their intervals
    assert np.median(theirs - mine) <= 1e-6
    exact = oracles.optimum(weights, boxes, low, high, rows().numpy(), exact=True)
    assert (exact >= mine - 1e-7).all()


def test_every_kind_of_layer_is_in_the_program():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            u, v = self.a(x).relu(), self.b(x).sigmoid()
            rows = u.view(-1, 2, 3) @ v.view(-1, 3, 2)  # about its center
            return (
                self.c(torch.cat([u * v, u], 1).amax(1, keepdim=True) + u)
                + rows.sum((1, 2))[:, None]
            )

    torch.manual_seed(0)
    model, x = Net().double(), torch.rand(2, 4, dtype=DOUBLE)
    plain = ad.certify(model, 0.2)
    program = plain.lp(x, rows())
    assert (program >= plain.lower_bound(x, rows()) - 1e-9).all()
    assert (program > plain.lower_bound(x, rows()) + 1e-4).any()
    noise = 0.4 * torch.rand(300, 2, 4, dtype=DOUBLE) - 0.2
    found = torch.stack([values(model, x + d) for d in noise])
    assert (found >= program - 1e-9).all()


def test_any_dual_point_proves_a_bound():
    model, shape = random_convnet(0)
    torch.manual_seed(0)
    x = torch.rand(1, *shape, dtype=DOUBLE)
    network = ad.certify(model, 0.3).relax(x).travelled
    whole, output = polytope(network), list(network.layers)[-1]
    cost = whole.cost({output: rows()})[0]
    best = Linear(whole).least(cost)
    generator = np.random.default_rng(0)
    for scale in (0, 0.01, 0.1, 1):
        assert whole.proved(cost, scale * generator.random(len(whole.most))) <= best + 1e-9


def test_what_the_program_cannot_say_is_refused():
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.ReLU()), torch.rand(1, 1, 4, 4)
    own = Ellipsoid(torch.ones(1, 4, 4), torch.ones(1))
    with pytest.raises(InputError, match=r"Wasserstein balls.*not Ellipsoid.*optimize=20"):
        ad.certify(model, own).lp(x, torch.eye(3))
    with pytest.raises(InputError, match="'ibp' has no"):
        ad.certify(model, 0.1, bounds="ibp").lp(x, torch.eye(3))
