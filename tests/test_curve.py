"""Accuracy against ε: what it counts, and that the truth lies between its ends."""

import pytest
import torch
from torch import nn

import autodual as ad
from autodual.errors import InputError, Interrupted


def problem():
    torch.manual_seed(0)
    x = torch.rand(30, 4)
    model = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 3))
    y = model(x).argmax(1)
    y[:3] = (y[:3] + 1) % 3
    return model, x, y


def test_the_truth_lies_between():
    model, x, y = problem()
    found = ad.accuracy_curve(model, (x, y), ad.LinfBall(0.1), batch=7)
    assert found.certified(0.0) == found.attacked(0.0) == pytest.approx(0.9)
    assert (found.lower <= found.upper).all()
    for eps in (0.01, 0.05, 0.1, 0.3):
        verdict = ad.certify(model, eps).exact(x, y)
        assert found.certified(eps) <= float(verdict.verified.double().mean()) + 1e-9
        assert float(verdict.verified.double().mean()) <= found.attacked(eps) + 1e-9
    assert found.certified(1e9) == 0
    assert "half of 30 examples are certified up to ε = " in str(found)


def test_it_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    model, x, y = problem()
    found = ad.accuracy_curve(ad.certify(model, ad.L2Ball(0.1)), (x, y))
    found.draw().savefig(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 5_000
    one = ad.accuracy_curve(ad.certify(model, ad.L2Ball(0.1)), (x[:1], y[:1]))
    assert one.certified(0.0) == 0
    one.draw()


def test_what_has_no_curve_is_refused():
    model, x, y = problem()
    with pytest.raises(InputError, match="eps"):
        ad.accuracy_curve(model, (x, y))
    with pytest.raises(InputError, match="one label"):
        ad.accuracy_curve(model, (x, torch.full_like(y, -100)), 0.1)


def test_what_is_finished_survives_an_interrupt(monkeypatch):
    model, x, y = problem()
    net, left = ad.certify(model, 0.1), [2]
    radius = type(net).radius

    def stopping(self, *args, **kwargs):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return radius(self, *args, **kwargs)

    monkeypatch.setattr(type(net), "radius", stopping)
    with pytest.raises(Interrupted) as stop:
        ad.accuracy_curve(net, (x, y), batch=10)
    assert len(stop.value.partial.lower) == 20
