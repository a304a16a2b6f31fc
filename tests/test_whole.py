"""What is captured whole is a function of its tensors; classes are put back afterwards."""

import pytest
import torch
from torch import nn

import autodual as ad
from autodual.duals import Affine, smooth
from autodual.errors import CaptureError, InputError
from autodual.front.capture.whole import marked, name_of

IDENTITY = Affine(together=("z",), linear=True)
ASINH = smooth(lambda z: 1 / torch.sqrt(1 + z * z), (0.0,), argument="z")


class Joined(nn.Module):
    def forward(self, z):
        return torch.cat(z, 1)


class Hidden(nn.Module):
    def forward(self, z):
        return z + self.state


class Writes(nn.Module):
    def forward(self, z):
        return z.abs_()


class Same(nn.Module):
    def forward(self, z):
        return z.view(z.shape)


class Model(nn.Module):
    """Use ``f`` on the hidden values in one of several ways."""

    def __init__(self, f, use):
        super().__init__()
        self.first, self.f, self.use = nn.Linear(3, 3), f, use

    def forward(self, x):
        return self.use(self.f, self.first(x), x)


def joined(f, h, x):
    return f([h.relu(), x])


def hidden(f, h, x):
    f.state = h.relu()
    return f(h)


def written(f, h, x):
    f(h)
    return h


def result_written(f, h, x):
    f(h).abs_()
    return h


def argument_written(f, h, x):
    y = f(h)
    h.abs_()
    return y


@pytest.mark.parametrize(
    ("f", "use", "why"),
    [
        (Joined(), joined, "in a list, a dict or an attribute"),
        (Hidden(), hidden, "in a list, a dict or an attribute"),
        (Writes(), written, "changes its argument in place"),
        (Same(), result_written, "a view of its argument"),
        (Same(), argument_written, "a view of its argument"),
    ],
)
def test_what_is_no_function_of_its_arguments_is_refused(f, use, why):
    model = Model(f, use)
    with pytest.raises(CaptureError, match=why):
        ad.certify(model, 0.1, rules={type(f): IDENTITY})(torch.rand(2, 3))
    assert "forward" not in vars(f)


def test_a_view_that_nothing_changes_is_taken():
    model, x = Model(Same(), lambda f, h, x: f(h).relu() + h), torch.rand(2, 3)
    whole, parts = (ad.certify(model, 0.1, rules=rules) for rules in ({Same: IDENTITY}, {}))
    torch.testing.assert_close(whole.bounds(x).lower, parts.bounds(x).lower)


class Arsinh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        return torch.asinh(z)


class Heir(Arsinh):
    pass


@pytest.mark.parametrize("order", [(Arsinh, Heir), (Heir, Arsinh)])
def test_functions_that_inherit_forward_are_put_back(order):
    before = vars(Arsinh)["forward"]
    with marked(nn.Identity(), order) as sites:
        for f in order:
            f.apply(torch.ones(2, 3))
    assert [site.op for site in sites] == [name_of(f) for f in order]
    assert vars(Arsinh)["forward"] is before
    assert "forward" not in vars(Heir)


def test_classes_of_one_name_are_not_mixed_up():
    def make():
        class Act(nn.Module):
            def forward(self, z):
                return torch.asinh(z)

        return Act

    with pytest.raises(InputError, match="two dual layers"):
        ad.certify(nn.Identity(), 0.1, rules={make(): ASINH, make(): IDENTITY})
