"""Ops of which only intervals are kept: allowed on request, refused without, sound."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import autodual as ad
from autodual import errors
from autodual.duals import IntervalRule
from tests.zoo import Net

STEPS = {
    "round": torch.round,
    "tenths": lambda z: torch.round(z, decimals=1),
    "floor": torch.floor,
    "ceil": torch.ceil,
    "trunc": torch.trunc,
    "sign": torch.sign,
    "sort": lambda z: z.sort(dim=1, descending=True).values,
    "topk": lambda z: z.topk(4, dim=1).values,
}


def net_with(step):
    torch.manual_seed(0)
    parts = {"a": nn.Linear(3, 4), "b": nn.Linear(4, 4), "c": nn.Linear(4, 2)}
    return Net(lambda net, x: net.c(net.b(step(3 * net.a(x)) + net.a(x)).relu()), **parts).double()


NETS = {name: net_with(step) for name, step in STEPS.items()}
"""Captured once each, for all examples."""


@pytest.mark.parametrize("name", STEPS)
@given(seed=st.integers(0, 10**6), eps=st.sampled_from([0.0, 1e-3, 0.1, 1.0]))
@settings(max_examples=6)
def test_bounds_hold(name, seed, eps):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    moved = 2 * torch.rand(200, 2, 3, generator=generator, dtype=torch.float64) - 1
    moved[::2] = moved[::2].sign()
    z = NETS[name]((x + eps * moved).flatten(0, 1)).unflatten(0, (200, 2))
    for method in ("ibp", "ibp+dual", "dual", "ibp&dual"):
        box = ad.certify(NETS[name], eps, bounds=method, intervals=True).bounds(x)
        assert bool((box.lower <= z + 1e-9).all()), method
        assert bool((box.upper >= z - 1e-9).all()), method
        assert bool(torch.isfinite(box.upper - box.lower).all()), method


def test_without_permission_the_error_names_it():
    x = torch.rand(2, 3, dtype=torch.float64)
    for name, model in NETS.items():
        if name == "sign":  # two steps, which have a dual layer
            continue
        with pytest.raises(errors.UnsupportedOpError, match=r"only an interval.*intervals=True"):
            ad.certify(model, 0.1).bounds(x)


def test_the_report_says_that_only_an_interval_is_kept():
    x = torch.rand(2, 3, dtype=torch.float64)
    allowed = ad.coverage(NETS["round"], x, intervals=True)
    assert allowed.complete
    assert [row.op for row in allowed.rows if row.tightness == "interval"] == ["aten.round.default"]
    (row,) = ad.coverage(NETS["round"], x).missing
    assert "intervals=True" in row.note


def test_a_step_inside_one_piece_is_exact():
    x = torch.tensor([[0.3, 0.6, 0.9]], dtype=torch.float64)
    model = Net(lambda net, x: torch.floor(3 * x) + 0 * x).double()
    box = ad.certify(model, 0.02, intervals=True).bounds(x)
    assert box.lower.tolist() == box.upper.tolist() == [[0.0, 1.0, 2.0]]


def test_a_rule_of_ones_own():
    """log-gamma falls up to its minimum at 1.4616… and rises from there."""

    def interval(call, box):
        lowest = torch.full_like(box.lower, 1.4616321449683623).clamp(box.lower, box.upper)
        return ad.Interval(call(lowest), torch.maximum(call(box.lower), call(box.upper)))

    model = Net(lambda net, x: net.a(torch.lgamma(x + 1)), a=nn.Linear(3, 2)).double()
    rules = {"aten.lgamma.default": IntervalRule(interval)}
    x = torch.rand(2, 3, dtype=torch.float64)
    box = ad.certify(model, 0.3, rules=rules, intervals=True).bounds(x)
    for _ in range(100):
        z = model(x + 0.6 * torch.rand_like(x) - 0.3)
        assert bool(((box.lower <= z) & (z <= box.upper)).all())


def test_columns_and_samples_know_of_what_intervals_bring_in():
    """Forward order equals backward order; certificates of high probability stay below it."""
    model, x = NETS["round"], torch.randn(3, 3, dtype=torch.float64)
    C = torch.eye(2, dtype=torch.float64)

    def bound(**options):
        with torch.no_grad():
            return ad.certify(model, 0.3, intervals=True, bounds="dual", **options).lower_bound(
                x, C
            )

    names = ad.certify(model, 0.3, intervals=True, bounds="dual")
    names.bounds(x)
    forward = {value.name: "forward" for value in names.plan.bounded}
    torch.testing.assert_close(bound(choose=forward), bound(), rtol=1e-9, atol=1e-9)
    likely = bound(estimator=ad.Geometric(r=2000, delta=0.01))
    assert bool((likely <= bound() + 1e-9).all())
    half = ad.certify(model, 0.3, intervals=True, estimator=ad.Cauchy(4001), bounds="dual")
    torch.testing.assert_close(
        half.margins(x, torch.tensor([0, 1, 0]))[0, 1],
        names.margins(x, torch.tensor([0, 1, 0]))[0, 1],
        rtol=0.1,
        atol=0.1,
    )
