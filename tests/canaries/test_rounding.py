"""What is charged for rounding, left out on purpose."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from autodual.duals import REGISTRY, Lines
from autodual.duals.base import always
from autodual.duals.functions import WHOLE_POWER
from autodual.testing import check_dual_layer
from tests import test_rounding, test_verify_rounding
from tests.canaries.canary import Canary, checks_of, must_be_noticed, must_fail
from tests.cases.rules import CASES, name
from tests.test_rounding import (
    WAYS,
    WRONG,
    coarsely,
    computed_weights,
    filled,
    full_pixels,
    lower,
    mlp,
    networks_in_bfloat16,
    programs,
    sums_of_means,
)
from tests.test_verify_rounding import coarse_verdicts, sums_of_rows


def errors(net, eps, bounds, size=6, outputs=3, **options):
    """Return a check: bounds in arithmetic as bad as it may be hold, whichever way errors go."""

    def check():
        for seed, way in itertools.product(range(2), WAYS):
            torch.manual_seed(seed)
            model = net().double()
            x = torch.zeros(2, size).double() if eps == 1 else torch.randn(2, size).double()
            C = torch.rand(3, outputs).double()
            with pytest.MonkeyPatch.context() as patch:
                over = coarsely(patch, model, x, C, eps, bounds, way, **options)
            assert over <= 1e-12, WRONG

    check.__name__ = "_".join([net.__name__, *options])
    return check


def forgotten(distances):
    """Charge nothing for planes of which means are made."""
    return lambda gap, lost, sizes: gap


def as_solved(outward):
    """Take what a dual point proves in plain arithmetic."""

    def found(network, polytope, value, rows, duals):
        costs, nominal = polytope.question(network, {value: rows})
        each = zip(costs, nominal, duals, strict=True)
        return torch.tensor([float(v + polytope.proved(c, y)) for c, v, y in each])

    return found


def affine():
    return nn.Sequential(nn.Linear(6, 32), nn.Linear(32, 3))


def linear():
    """Rows are rounded, and about 0 nothing else."""
    return nn.Sequential(nn.Linear(6, 32, bias=False), nn.Linear(32, 3, bias=False))


def positive():
    """Rows and their sums are too small together."""
    net = nn.Linear(32, 32, bias=False)
    nn.init.uniform_(net.weight, 0, 1)
    return nn.Sequential(net)


def deep():
    """Errors of intervals add up."""
    net = mlp(6, *[16] * 8, 3)
    for layer in net[1::2]:
        nn.init.uniform_(layer.weight, 0, 2 / layer.in_features)
    return net


def bends():
    """Many lines and no sums."""
    return nn.Sequential(nn.Linear(6, 3), *[nn.LeakyReLU(0.99) for _ in range(20)])


def wrong_lines():
    """A rule whose chord lies too low: what f leaves it by is charged."""
    rule = REGISTRY["aten.relu.default"]

    def lines(call, box, slope):
        found = rule.lines(call, box, slope)
        low, high = found.lower_intercept, 0.9 * found.upper_intercept
        return Lines.parallel(found.lower_slope, low, high)

    net = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    nn.init.ones_(net[0].weight)
    nn.init.zeros_(net[0].bias)
    rules = {"aten.relu.default": replace(rule, lines=lines, free=None)}
    found = lower(net, torch.zeros(1, 1), -torch.ones(1, 1), 1.0, rounding="outward", rules=rules)
    assert float(found) <= -1, WRONG


def without(charge):
    """Charge nothing where rows meet an op's value."""
    return lambda *args: None if (c := charge(*args)) is None else replace(c, radius=0 * c.radius)


