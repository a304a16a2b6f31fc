"""Margins that tell nothing are said to, and from which node on intervals are to blame."""

import pytest
import torch
from torch import nn

import autodual as ad
from autodual.bound import widening
from autodual.bound.module import BoundModule
from autodual.errors import Interrupted


class Inverse(nn.Module):
    """Divides by what may be 0, where x is 0 itself."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x):
        z = torch.relu(self.first(x)) + 0.5
        q = torch.reciprocal(x[:, :1] + 1)
        return self.last(z * q)


def deep(width=40, depth=12):
    torch.manual_seed(0)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(width, 3)), torch.rand(2, width)


def test_a_vacuous_bound_is_called_so():
    model, x = deep()
    loose = ad.certify(model, torch.tensor([1e9, 1e-6]), bounds="ibp")(x)
    assert "vacuous for 1 of 2 examples" in str(loose)
    assert "in example 0 the set itself is as wide" in str(loose)
    assert not ad.certify(model, 1e-6)(x).remarks


def test_the_first_node_with_intervals_that_wide_is_named():
    model, x = deep(depth=40)
    model.requires_grad_(False)
    for layer in model[::2]:
        layer.weight.mul_(3)
    z, wide = x, None
    net = ad.certify(model, 0.5, bounds="ibp")
    said = net(x).remarks[-1]
    boxes, least = net.relax(x[:1]).boxes, float(model(x[:1]).abs().max())
    for i, layer in enumerate(model):
        z = layer(z)
        if i % 2 == 0 and i < len(model) - 1:
            box = list(boxes.values())[i // 2]
            limit = 1e6 * max(least, float(z[:1].abs().max()))
            if wide is None and float((box.upper - box.lower).max()) > limit:
                wide = i
    assert wide is not None
    assert "vacuous for 2 of 2" in said
    named = [f"(in module '{i}')" in said for i in range(len(model))]
    assert named.index(True) in (wide, wide - 1)  # or the ReLU's before it, from 0 on
    assert "aten." in said


@pytest.mark.parametrize(
    "ask",
    [
        lambda net, x: net(x),
        lambda net, x: net.within(x, 1.0),
        lambda net, x: net.holds(x, ad.All(torch.eye(3), -9.0)),
    ],
    ids=["net", "within", "holds"],
)
@pytest.mark.parametrize("eps", [ad.LinfBall(2.0), ad.Union(ad.LinfBall(0.01), ad.L2Ball(2.0))])
def test_infinite_margins_are_vacuous_too(ask, eps):
    torch.manual_seed(0)
    found = ask(ad.certify(Inverse(), eps), torch.rand(3, 3))
    assert bool((found.margins == -torch.inf).any())
    (said,) = found.remarks
    assert "vacuous for 3 of 3 examples" in said
    assert "in example 0 intervals are infinite from aten.reciprocal.default at " in said
    assert f"{__file__}:" in said
    assert "q = torch.reciprocal" in said
    assert " on, by interval arithmetic alone; take a smaller" in said


class Late(nn.Module):
    """Wide early on; at the end it divides by 1 + a, or by 1 + a − a, which only rows see is 1."""

    def __init__(self, less):
        super().__init__()
        self.wide, self.twice, self.one = nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(2, 1)
        with torch.no_grad():
            self.wide.weight.mul_(1e9)
            self.twice.weight[1] = self.twice.weight[0]
            self.twice.bias.zero_()
            self.one.weight.copy_(torch.tensor([[1.0, -less]]))
            self.one.bias.fill_(1.0)

    def forward(self, x):
        z, d = torch.relu(self.wide(x)), self.one(self.twice(x))
        return torch.cat([z, torch.reciprocal(d)], 1)


@pytest.mark.parametrize(
    ("less", "bounds", "named"),
    [
        (0.0, "ibp", "infinite from aten.reciprocal.default"),
        (0.0, "ibp&dual", "infinite from aten.reciprocal.default"),
        (1.0, "ibp", "infinite from aten.reciprocal.default"),
        (1.0, "ibp&dual", "as wide from aten.linear.default"),
    ],
)
def test_infinite_margins_are_blamed_on_the_infinite_and_finite_ones_on_the_wide(
    less, bounds, named
):
    torch.manual_seed(0)
    (said,) = ad.certify(Late(less), 1e3, bounds=bounds)(torch.zeros(1, 3)).remarks
    assert f"in example 0 intervals are {named}" in said


def test_no_row_is_sent_for_a_remark(monkeypatch):
    model, x = deep(width=10, depth=3)
    for layer in model[::2]:
        layer.weight.data.mul_(300)
    look, looked = widening.widened, []

    def widened(*args):
        with monkeypatch.context() as inside:
            inside.setattr(BoundModule, "_made", None)
            looked.append(look(*args))
        return looked[-1]

    monkeypatch.setattr("autodual.answers.widened", widened)
    found = ad.certify(model, 1e5, optimize=2)(x)
    (said,) = looked
    assert "intervals are as wide from aten." in said
    assert said in found.remarks[-1]


def test_outputs_that_are_no_numbers_are_not_called_vacuous():
    model, x = deep(4, 1)
    model[0].weight.data.abs_().mul_(9)
    x[0] = torch.finfo(x.dtype).max
    assert not bool(model(x)[0].isfinite().all())
    assert not ad.certify(model, 1e-6)(x).remarks


def test_nothing_is_looked_for_where_nothing_is_vacuous(monkeypatch):
    model, x = deep(4, 2)
    monkeypatch.setattr("autodual.answers.widened", None)
    assert not ad.certify(model, 0.1)(x).remarks


def test_it_draws_no_random_numbers():
    torch.manual_seed(0)
    model, x = Inverse(), torch.rand(3, 3)
    states = []
    for eps in (2.0, 1e-3):
        torch.manual_seed(1)
        ad.certify(model, eps)(x)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_ctrl_c_while_it_is_looked_for_loses_nothing(monkeypatch):
    torch.manual_seed(0)
    model, x = Inverse(), torch.rand(3, 3)
    whole = ad.certify(model, 2.0)(x)

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(widening, "run_nodes", interrupted)
    with pytest.raises(Interrupted, match="every example is finished") as caught:
        ad.certify(model, 2.0)(x)
    assert torch.equal(caught.value.partial.margins, whole.margins)


def test_what_ctrl_c_kept_from_being_reached_is_not_called_vacuous(monkeypatch):
    model, x = deep(4, 2)
    monkeypatch.setattr("autodual.bound.module.PART", 1.0)
    relax, calls = BoundModule.relax, []

    def interrupted(self, *args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return relax(self, *args, **options)

    monkeypatch.setattr(BoundModule, "relax", interrupted)
    with pytest.raises(Interrupted) as caught:
        ad.certify(model, 0.1)(x)
    assert not caught.value.partial.remarks
