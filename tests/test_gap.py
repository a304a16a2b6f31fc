"""Rungs side by side: in order, below the attack, with reasons where one does not take it."""

import pytest
import torch
from torch import nn

import autodual as ad
from autodual.errors import InputError, ModelError

from .nets import random_convnet, random_mlp
from .questions import DOUBLE


@pytest.mark.parametrize("threat", [ad.LinfBall(0.15), ad.Union(ad.L1Ball(0.4), ad.L2Ball(0.2))])
def test_rungs_rise_to_the_attack(threat):
    model, shape = random_convnet(1)
    torch.manual_seed(0)
    x = torch.rand(4, *shape, dtype=DOUBLE)
    report = ad.gap(ad.certify(model, threat), x, model(x).argmax(1))
    margins = [rung.margins for rung in report.rungs]
    assert [rung.name.split("(")[0] for rung in report.rungs] == [
        "IBP",
        "Dual",
        "Optimised",
        "LP",
        "MILP",
    ]
    for below, above in zip(margins, [*margins[1:], report.attack.margins], strict=True):
        assert (above >= below - 1e-3 * (1 + below.abs())).all()
    assert all(rung.seconds > 0 for rung in report.rungs)
    text = str(report)
    assert all(name in text for name in ("IBP()", "MILP(inside=10)", "attack", "4 examples"))
    assert "0.0%" in text


def test_what_a_rung_does_not_take_is_said_and_the_rest_is_drawn(tmp_path):
    model = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2)).double()
    x = torch.rand(3, 3, dtype=DOUBLE)
    report = ad.gap(ad.certify(model, 0.1), x)
    assert report.rungs[-1].margins is None
    assert "sigmoid" in str(report)
    report.draw().savefig(tmp_path / "gap.png")
    assert (tmp_path / "gap.png").stat().st_size > 5000


def test_time_runs_out_in_words():
    model = random_mlp(0, (6, 40, 40, 40, 3))
    x = torch.rand(2, 6, dtype=DOUBLE)
    net = ad.certify(model, 2.0)
    report = ad.gap(net, x, solvers=[ad.Dual(), ad.MILP(None)], time_limit=0.3)
    assert "stopped by the time limit" in str(report)


def test_bad_input():
    model = nn.Conv2d(1, 2, 1).double()
    with pytest.raises(ModelError, match="needs certify"):
        ad.gap(model, torch.rand(1, 1, 2, 2))
    with pytest.raises(InputError, match="one label"):
        ad.gap(ad.certify(model, 0.1), torch.rand(1, 1, 2, 2, dtype=DOUBLE))
