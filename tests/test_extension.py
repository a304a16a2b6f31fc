"""Elementwise ops end to end: those the registry knows, and dual layers from outside."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import autodual as ad
from autodual.duals import smooth
from autodual.errors import InputError, UnsupportedOpError
from autodual.testing import Case, Z, check_dual_layer


@torch.library.custom_op("autodual_tests::bump", mutates_args=())
def bump(z: torch.Tensor) -> torch.Tensor:
    return torch.exp(-z * z)


@bump.register_fake
def _(z):
    return torch.empty_like(z)


bump.register_autograd(
    lambda ctx, g: -2 * ctx.saved_tensors[0] * torch.exp(-(ctx.saved_tensors[0] ** 2)) * g,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)

BEND = 0.5**0.5
BUMP = smooth(
    lambda z: -2 * z * torch.exp(-z * z), (-BEND, BEND), (0.0,), range=(0.0, 1.0), argument="z"
)


class Arsinh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return torch.asinh(z)

    @staticmethod
    def backward(ctx, g):
        return g / torch.sqrt(1 + ctx.saved_tensors[0] ** 2)


class Model(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.first, self.last, self.f = nn.Linear(3, 4), nn.Linear(4, 3), f

    def forward(self, x):
        return self.last(self.f(self.first(x)))


ASINH = smooth(lambda z: 1 / torch.sqrt(1 + z * z), (0.0,))


@pytest.mark.parametrize(
    ("f", "rules"),
    [(bump, {"autodual_tests.bump.default": BUMP}), (Arsinh.apply, {"aten.asinh.default": ASINH})],
    ids=["custom op", "autograd.Function"],
)
def test_a_rule_from_outside_serves(f, rules):
    model, x = Model(f).double(), torch.rand(2, 3, dtype=torch.float64)
    with pytest.raises(UnsupportedOpError, match=next(iter(rules))):
        ad.certify(model, 0.1)(x)
    bound = ad.certify(model, 0.1, rules=rules).bounds(x)
    for _ in range(50):
        z = model(x + 0.1 * (2 * torch.rand_like(x) - 1))
        assert bool(((bound.lower <= z) & (z <= bound.upper)).all())


def test_the_rule_of_a_custom_op_is_proved():
    check_dual_layer(BUMP, Case("autodual_tests.bump.default", {"z": Z((1, 3))}), examples=5)


def test_rules_are_given_by_name():
    with pytest.raises(InputError, match="custom_op"):
        ad.certify(Model(torch.tanh), 0.1, rules={nn.Tanh: ASINH})
    with pytest.raises(InputError, match="no dual layer"):
        ad.certify(Model(torch.tanh), 0.1, rules={"aten.tanh.default": torch.tanh})


SMOOTH = (
    F.softplus, F.gelu, F.silu, F.mish, F.elu, F.selu, F.celu, F.hardsigmoid, F.hardswish,
    F.logsigmoid, F.prelu, F.threshold, torch.abs, torch.exp, torch.square, torch.erf, torch.cos,
)  # fmt: skip


class All(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4 * len(SMOOTH), 3)
        self.slope = nn.Parameter(torch.tensor([0.2, -0.5, 1.5, 0.0]))

    def forward(self, x):
        z = 2 * self.first(x)
        more = {F.prelu: (self.slope,), F.threshold: (0.1, -0.2)}
        return self.last(torch.cat([f(z, *more.get(f, ())) for f in SMOOTH], 1))


def test_activations_stay_whole_and_are_bounded():
    model, x = All().double(), torch.rand(2, 3, dtype=torch.float64)
    points = [x + 0.3 * (2 * torch.rand_like(x) - 1) for _ in range(100)]
    for method in ("ibp", "dual"):
        for slopes in ("equal", "free"):
            net = ad.certify(model, 0.3, bounds=method, slopes=slopes)
            bound = net.bounds(x)
            assert len([n for n in net.graph.body if "linear" not in n.op]) == len(SMOOTH) + 2
            for z in map(model, points):
                assert bool(((bound.lower <= z) & (z <= bound.upper)).all())
    ad.robust_loss(ad.certify(model, 0.3, bounds="dual"), x, torch.tensor([0, 1])).backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


def test_free_slopes_need_exact_sums():
    with pytest.raises(InputError, match="free"):
        ad.certify(All(), 0.1, slopes="free", estimator=ad.Cauchy(5))
    with pytest.raises(InputError, match="slopes"):
        ad.certify(All(), 0.1, slopes="own")
