"""Cascades: later stages are asked for what earlier ones cannot certify, and learn just that."""

from functools import partial

import pytest
import torch
from torch import nn

import autodual as ad
from autodual import train
from autodual.errors import InputError, UnsoundError


def problem(count=200):
    torch.manual_seed(0)
    x = torch.rand(count, 2)
    return x, ((x[:, 0] > 0.5) ^ (x[:, 1] > 0.5)).long()


def make(stage):
    torch.manual_seed(stage)
    return nn.Sequential(nn.Linear(2, 24), nn.ReLU(), nn.Linear(24, 2))


RECIPE = train.Recipe(
    loss=train.Robust(), epochs=25, batch=20, optimizer=partial(torch.optim.Adam, lr=0.02)
)


def test_stages_certify_more_than_the_first_alone(tmp_path):
    x, y = problem()
    cascade = train.train_cascade(make, (x, y), 0.03, RECIPE, stages=3, out=tmp_path)
    assert len(cascade.nets) > 1
    first, all_ = train.Cascade(cascade.nets[:1])(x), cascade(x, batch=33)
    assert first.error(y) == pytest.approx(1 - float(_right(cascade.nets[0], x, y).double().mean()))
    assert all_.answered.sum() > first.answered.sum()
    assert all_.error(y) <= first.error(y)
    assert torch.equal(all_.stages[first.answered], first.stages[first.answered])
    assert str(all_).startswith(f"{int(all_.answered.sum())} of 200 answered: ")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"stage{i}" for i in range(len(cascade.nets))
    ]
    again = train.train_cascade(make, (x, y), 0.03, RECIPE, stages=3, out=tmp_path)
    assert torch.equal(again(x).labels, all_.labels)


def _right(net, x, y):
    found = net(x)
    return found.verified & (found.labels == y)


def test_an_answer_holds_all_over_the_set():
    x, y = problem()
    cascade = train.train_cascade(make, (x, y), 0.03, RECIPE, stages=2)
    found, ball = cascade(x), ad.LinfBall(0.03)
    for stage, net in enumerate(cascade.nets):
        mine = found.stages == stage
        for seed in range(5):
            point = ball.random_start(x, torch.Generator().manual_seed(seed))
            assert torch.equal(net.model(point).argmax(1)[mine], found.labels[mine])
    assert (found.labels[~found.answered] == -100).all()


def test_a_later_stage_learns_what_is_left():
    x, y = problem()
    seen = []

    class Counting(train.Robust):
        def __call__(self, net, x, y):
            seen.append(len(x))
            return super().__call__(net, x, y)

    recipe = train.Recipe(loss=Counting(), epochs=1, batch=20)
    cascade = train.train_cascade(make, (x, y), 0.03, recipe, stages=2)
    left = int((~cascade.nets[0](x, y).verified).sum())
    assert sum(seen) == len(x) + left


def test_what_makes_no_cascade_is_refused():
    x, y = problem(8)
    with pytest.raises(InputError, match="at least one"):
        train.Cascade([])
    with pytest.raises(InputError, match="certify"):
        train.Cascade([make(0)])
    with pytest.raises(InputError, match="stages"):
        train.train_cascade(make, (x, y), 0.1, RECIPE, stages=0)
    noisy = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).train()
    with pytest.raises(UnsoundError):
        train.Cascade([ad.certify(noisy, 0.1)])(x)


def test_later_stages_may_have_nothing_left():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight.zero_()
    net = ad.certify(model, 0.1)
    answer = train.Cascade([net, net])(torch.rand(3, 1, 2, 2))
    assert answer.stages.tolist() == [0, 0, 0]
