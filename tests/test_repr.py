"""What objects say in a REPL: short, without addresses or every entry of a tensor."""

import pytest
import torch
from torch import nn

import autodual as ad
from autodual.brief import brief

X, Y = torch.arange(20.0).reshape(5, 4) / 20, torch.tensor([0, 1, 2, 0, 1])


class Own(ad.ThreatModel):
    per_example = ("size",)

    def __init__(self, k=3):
        self.size, self.k, self._f = torch.arange(5.0), k, nn.functional.relu
        self.options = {"a": object(), "b": torch.ones(2)}

    def center(self, x):
        return x

    def deviation(self, x, nu):
        return nu.flatten(2).abs().sum(2)


SETS = {
    "LinfBall(0.03137254901960784)": ad.LinfBall(8 / 255),
    "LinfBall(0.1, domain=(0, 1))": ad.LinfBall(0.1, (0, 1)),
    "LinfBall(0.1, domain=(tensor[4] of 0, tensor[4] from 1 to 2))": ad.LinfBall(
        0.1, (torch.zeros(4), torch.tensor([1.0, 2, 2, 1]))
    ),
    "L2Ball(tensor[5] from 0 to 4)": ad.L2Ball(torch.arange(5.0)),
    "Box(tensor[5, 4] from 0 to 0.95, tensor[5, 4] from 1 to 1.95)": ad.Box(X, X + 1),
    "Union(LinfBall(0.1), L1Ball(2.0))": ad.Union(ad.LinfBall(0.1), ad.L1Ball(2.0)),
    "Own(size=tensor[5] from 0 to 4, k=3, _f=relu, options={'a': object, 'b': tensor[2] of 1})": (
        Own()
    ),
    "Interval(lower=tensor[3] from 0 to 1, and NaN, upper=tensor[0])": ad.Interval(
        torch.tensor([0.0, 1.0, torch.nan]), torch.zeros(0)
    ),
}


def test_long_lists_are_told_by_their_first_entries():
    assert brief([0.5] * 8) == f"[{', '.join(['0.5'] * 8)}]"
    assert brief(tuple(range(10**5))) == "(0, 1, 2, 3, 4, 5, 6, 7, …)"


@pytest.mark.parametrize("said", SETS)
def test_sets(said):
    assert repr(SETS[said]) == said


def test_a_set_is_told_without_what_differs_between_its_examples():
    assert str(ad.LinfBall(torch.rand(3), (0, 1))) == "LinfBall(tensor, domain=(0, 1))"
    assert (
        str(ad.Union(ad.Box(X, X), ad.LinfBall(0.1))) == "Union(Box(tensor, tensor), LinfBall(0.1))"
    )
    assert "size=tensor, k=3" in str(Own())
    assert str(Own(1)) != str(Own(2))


def test_all_that_a_net_gives():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    net = ad.certify(model, 0.05)
    estimating = ad.certify(model, 0.05, estimator=ad.Cauchy(5, generator=torch.Generator()))
    certificate, bound = net(X, Y), net.relax(X)
    things = {
        "<Certificate: 0 of 5 verified within LinfBall(0.05)": certificate,
        "<Estimate: estimate for 5 examples, no guarantee: sums are estimated by Cauchy(r=5)": (
            estimating(X, Y)
        ),
        "LinfBall(0.05), bounds='ibp&dual'": net,
        "estimator=Cauchy(r=5)": estimating,
        "<Bound: 2 relaxed networks, intervals of linear>": bound,
        "tanh: tanh, two lines on linear": bound.networks[0],
        "linear: linear, affine, exact": bound.networks[0][net.graph.body[0].out],
        "3 ops: 2 exact, 1 free-slope": ad.coverage(model, X),
        "attack  ": ad.self_check(net, X, Y, steps=1),
        "graph(input: f32[N, 4]) -> linear_1": net.graph,
        "linear_1: f32[N, 3]": net.graph.output,
        "dual network, intervals by ibp&dual": net.program,
        "<Plan: 3 steps, intervals by ibp&dual>": net.plan,
        "predicted ms": net.explain(X),
        "Inputs(tensor[5, 4] from 0 to 0.95, scale=2)": ad.Inputs(X, scale=2),
        "<Attack: ": ad.attack.pgd(model, X, Y, 0.1, steps=1),
        "eps=LinfBall(0.1)": ad.RobustLoss(net, ad.LinfBall(0.1)),
    }
    for text, thing in things.items():
        assert text.replace("0 of 5", f"{int(certificate.verified.sum())} of 5") in repr(thing)
        assert len(repr(thing)) < 1500
        assert " at 0x" not in repr(thing)
        assert "tensor(" not in repr(thing)
