"""Each property, over the whole table of cases."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autodual.duals import REGISTRY, Affine
from autodual.interval import Interval
from tests import properties
from tests.cases.rules import ACTIVATIONS, AFFINE, CASES, INTERVALS, JUMPS, PRODUCTS, SMOOTH

seeds = st.integers(0, 2**31)
few = settings(max_examples=15)


def _prepare(case, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    call, shapes = case.build(generator, dtype)
    return case.rule, call, shapes, generator


def test_every_rule_has_a_case():
    assert {case.op for case in CASES} == set(REGISTRY)


def test_the_cases_say_what_is_affine():
    assert all(isinstance(c.rule, Affine) == (c in AFFINE) for c in CASES)


@pytest.mark.parametrize("case", AFFINE + ACTIVATIONS + PRODUCTS + INTERVALS, ids=str)
@given(seed=seeds)
@few
def test_fenchel_inequality(case, seed):
    properties.check_fenchel(*_prepare(case, seed))


@pytest.mark.parametrize("case", AFFINE + ACTIVATIONS + PRODUCTS + INTERVALS, ids=str)
@given(seed=seeds)
@settings(max_examples=5)
def test_fenchel_inequality_in_float32(case, seed):
    properties.check_fenchel(*_prepare(case, seed, torch.float32), dtype=torch.float32)


@pytest.mark.parametrize("case", AFFINE + ACTIVATIONS + PRODUCTS + INTERVALS, ids=str)
@given(seed=seeds)
@few
def test_interval_contains_image(case, seed):
    properties.check_interval(*_prepare(case, seed))


@pytest.mark.parametrize("case", AFFINE, ids=str)
@given(seed=seeds)
@settings(max_examples=5)
def test_adjoint(case, seed):
    properties.check_adjoint(*_prepare(case, seed))


@pytest.mark.parametrize("case", AFFINE, ids=str)
@given(seed=seeds)
@settings(max_examples=5)
def test_window_and_linear_part(case, seed):
    properties.check_window(*_prepare(case, seed))
    properties.check_linear_part(*_prepare(case, seed))


def test_windows_are_tried():
    """The cases above do reach each op that claims windows."""
    claimed = {
        case.op
        for case in AFFINE
        for rule, call, shapes, _ in [_prepare(case, 0)]
        if rule.window(call) is not None and all(len(shape) == 4 for shape in shapes)
    }
    ops = ("convolution", "add.Tensor", "sub.Tensor", "mul.Tensor", "avg_pool2d", "cat")
    assert all(any(op in name for name in claimed) for op in ops), claimed


@pytest.mark.parametrize("case", ACTIVATIONS + PRODUCTS, ids=str)
@given(seed=seeds)
@few
def test_exact_at_a_point(case, seed):
    properties.check_point(*_prepare(case, seed))


@pytest.mark.parametrize("case", ACTIVATIONS, ids=str)
@given(seed=seeds)
@few
def test_any_given_slope_is_sound(case, seed):
    properties.check_given_slope(*_prepare(case, seed))


@pytest.mark.parametrize("case", ACTIVATIONS, ids=str)
def test_gradients_of_lines(case):
    """Slopes and intercepts differentiate like their finite differences, away from the bends."""
    rule, call, shapes, _ = _prepare(case, 0)
    lower = torch.tensor([-3.3, -0.7, 0.27, 1.3, -8.0], dtype=torch.float64, requires_grad=True)
    width = torch.tensor([9.7, 0.9, 0.11, 0.5, 3.1], dtype=torch.float64, requires_grad=True)

    def lines(low, w):
        from autodual.interval import Interval

        boxes = [Interval(low.roll(i), (low + w).roll(i)) for i in range(len(shapes))]
        found = rule.lines(call, *boxes, None)
        return *found.lower_slopes, found.lower_intercept, found.upper_intercept

    assert torch.autograd.gradcheck(lines, (lower, width))


def test_hardtanh_slope_is_the_corrected_one():
    """Equation 3.62 with slope 2/(1 + max(u, −ℓ)) and |h| = |(1 − slope) ν|."""
    case = next(c for c in ACTIVATIONS if c.op == "aten.hardtanh.default")
    rule, call, _, _ = _prepare(case, 0)
    from autodual.interval import Interval

    box = Interval(torch.tensor([-3.0]).double(), torch.tensor([2.0]).double())
    lines = rule.lines(call, box, None)
    torch.testing.assert_close(lines.lower_slope, torch.tensor([0.5]).double())
    torch.testing.assert_close(lines.upper_intercept, torch.tensor([0.5]).double())
    torch.testing.assert_close(lines.lower_intercept, torch.tensor([-0.5]).double())


@pytest.mark.parametrize("case", JUMPS + SMOOTH, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_lines_and_interval_enclose(case, dtype):
    for seed in range(4):
        rule, call, shapes, generator = _prepare(case, seed, dtype)
        box = properties.random_box(shapes[0], generator, dtype)
        if seed % 2:  # inside the domain of logarithms and roots
            box = Interval(box.lower.abs(), box.lower.abs() + box.upper - box.lower)
        given = torch.randn(shapes[0], generator=generator, dtype=dtype)
        image = rule.interval(call, box)
        for lines in (rule.lines(call, box, None), rule.lines(call, box, given)):
            for z in properties.points(box, generator):
                value, ends = call(z), lines.at(z)
                slack = 1e-10 if dtype == torch.float64 else 1e-5
                slack = slack * (1 + value.abs() + (z * lines.lower_slope).abs())
                outside = value.isnan() | value.isinf()
                for low, high in ((ends.lower, ends.upper), (image.lower, image.upper)):
                    inside = (low - slack <= value) & (value <= high + slack)
                    assert bool((inside | outside).all()), case
