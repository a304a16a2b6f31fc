"""Nets are copied, pickled and saved, rules and all; their state is the model's."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import autodual as ad
from autodual.duals import Affine, Curve, by_curve, pieces, smooth
from autodual.errors import InputError

X, Y = torch.rand(3, 4), torch.tensor([0, 1, 2])


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.steep, self.last = nn.Linear(4, 5), Steep(), nn.Linear(5, 3)
        self.norm = nn.BatchNorm1d(5).eval()

    def forward(self, x):
        return self.last(self.norm(torch.asinh(self.steep(self.first(x))).abs()))


class Steep(nn.Module):
    def __init__(self):
        super().__init__()
        self.by = nn.Parameter(torch.tensor(2.0))

    def forward(self, z):
        return torch.atan(self.by * z)


def asinh_derivative(z):
    return 1 / torch.sqrt(1 + z * z)


def steep_curve(call):
    by = call["by"]
    return Curve(lambda z: by / (1 + (by * z) ** 2), (0.0,))


RULES = {
    "aten.asinh.default": smooth(asinh_derivative, (0.0,)),
    "aten.abs.default": pieces(0.0),
    "aten.linear.default": Affine(alone=("input",)),
    Steep: by_curve(steep_curve, argument="z"),
}


def saved(net):
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "deepcopy": copy.deepcopy,
    "torch.save": saved,
}


@pytest.mark.long
@pytest.mark.parametrize("twice", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("used", [False, True])
def test_nets_with_rules_are_copied(twice, used):
    generator = torch.Generator()
    for options in (
        {"rules": RULES},
        {"estimator": ad.Cauchy(5, generator=generator), "rules": RULES},
        {"choose": {"last": "forward"}, "rules": RULES},
    ):
        net = ad.certify(Own().eval(), ad.LinfBall(torch.full((3,), 0.1)), **options)
        if used:
            net(X, Y)
        twin = twice(net)
        assert repr(twin) == repr(net)
        assert all(a is not b for a, b in zip(twin.parameters(), net.parameters(), strict=True))
        generator.manual_seed(0)
        expected = net(X, Y)
        if "estimator" in options:
            twin.options.estimator.generator.manual_seed(0)
        torch.testing.assert_close(twin(X, Y).margins, expected.margins)
    loss = twice(ad.RobustLoss(net))
    loss(X, Y).backward()
    assert loss.net.model.first.weight.grad is not None


def test_a_rule_that_cannot_be_pickled_is_named():
    rules = {"aten.asinh.default": smooth(lambda z: 1 / torch.sqrt(1 + z * z), (0.0,))}
    net = ad.certify(Own(), 0.1, rules=RULES | rules)
    with pytest.raises(
        InputError, match=r"rules\['aten.asinh.default'\] cannot be pickled.*lambda"
    ):
        pickle.dumps(net)
    assert len(copy.deepcopy(net)(X, Y)) == 3


class Holder(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.model = net


@pytest.mark.parametrize("wrap", [lambda m: ad.certify(m, 0.1), lambda m: ad.RobustLoss(m, 0.1)])
def test_the_state_is_the_models(wrap):
    """Also where a child of the model is called "model", as it is inside the wrapper."""

    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.net = nn.Linear(4, 5), Holder(nn.Linear(5, 3))
            self.norm = nn.BatchNorm1d(5)

        def forward(self, x):
            return self.net.model(self.norm(self.model(x)))

    torch.manual_seed(0)
    model, other = Deep(), Deep()
    net, before = wrap(model), copy.deepcopy(model.state_dict())
    assert list(net.state_dict()) == list(before)
    assert net.state_dict()._metadata == before._metadata
    net.load_state_dict(other.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
    other.load_state_dict(before)
    wrap(other).load_state_dict(before)
    with pytest.raises(RuntimeError, match=r"size mismatch for model.weight"):
        net.load_state_dict(before | {"model.weight": torch.zeros(1, 1)})


@pytest.mark.parametrize("wrap", [lambda m: ad.certify(m, 0.1), lambda m: ad.RobustLoss(m, 0.1)])
def test_the_state_of_a_part_of_another_module(wrap):
    torch.manual_seed(0)
    one, two = (Holder(Holder(nn.Linear(4, 3))) for _ in range(2))
    around = Holder(wrap(one))
    assert list(around.state_dict()) == ["model.model.model.weight", "model.model.model.bias"]
    around.load_state_dict(Holder(two).state_dict())
    assert torch.equal(one.model.model.weight, two.model.model.weight)
    with pytest.raises(RuntimeError, match=r"(?s)Missing key.*Unexpected key"):
        around.load_state_dict({"model.model.wrong": torch.zeros(1)})
