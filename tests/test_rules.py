"""Every dual layer through the public kit, over the whole table of cases."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import autodual as ad
from autodual.duals import REGISTRY, Affine, Call, smooth
from autodual.duals.affine import transpose_by_vjp
from autodual.duals.base import Hole
from autodual.duals.conv import MANY, transpose_convolution
from autodual.testing import Case, Z, check_dual_layer, intervals, mutants, nets, specs
from autodual.testing.elementwise import SILENT
from tests.cases.rules import ACTIVATIONS, AFFINE, CASES, name, rule_of


def test_every_rule_has_a_case():
    assert {name(case) for case in CASES} == set(REGISTRY)


def test_the_cases_say_what_is_affine():
    assert all(isinstance(rule_of(c), Affine) == (c in AFFINE) for c in CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_dual_layer(case):
    checked = check_dual_layer(rule_of(case), case, examples=2)
    assert SILENT not in checked.apart.values(), checked


def test_windows_are_tried():
    """The cases above do reach each op that claims windows."""
    claimed = set()
    for case in AFFINE:
        call, shapes = case.build(torch.Generator(), torch.float64)
        if rule_of(case).window(call) and all(len(shape) == 4 for shape in shapes):
            claimed.add(name(case))
    ops = ("convolution", "add.Tensor", "sub.Tensor", "mul.Tensor", "avg_pool2d", "cat")
    assert all(any(op in name for name in claimed) for op in ops), claimed


MUTATED = ["relu.default", "linear.default", "mul.Tensor"]
"""Ops whose mutants run here; ``benchmarks/mutants.py`` runs those of all."""


@pytest.mark.parametrize("op", MUTATED)
def test_mutants_are_caught(op):
    cases = [case for case in CASES if name(case) == f"aten.{op}"]
    cases = [case for case in cases if type(rule_of(case)) is type(rule_of(cases[0]))]
    for what, mutant in mutants(rule_of(cases[0])).items():
        assert any(is_caught(mutant, case) for case in cases), what


def is_caught(mutant, case):
    try:
        check_dual_layer(mutant, case, examples=3, shrink=False)
    except (AssertionError, RuntimeError):
        return True
    return False


def test_a_broken_rule_is_shown_with_its_numbers():
    wrong = smooth(lambda z: torch.cosh(z) ** -2, (1.0,), range=(-1.0, 1.0))  # bends at 0
    with pytest.raises(AssertionError, match=r"tanh.default.*violated .* ℓ = .* u = "):
        check_dual_layer(wrong, "aten.tanh.default")


def test_a_function_in_one_line():
    check_dual_layer(
        smooth(lambda z: 1 / (1 + z * z), (0.0,), argument="arg0"),
        Case(lambda arg0: torch.atan(arg0), {"arg0": Z((2, 3))}),
    )


@given(box=intervals((3,)), net=nets(3, 2), spec=specs(2))
@settings(max_examples=5)
def test_strategies_serve_a_soundness_test(box, net, spec):
    x = box.center.clamp(-2, 2).unsqueeze(0)
    certified = ad.certify(net, 0.1)
    with torch.no_grad():
        bound = certified.lower_bound(x, spec)
        for _ in range(20):
            z = net(x + 0.1 * (2 * torch.rand_like(x) - 1))
            assert bool((z @ spec.mT >= bound - 1e-9 * (1 + bound.abs())).all())


def test_hardtanh_slope_is_the_corrected_one():
    """Equation 3.62 with slope 2/(1 + max(u, −ℓ)) and |h| = |(1 − slope) ν|."""
    case = next(c for c in ACTIVATIONS if c.op == "aten.hardtanh.default")
    call, _ = case.build(torch.Generator(), torch.float64)
    box = ad.Interval(torch.tensor([-3.0]).double(), torch.tensor([2.0]).double())
    lines = REGISTRY[case.op].lines(call, box, None)
    torch.testing.assert_close(lines.lower_slope, torch.tensor([0.5]).double())
    torch.testing.assert_close(lines.upper_intercept, torch.tensor([0.5]).double())
    torch.testing.assert_close(lines.lower_intercept, torch.tensor([-0.5]).double())


@given(seed=st.integers(0, 10**6), rows=st.sampled_from([1, MANY]))
@settings(max_examples=60)
def test_every_way_to_transpose_a_convolution_gives_the_same(seed, rows):
    pick, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    channels, kernel = pick.choice([1, 3, 4]), [pick.randint(1, 5), pick.randint(1, 5)]
    arguments = {
        "input": Hole(0),
        "weight": torch.randn(5, channels, *kernel, generator=generator, dtype=torch.float64),
        "bias": None,
        "stride": [pick.randint(1, 4), pick.randint(1, 4)],
        "padding": [pick.randint(0, 3), pick.randint(0, 3)],
        "dilation": pick.choice([[1, 1], [1, 1], [2, 1]]),
        "transposed": False,
        "output_padding": [0, 0],
        "groups": 1,
    }
    call = Call(torch.ops.aten.convolution.default, arguments)
    shape = torch.Size((1, channels, pick.randint(9, 12), pick.randint(9, 12)))
    size = call(torch.zeros(shape, dtype=torch.float64)).shape
    nu = torch.randn(rows, *size, generator=generator, dtype=torch.float64)
    (found,), (expected,) = (
        way(call, nu, [shape]) for way in (transpose_convolution, transpose_by_vjp)
    )
    torch.testing.assert_close(found, expected)