CANARIES = {
    "affine ops are free": Canary(
        "autodual.bound.outward._affine", without, errors(affine, 0.0, "dual"), WRONG
    ),
    "rows are exact": Canary(
        "autodual.bound.outward.Reached.size",
        lambda size: property(lambda self: self.reference.abs()),
        errors(linear, 1, "dual"),
        WRONG,
    ),
    "planes are free": Canary(
        "autodual.bound.outward._planes",
        lambda planes: lambda *args: 0 * planes(*args),
        errors(bends, 0.0, "ibp+dual"),
        WRONG,
    ),
    "planes hold as computed": Canary(
        "autodual.duals.elementwise.Elementwise.slack",
        lambda slack: lambda self, call, *boxes, planes: torch.zeros_like(boxes[0].lower),
        wrong_lines,
        WRONG,
    ),
    "intervals are exact": Canary(
        "autodual.bound.outward._affine_image",
        lambda image: lambda step, rule, call, boxes, batch, twice: rule.interval(call, *boxes),
        errors(deep, 0.01, "ibp"),
        WRONG,
    ),
    "planes of means are free": Canary(
        "autodual.bound.layer.distances",
        forgotten,
        errors(bends, 0.0, "ibp+dual", optimize=1),
        WRONG,
    ),
    "means are exact": Canary(
        "autodual.bound.outward.distances", forgotten, sums_of_means, "too small"
    ),
    "weights are exact": Canary(
        "autodual.bound.building.doubts",
        lambda doubts: lambda graph, env, batch: {},
        computed_weights,
        WRONG,
    ),
    "affine ops are free in a search": Canary(
        "autodual.bound.outward._affine", without, coarse_verdicts, test_verify_rounding.WRONG
    ),
    "means of rows are exact": Canary(
        "autodual.bound.relaxation.Relaxation.joined",
        lambda joined: lambda self, sizes, owner, count: torch.zeros(len(owner)),
        sums_of_rows,
        "off by more",
    ),
    "results have all digits": Canary(
        "autodual.bound.plan.OWN",
        lambda own: {**own, "bfloat16": own["deployed"]},
        networks_in_bfloat16,
        WRONG,
    ),
    "mass is exact": Canary(
        "autodual.threat.wasserstein.Wasserstein.outward",
        lambda outward: lambda self, x: self,
        filled,
        "a pixel",
    ),
    "room is exact": Canary(
        "autodual.threat.freight.summed_up",
        lambda summed_up: lambda total, count: total,
        full_pixels,
        WRONG,
    ),
    "programs are exact": Canary(
        "autodual.ladder.highs.proved_outward", as_solved, programs, WRONG
    ),
    "sums are exact": Canary(
        "autodual.bound.relaxation.Relaxation.outward",
        lambda outward: lambda self, values, fall, owner: fall,
        errors(positive, 1, "dual", 32, 32),
        WRONG,
    ),
}


@pytest.mark.parametrize("canary", CANARIES)
def test_what_is_left_out_is_noticed(canary, monkeypatch):
    must_be_noticed(CANARIES[canary], monkeypatch)


@pytest.mark.parametrize("check", checks_of(CANARIES))
def test_the_checks_pass(check):
    checks_of(CANARIES)[check]()


def untold(op, **changes):
    """Check a rule that says less than is true of how its op is rounded."""
    rule = REGISTRY[op]
    case = next(c for c in CASES if name(c) == op)
    check_dual_layer(replace(rule, **changes), case, dtypes=[torch.float32], examples=10)


def test_the_kit_notices_what_is_not_charged():
    says = "rounding is not charged"
    free = {"leaves": lambda call, box, planes, errors, floor: torch.zeros_like(box.lower)}
    must_fail(lambda: untold("aten.relu.default", **free), says)
    must_fail(lambda: untold("aten.tanh.default", **free), says)
    nothing = {"terms": lambda call, read, given: (-8, -8)}  # less than what is spare
    must_fail(lambda: untold("aten.linear.default", **nothing), says)


def test_exponents_that_a_library_rounds_are_noticed(monkeypatch):
    one_for_all = replace(WHOLE_POWER, accepts=always)
    power = {"aten.pow.Tensor_Scalar": one_for_all}
    monkeypatch.setattr(test_rounding, "REGISTRY", {**REGISTRY, **power})
    must_fail(lambda: test_rounding.test_powers_in_200_bits(torch.float32), "leaves its planes")
