"""Perturbed weights: one copy for each example, which torch.vmap hands to the layer."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import autodual as ad
from autodual import errors
from autodual.bound.plan import METHODS
from autodual.front.passes.own_weights import windows


class Weighed(nn.Module):
    """A network as a function of its input and of one of its parameters."""

    def __init__(self, net, name):
        super().__init__()
        self.net, self.name = net, name

    def forward(self, x, weight):
        return torch.vmap(self.one)(x, weight)

    def one(self, x, weight):
        return torch.func.functional_call(self.net, {self.name: weight}, (x[None],))[0]


def convolutional(*kernel, conv=nn.Conv2d, **options):
    return lambda: nn.Sequential(conv(2, 4, kernel, **options), nn.ReLU(), nn.Flatten())


NETS = {
    "linear": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)),
        "0.weight",
        (3,),
    ),
    "bias": (lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), "0.bias", (3,)),
    "1d": (convolutional(2, conv=nn.Conv1d, dilation=2, groups=2), "0.weight", (2, 5)),
    "2d": (convolutional(2, 3, stride=(2, 1), padding=(1, 0)), "0.weight", (2, 3, 4)),
    "3d": (convolutional(2, 1, 2, conv=nn.Conv3d), "0.weight", (2, 2, 2, 3)),
}


def build(name):
    torch.manual_seed(0)
    make, parameter, shape = NETS[name]
    model = Weighed(make().double(), parameter)
    weight = model.net.get_parameter(parameter).detach()
    x = torch.randn(3, *shape, dtype=torch.float64)
    return model, x, weight.expand(3, *weight.shape)


@pytest.mark.parametrize("name", NETS)
def test_no_weight_in_the_ball_beats_the_bound(name):
    model, x, weight = build(name)
    noise = 2 * torch.rand(200, *weight.shape, dtype=x.dtype) - 1
    tried = weight + 0.1 * torch.cat([noise, noise.sign()])
    with torch.no_grad():
        z = model(x.expand(400, *x.shape).flatten(0, 1), tried.flatten(0, 1)).unflatten(0, (-1, 3))
        for method in METHODS:
            net = ad.certify(model, 0.1, perturb="weight", bounds=method)
            box = net.bounds(ad.Inputs(x, weight=weight))
            assert bool(((box.lower <= z + 1e-9) & (z <= box.upper + 1e-9)).all()), method
            width = (box.upper - box.lower) / (z.amax(0) - z.amin(0) + 1e-3)
            assert float(width.median()) < 3, method


def test_one_layer_is_exact():
    x, weight = torch.randn(2, 3), torch.randn(4, 3).expand(2, 4, 3)
    model = Weighed(nn.Linear(3, 4), "weight")
    box = ad.certify(model, 0.1, perturb="weight").bounds(ad.Inputs(x, weight=weight))
    reach = (0.1 * x.abs().sum(1, keepdim=True)).expand(2, 4)
    torch.testing.assert_close((box.upper - box.lower) / 2, reach)


class Both(nn.Module):
    def forward(self, z):
        x, weight = z[:, :8].view(-1, 2, 2, 2), z[:, 8:].view(-1, 3, 2, 2, 1)
        return torch.vmap(lambda x, w: F.conv2d(x[None], w)[0])(x, weight).flatten(1)


def test_input_and_weight_may_both_move():
    z = torch.randn(2, 20, dtype=torch.float64)
    noise = torch.rand(300, 2, 20, dtype=z.dtype) * 0.4 - 0.2
    with torch.no_grad():
        found = Both()((z + noise).flatten(0, 1)).unflatten(0, (-1, 2))
        for method in METHODS:
            box = ad.certify(Both(), 0.2, bounds=method).bounds(z)
            assert bool(((box.lower <= found) & (found <= box.upper)).all()), method


def test_input_and_weight_may_each_have_a_set():
    model, x, weight = build("1d")
    sets = {"x": ad.L2Ball(0.2), "weight": 0.1}
    noise = 0.2 * torch.rand(300, *weight.shape, dtype=x.dtype) - 0.1
    one = ad.L2Ball(0.2).random_start(x.expand(300, *x.shape).flatten(0, 1))
    with torch.no_grad():
        z = model(one, (weight + noise).flatten(0, 1)).unflatten(0, (-1, 3))
        for method in METHODS:
            box = ad.certify(model, sets, bounds=method).bounds(ad.Inputs(x, weight=weight))
            assert bool(((box.lower <= z) & (z <= box.upper)).all()), method


def test_windows():
    index, places = windows((5, 7), (2, 3), (2, 1), (3, 2))
    image = torch.randn(1, 1, 5, 7)
    found = image.flatten()[index].unsqueeze(0)
    assert torch.equal(found, F.unfold(image, (2, 3), dilation=(3, 2), stride=(2, 1)))
    assert places == [1, 3]


class Shared(nn.Module):
    def forward(self, x, weight):
        return F.linear(x, weight)


def test_a_weight_that_all_examples_share_is_refused_with_the_way_to_go():
    x, weight = torch.randn(2, 3), torch.randn(4, 3)
    net = ad.certify(Shared(), 0.1, perturb="weight")
    with pytest.raises(errors.UnsupportedOpError, match=r"perturbed weight.*weight\.expand.*vmap"):
        net.bounds(ad.Inputs(x, weight=weight))
