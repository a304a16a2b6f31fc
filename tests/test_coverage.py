"""What can be bounded is told before any bound is computed."""

import pytest
import torch
from torch import nn

import autodual as ad
from autodual import errors
from autodual.duals import Elementwise
from tests.zoo import Net

UNKNOWN = "aten.lgamma.default"


def model():
    def forward(net, x):
        return net.b(torch.digamma(net.a(x).relu()).lgamma() + torch.lgamma(x))

    return Net(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 2))


def test_every_op_is_listed_and_all_that_is_missing_at_once():
    found = ad.coverage(model(), torch.rand(2, 4))
    assert [row.op.split(".")[1] for row in found.rows] == [
        "linear", "relu", "digamma", "lgamma", "lgamma", "add", "linear",
    ]  # fmt: skip
    assert [row.tightness for row in found.rows[:3]] == ["exact", "free-slope", "missing"]
    assert not found.complete
    assert len(found.missing) == 3
    assert all("test_coverage.py:" in row.source for row in found.rows)
    text = str(found)
    assert "7 ops: 3 exact, 1 free-slope, 3 missing" in text
    assert text.count(f"missing: {UNKNOWN}: ") == 1
    assert f'rules={{"{UNKNOWN}": ...}}' in text


def test_coverage_agrees_with_certify():
    x = torch.rand(2, 4)
    with pytest.raises(errors.UnsupportedOpError, match="3 operation"):
        ad.certify(model(), 0.1)(x)
    known = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU())
    found = ad.coverage(known.eval(), x)
    assert found.complete
    assert not found.caveats
    assert ad.certify(known, 0.1).bounds(x)
    assert "BatchNorm in training" in str(ad.coverage(known.train(), x))


def test_rules_from_outside_count():
    rule = Elementwise(lambda call, box, slope: None)
    rules = {UNKNOWN: rule, "aten.digamma.default": rule}
    assert ad.coverage(model(), torch.rand(2, 4), rules=rules).complete


def test_products_have_free_slopes_and_matrix_products_have_not():
    model = Net(lambda net, x: ((x * x.exp()).unsqueeze(1) @ x.unsqueeze(2)).flatten(1))
    found = {
        row.op.split(".")[1]: row.tightness for row in ad.coverage(model, torch.rand(2, 4)).rows
    }
    assert found["mul"] == "free-slope"
    assert found.get("matmul", found.get("bmm")) == "parallel"


def test_a_near_op_is_suggested():
    rules = {"aten.digamma.default": Elementwise(lambda call, box, slope: None)}
    (row,) = ad.coverage(Net(lambda net, x: x.lgamma()), torch.rand(2, 4), rules=rules).missing
    assert row.note.startswith(
        "aten.digamma.default has a dual layer, if that would do; or add one"
    )


def test_what_is_no_missing_op_is_an_error():
    with pytest.raises(errors.BatchError, match="mixed"):
        ad.coverage(Net(lambda net, x: x - x.mean(0)), torch.rand(2, 4))
    with pytest.raises(errors.InputError, match="unsqueeze"):
        ad.coverage(model(), torch.rand(4))
    with pytest.raises(errors.ModelError, match="output='a'"):
        ad.coverage(Net(lambda net, x: {"a": x, "b": x}), torch.rand(2, 4))
