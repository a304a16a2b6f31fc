"""The kit for dual layers: where it looks, in which dtypes, and what it says of that."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given

import autodual as ad
from autodual.duals import REGISTRY, Elementwise, smooth
from autodual.errors import InputError
from autodual.testing import Case, Checked, T, Z, check_dual_layer, check_threat_model, intervals
from autodual.testing.gradients import NARROW, UNDEFINED, check_gradients
from autodual.testing.strategies import ordinary
from tests.cases.rules import CASES, rule_of
from tests.test_own_set import Attackable, draw

F64, F32 = torch.float64, torch.float32
LOG, RELU = REGISTRY["aten.log.default"], REGISTRY["aten.relu.default"]


def watched(rule, seen):
    """Return a rule that writes down the boxes it is asked about."""

    def interval(call, box):
        seen.append(box)
        return rule.interval(call, box)

    return replace(rule, interval=interval)


@pytest.mark.parametrize("reach", [(-20.0, -3.0), (0.25, 0.5), (1e4, 1e6), (-1, 1)])
def test_boxes_lie_within_reach(reach):
    seen = []
    check_dual_layer(watched(RELU, seen), "aten.relu.default", reach=reach)
    low = torch.stack([box.lower.double() for box in seen])
    high = torch.stack([box.upper.double() for box in seen])
    size = reach[1] - reach[0]
    assert reach[0] <= float(low.min()) <= reach[0] + 0.1 * size
    assert reach[1] - 0.1 * size <= float(high.max()) <= reach[1]
    assert bool((low <= high).all())


def test_strategies_take_a_range():
    (box,) = ordinary([torch.Size([500])], F64, torch.Generator().manual_seed(0), (2.0, 6.0))
    assert 2 <= float(box.lower.min()) < 2.2
    assert 5.8 < float(box.upper.max()) <= 6
    assert (box.upper - box.lower).max() <= 2


@given(box=intervals((3,), F32, (2.0, 6.0)))
def test_strategies_stay_in_their_range(box):
    assert box.lower.dtype == F32
    assert bool(((box.lower >= 2) & (box.lower <= box.upper) & (box.upper <= 6)).all())


def test_a_slip_far_from_zero_is_seen_within_reach():
    """This f bends at 100 as well, which its rule does not say."""
    f = Case(lambda z: torch.relu(z) + torch.relu(z - 100), {"z": Z((1, 3))})
    wrong = ad.duals.pieces(0.0, nondecreasing=True, argument="z")
    with pytest.raises(AssertionError, match="violated"):
        check_dual_layer(wrong, f, reach=(50.0, 150.0), shrink=False)
    assert not check_dual_layer(wrong, f, reach=(-50.0, 50.0)).apart


@pytest.mark.parametrize("dtypes", [(F64,), [F32], (F64, F32), (F32, F64), F64])
def test_dtypes_are_those_asked_for(dtypes):
    seen = []
    found = check_dual_layer(watched(RELU, seen), "aten.relu.default", examples=6, dtypes=dtypes)
    given = dtypes if isinstance(dtypes, tuple | list) else (dtypes,)
    assert {box.lower.dtype for box in seen} == set(given)
    counts = found.tried["Fenchel's inequality"]
    assert set(counts) == set(given)
    assert counts[given[0]] == 12  # each with one of ordinary size
    assert all(counts[dtype] == 2 for dtype in given[1:])
    assert ("gradients of the lines" in found.tried) == (F64 in given)
    assert ("examples do not mix" in found.apart) == (F64 not in given)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reach": 3.0}, r"reach=3\.0 is no range: give the least and the largest"),
        ({"reach": (1.0, 1.0)}, "no range"),
        ({"reach": (2.0, 1.0)}, "no range"),
        ({"reach": (0.0, float("inf"))}, "no range"),
        ({"reach": (0.0, float("nan"))}, "no range"),
        ({"reach": ("a", "b")}, "no range"),
        ({"reach": (1, 2, 3)}, "no range"),
        ({"dtypes": ()}, r"dtypes=\(\): bounds are computed in torch.float64 and torch.float32"),
        ({"dtypes": (torch.float16,)}, "dtypes=.*torch.float16.*give one or both"),
        ({"dtypes": "float64"}, "dtypes='float64'"),
        ({"dtypes": None}, "dtypes=None"),
        ({"examples": 0}, "examples=0: give a whole number"),
        ({"examples": 2.5}, r"examples=2\.5"),
    ],
)
def test_what_makes_no_sense_is_refused(options, said):
    with pytest.raises(InputError, match=said):
        check_dual_layer(RELU, "aten.relu.default", **options)


def test_what_passed_is_told():
    found = check_dual_layer(RELU, "aten.relu.default", examples=5)
    assert isinstance(found, Checked)
    said = str(found).splitlines()
    assert said[0] == "relu.default() as two lines: 12 properties hold"
    assert said[1].split() == ["tried", "on", "float64", "float32"]
    assert "Fenchel's inequality                          10       2" in said
    assert "gradients of the lines                        1        –" in said
    assert not found.apart
    assert repr(found) == f"<Checked: {said[0]}>"


def test_what_was_not_tried_is_told_with_the_reason():
    linear = Case("aten.linear.default", {"input": Z((1, 4)), "weight": T((3, 4))})
    found = check_dual_layer(REGISTRY["aten.linear.default"], linear, examples=3)
    assert found.apart == {"the window": "the rule names none for such a call (window=)"}
    assert "5 properties hold, 1 not tried" in str(found)
    assert "not tried: the window: the rule names none" in str(found)
    product = Case("aten.matmul.default", {"self": Z((1, 2, 3)), "other": Z((1, 3, 2))})
    found = check_dual_layer(REGISTRY["aten.matmul.default"].rules[-1], product, examples=3)
    assert found.apart == {"planes enclose f": "the rule gives none"}


def test_a_domain_that_no_box_meets_is_told():
    silent = check_dual_layer(LOG, "aten.log.default", reach=(-9.0, -1.0), examples=5)
    assert "Fenchel's inequality" in silent.apart
    assert "see reach=" in str(silent)
    assert set(silent.tried) == {"examples do not mix"}
    assert "1 property holds, 11 not tried" in repr(silent)
    inside = check_dual_layer(LOG, "aten.log.default", reach=(0.1, 50.0), examples=5)
    assert not inside.apart
    assert inside.tried["Fenchel's inequality"] == {F64: 10, F32: 2}
    some = check_dual_layer(LOG, "aten.log.default")
    assert 0 < some.tried["Fenchel's inequality"][F64] <= 40


BENT = [(0.0, 50.0), (-50.0, 0.0), (-1.0, 1.0), (0.0, 1.0), (0.0, 6.0), (3.0, 9.0), (0.5, 2.0)]
"""Ranges that end where functions bend."""


@pytest.mark.long
@pytest.mark.parametrize("reach", BENT)
def test_no_gradient_is_asked_for_across_a_bend(reach):
    """A difference across the end of a range says nothing of what lies within."""
    for case in CASES:
        rule = rule_of(case)
        if isinstance(rule, Elementwise) and not rule.several:
            call, (shape,) = case.build(torch.Generator().manual_seed(0), F64)
            assert check_gradients(rule, call, shape, reach) in (None, UNDEFINED), case


def test_a_relu_keeps_every_property_where_it_begins_to_bend():
    found = check_dual_layer(RELU, "aten.relu.default", reach=(0.0, 50.0), examples=5)
    assert not found.apart


@pytest.mark.parametrize("which", ["lower", "upper"])
@pytest.mark.parametrize("share", [0.0, 0.99, -1.0])
@pytest.mark.parametrize("reach", [None, (0.0, 1e-2), (1e3, 2e3), *BENT])
def test_wrong_gradients_are_caught_at_the_ends_of_a_range_too(reach, share, which):
    """What one end moves is off by a share, though every number is right."""

    def lines(call, box, slope):
        end = getattr(box, which)
        moved = end.detach() + share * (end - end.detach())
        return square.lines(call, replace(box, **{which: moved}), slope)

    square = REGISTRY["aten.pow.Tensor_Scalar"].rules[0]  # of whole exponents
    case = Case("aten.pow.Tensor_Scalar", {"self": Z((1, 2, 3)), "exponent": 2})
    with pytest.raises(AssertionError, match=r"differentiate like .* ℓ = .* gradient = "):
        check_dual_layer(replace(square, lines=lines), case, reach=reach, examples=1, shrink=False)


def test_a_range_too_narrow_for_differences_is_told():
    found = check_dual_layer(RELU, "aten.relu.default", reach=(1.0, 1.0 + 1e-9), examples=3)
    assert found.apart == {"gradients of the lines": NARROW}


def test_lines_beside_those_chosen_are_counted_by_examples():
    for op in ("aten.relu.default", "aten.tanh.default", "aten.hardtanh.default"):
        found = check_dual_layer(REGISTRY[op], op, examples=4)
        counts = found.tried["lines enclose f: lines beside those chosen"]
        assert counts == found.tried["Fenchel's inequality"]
    silent = replace(RELU, beside=lambda call, box, chosen: [])
    found = check_dual_layer(silent, "aten.relu.default", examples=4)
    assert found.apart == {"lines enclose f: lines beside those chosen": "the rule gives none"}


def low_precision(change):
    """Return a ReLU whose lines are changed in float32 alone."""

    def lines(call, box, slope):
        found = RELU.lines(call, box, slope)
        return change(found) if box.lower.dtype == F32 else found

    return replace(RELU, lines=lines)


def test_a_failure_that_is_rounding_says_so():
    """These lines are wrong in float32 alone."""
    wrong = low_precision(lambda found: found.map(lambda t: t - 1e-3))
    with pytest.raises(AssertionError, match=r"float32: .*holds in float64: it is rounding"):
        check_dual_layer(wrong, "aten.relu.default", examples=4, shrink=False)


def test_a_failure_in_both_is_not_called_rounding():
    wrong = smooth(lambda z: torch.cosh(z) ** -2, (1.0,), range=(-1.0, 1.0))
    with pytest.raises(AssertionError, match="float32: ") as said:
        check_dual_layer(wrong, "aten.tanh.default", dtypes=(F32,), shrink=False)
    assert "rounding" not in str(said.value)


def test_rounding_is_judged_by_the_very_same_numbers():
    """The weight in float64 is the one that float32 had, not the one that was drawn before."""
    rule, seen = REGISTRY["aten.linear.default"], {}

    def transpose(call, nu, shapes):
        seen[nu.dtype] = call["weight"]
        pulled = rule.transpose(call, nu, shapes)
        return [1.01 * p for p in pulled] if nu.dtype == F32 else pulled

    case = Case("aten.linear.default", {"input": Z((1, 4)), "weight": T((3, 4))})
    with pytest.raises(AssertionError, match="it is rounding"):
        check_dual_layer(replace(rule, transpose=transpose), case, dtypes=(F32,), shrink=False)
    assert seen[F64].dtype == F64
    assert torch.equal(seen[F64], seen[F32].double())


def test_the_kit_for_sets_tells_the_same():
    x, axes, eps = draw()
    found = check_threat_model(Attackable(axes, eps), x, rows=7)
    assert isinstance(found, Checked)
    assert found.tried["select"] == {F64: len(x)}
    assert found.tried["maximizer"] == {F64: 7 * len(x)}
    upper = check_threat_model(ad.Box(x - 0.1, x + 0.2), x, rows=7, exact=False, reach=100.0)
    assert upper.apart == {
        "deviation is homogeneous and convex": "exact=False",
        "polyhedron": "the set has none",
        "reversed": "the set does not say where a point came from",
    }
    for options in ({"rows": 0}, {"reach": 0.0}, {"reach": float("inf")}):
        with pytest.raises(InputError, match="rows and reach are positive"):
            check_threat_model(ad.LinfBall(0.1), x, **options)
    with pytest.raises(InputError, match=r"give x\.double\(\)"):
        check_threat_model(ad.LinfBall(0.1), x.float())
