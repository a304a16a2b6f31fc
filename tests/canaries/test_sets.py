"""The sets, broken on purpose: against linear programs, closed forms and each other."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

import autodual as ad
from tests.canaries.canary import Canary, checks_of, must_be_noticed
from tests.nets import random_mlp
from tests.test_threat import BALLS, nearest, solve
from tests.test_wasserstein import best, cheapest, draw, reach

EPS = 0.2


@cache
def drawn():
    """Return pictures, rows, and all moves between their pixels."""
    x, nu, _ = draw(1, (1, 3, 3))
    return x, nu, reach((1, 3, 3), 5, 1)


def ball():
    return ad.Wasserstein(EPS)


def close(found, value, what):
    assert abs(float(found) - value) < 1e-8, f"{what} is {float(found)} and not {value}"


def the_support_is_the_programs():
    x, nu, moves = drawn()
    support = ball().support(x, nu)
    for i in range(2):
        flat = x[i].flatten().numpy()
        for s in range(2):
            value = best(moves, flat, nu[i, s].flatten().numpy(), EPS * flat.sum())
            close(support[i, s], value, "the support of a row")


def rows_that_are_zero_almost_everywhere_have_the_programs_support():
    """Mass comes from everywhere, also to one pixel only."""
    x, _, moves = drawn()
    unit = torch.eye(9, dtype=x.dtype).reshape(1, 9, 1, 3, 3).expand(2, 9, 1, 3, 3)
    flat = x[0].flatten().numpy()
    for eps in (EPS, 3 * EPS):  # more than the nearest pixels have
        support = ad.Wasserstein(eps).support(x, unit)
        for k in range(9):
            value = best(moves, flat, np.eye(9)[k], eps * flat.sum())
            close(support[0, k], value, "the support of a unit row")


def the_interval_is_the_programs():
    x, _, moves = drawn()
    box = ball().interval(x)
    flat = x[1].flatten().numpy()
    for k in range(9):
        unit, budget = np.eye(9)[k], EPS * flat.sum()
        close(box.upper[1].flatten()[k], best(moves, flat, unit, budget), "an upper end")
        close(box.lower[1].flatten()[k], -best(moves, flat, -unit, budget), "a lower end")


def far(point, what):
    x, _, moves = drawn()
    for one, other in zip(x, point, strict=True):
        distance = cheapest(moves, one.flatten().numpy(), other.flatten().numpy())
        assert distance <= EPS + 1e-8, f"{what} lies {distance} away, beyond {EPS}"


def the_maximizer_lies_in_the_ball():
    x, nu, _ = drawn()
    far(ball().maximizer(x, nu[:, 0]), "the maximizer")


def the_maximizer_attains_the_support():
    x, nu, _ = drawn()
    found = (ball().maximizer(x, nu[:, 0]) * nu[:, 0]).flatten(1).sum(1)
    for i in range(2):
        close(found[i], float(ball().support(x, nu)[i, 0]), "the maximizer's value")


def projections_lie_in_the_ball():
    x, nu, _ = drawn()
    far(ball().project(x, x + nu[:, 0]), "the projection")
    far(ball().sinkhorn(x, x + nu[:, 0], 1e3, 5), "Sinkhorn's point")


def nearest_point(kind):
    """Return the check that a projection is the nearest point of the set."""

    def check():
        x, nu, _ = drawn()
        flat, wild = x.flatten(1), (x + nu[:, 0]).flatten(1)
        found = BALLS[kind](0.5, (0.0, 1.0)).project(flat, wild)
        for i in range(2):
            value = nearest(kind, 0.5, flat[i].numpy(), wild[i].numpy(), np.zeros(9), np.ones(9))
            gap = abs(found[i].numpy() - value).max()
            assert gap < 1e-8, f"{kind}: the projection is {gap} off the nearest point"

    check.__name__ = f"the projection is the nearest point: {kind}"
    return check


def full_pixels_leave_the_support_above_the_programs():
    x, nu, moves = drawn()
    support = ad.Wasserstein(EPS, domain=(0.0, 1.0)).support(x, nu)
    for i in range(2):
        flat = x[i].flatten().numpy()
        for s in range(2):
            value = best(moves, flat, nu[i, s].flatten().numpy(), EPS * flat.sum(), high=1.0)
            found = float(support[i, s])
            assert found >= value - 1e-8, f"the support of a row is {found}, less than {value}"


def cut_balls_have_the_solvers_support():
    x, nu, _ = drawn()
    x, nu = x.flatten(1), nu.flatten(2)
    for kind in ("l1", "l2"):
        found = BALLS[kind](0.5, (0.0, 1.0)).support(x, nu)[0, 0]
        one, row = x[0].numpy(), nu[0, 0].numpy()
        value = row @ one + solve(kind, 0.5, one, row, np.zeros(9), np.ones(9))
        assert abs(float(found) - value) < 1e-5, f"{kind}: the support is {found}, not {value}"


def no_point_of_a_ball_beats_a_convolutions_bound():
    x = drawn()[0]
    torch.manual_seed(0)
    model = torch.nn.Conv2d(1, 2, 2, padding=1).double()
    for threat in (ad.L1Ball(0.5, (0.0, 1.0)), ad.L2Ball(0.3, (0.0, 1.0)), ball()):
        box = ad.certify(model, threat).bounds(x)
        with torch.no_grad():
            unit = torch.eye(32, dtype=x.dtype).reshape(32, 2, 4, 4)
            rows = torch.nn.functional.conv_transpose2d(unit, model.weight, padding=1)
            for row, k in zip(rows, range(32), strict=True):
                z = model(threat.maximizer(x, row.expand(2, -1, -1, -1))).flatten(1)[:, k]
                gap = (z - box.upper.flatten(1)[:, k]).max()
                assert bool(gap < 1e-9), f"{threat}: an output lies {gap} above"
                z = model(threat.maximizer(x, -row.expand(2, -1, -1, -1))).flatten(1)[:, k]
                gap = (box.lower.flatten(1)[:, k] - z).max()
                assert bool(gap < 1e-9), f"{threat}: an output lies {gap} below"


def a_union_is_its_worst_member():
    model, x, y = random_mlp(1, (9, 5, 3)), drawn()[0].flatten(1), torch.tensor([0, 1])
    members = ad.LinfBall(0.01), ad.L2Ball(0.4)
    with torch.no_grad():
        least = [ad.certify(model, member)(x, y).margins for member in members]
        found = ad.certify(model, ad.Union(*members))(x, y).margins
    gap = (found - torch.minimum(*least)).abs().max()
    assert bool(gap < 1e-12), f"a union's bound is {gap} off its worst member's"


WASSERSTEIN = "autodual.threat.wasserstein"
MOVES = "autodual.threat.transport.Moves"
NEAREST = {kind: nearest_point(kind) for kind in ("l1", "l2")}
CANARIES = {
    "budget dropped": Canary(
        f"{WASSERSTEIN}.Wasserstein.budget",
        lambda f: lambda self, x, moves: 0 * f(self, x, moves),
        the_support_is_the_programs,
        "the support of a row is",
    ),
    "rows with the wrong sign": Canary(
        "autodual.threat.freight.Freight.deviation",
        lambda f: lambda self, nu: f(self, -nu),
        the_support_is_the_programs,
        "the support of a row is",
    ),
    "mass only from where ν is not 0": Canary(
        "autodual.threat.support.Problem.gains",
        lambda f: property(lambda self: [g - torch.inf * (self.nu == 0) for g in f.func(self)]),
        rows_that_are_zero_almost_everywhere_have_the_programs_support,
        "the support of a unit row is",
    ),
    "mass that leaves a row at its end for the next": Canary(
        "autodual.threat.transport.shifts",
        lambda f: lambda offsets, cost, shape, pads: f(offsets, cost, shape, False),
        rows_that_are_zero_almost_everywhere_have_the_programs_support,
        "the support of a unit row is",
    ),
    "mass only from where a window is": Canary(
        "autodual.threat.freight.Freight.halo",
        lambda f: property(lambda self: (0, 0)),
        no_point_of_a_ball_beats_a_convolutions_bound,
        "an output lies",
    ),
    "pixels that hold less than they can": Canary(
        "autodual.threat.freight.find_prices",
        lambda f: lambda problem, high, rounded: f(problem, high.mul_(0.7), rounded),
        full_pixels_leave_the_support_above_the_programs,
        "the support of a row is .* less",
    ),
    "mass that lands a pixel off": Canary(
        f"{MOVES}.land",
        lambda f: lambda self, plan: f(self, plan).roll(1),
        the_maximizer_attains_the_support,
        "the maximizer's value is",
    ),
    "arrivals forgotten": Canary(
        f"{MOVES}.arrivals",
        lambda f: lambda self, x: tuple(0.5 * part for part in f(self, x)),
        the_interval_is_the_programs,
        "an upper end is",
    ),
    "the budget twice as large in an attack": Canary(
        f"{WASSERSTEIN}.Wasserstein.budget",
        lambda f: lambda self, x, moves: 2 * f(self, x, moves),
        the_maximizer_lies_in_the_ball,
        "the maximizer lies .* away",
    ),
    "the budget twice as large in a projection": Canary(
        f"{WASSERSTEIN}.Wasserstein.budget",
        lambda f: lambda self, x, moves: 2 * f(self, x, moves),
        projections_lie_in_the_ball,
        "the projection lies .* away",
    ),
    "ℓ1 threshold too small": Canary(
        "autodual.threat.l1._shorten",
        lambda f: lambda size, room, eps: f(size, room, 1.01 * eps),
        NEAREST["l1"],
        "l1: the projection is .* off",
    ),
    "ℓ2 step shrunk before it is cut": Canary(
        "autodual.threat.l2._shorten",
        lambda f: lambda size, room, eps: torch.minimum(f(size, room + 9, eps), room),
        NEAREST["l2"],
        "l2: the projection is .* off",
    ),
    "room on the wrong side": Canary(
        "autodual.threat.cut.Cut.deviation",
        lambda f: lambda self, nu: f(replace(self, down=self.up, up=self.down), nu),
        cut_balls_have_the_solvers_support,
        "l1: the support is",
    ),
    "ℓ2: too little is spent": Canary(
        "autodual.threat.l2.vecdot",
        lambda f: lambda a, b: f(a, b) * (1.1 if a is b else 1),
        cut_balls_have_the_solvers_support,
        "l2: the support is",
    ),
    "ℓ1: a price of its own for the budget": Canary(
        "autodual.threat.l1._priced",
        lambda f: lambda size, room, price: (f(size, room, price)[0] - 0.1 * price, 1 + price),
        cut_balls_have_the_solvers_support,
        "l1: the support is",
    ),
    "windows that see another example": Canary(
        "autodual.bound.rows.patches.Patches._pair",
        lambda f: lambda self, tensor: f(self, tensor).roll(1),
        no_point_of_a_ball_beats_a_convolutions_bound,
        "an output lies",
    ),
    "the rise read as the fall": Canary(
        "autodual.bound.travel.at_entry",
        lambda f: lambda *given: f(*given)[:1],
        no_point_of_a_ball_beats_a_convolutions_bound,
        "an output lies",
    ),
    "union of its first member": Canary(
        "autodual.threat.union.Union.members",
        lambda f: property(lambda self: self._members[:1]),
        a_union_is_its_worst_member,
        "a union's bound is .* off",
    ),
}
CHECKS = checks_of(CANARIES)


@pytest.mark.parametrize("name", CHECKS)
def test_checks_pass_on_the_unbroken_sets(name):
    CHECKS[name]()


@pytest.mark.parametrize("name", CANARIES)
def test_broken_sets_are_noticed(name, monkeypatch):
    must_be_noticed(CANARIES[name], monkeypatch)
