"""Dual layers from outside, for ops that the registry does not know."""

import pytest
import torch
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
