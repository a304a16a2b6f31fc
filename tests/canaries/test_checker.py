"""The checker of proofs, broken on purpose: each break makes it believe what is false."""

import numpy as np
import pytest

from tests import test_checker as checker
from tests.canaries.canary import Canary, checks_of, must_be_noticed


def halves_dropped(back):
    def broken(self, z, at, V, owner):
        return *back(self, z, at, V, owner)[:2], 0

    return broken


def error_dropped(forward):
    def broken(self, inputs, slopes):
        out = forward(self, inputs, slopes)
        out.below = out.above = 0 * out.below
        return out

    return broken


def weights_exact(init):
    def broken(self, *args):
        init(self, *args)
        self.ones = 0 * self.ones

    return broken


def exact(init):
    def broken(self, *args, floats):
        init(self, *args, floats=floats)
        self.numbers.g = 2.0**-200

    return broken


def line_dropped(forward):
    def broken(self, inputs, slopes):
        out = forward(self, inputs, slopes)
        out.above = out.above - (out.above > 0)
        return out

    return broken


def steeper(forward):
    def broken(self, inputs, slopes):
        out = forward(self, inputs, slopes)
        out.a = out.a + 2.0**-3 * ((inputs[0].lo < 0) & (inputs[0].hi > 0))
        return out

    return broken


def half_tightened(tighten):
    def broken(self, i):
        tighten(self, i)
        z = self.values[i]
        z.hi = np.where((z.lo < 0) & (z.hi > 0), z.hi // 2, z.hi)

    return broken


def downward(coarse):
    def broken(self, x, most):
        h = coarse(self, x, most)[1]
        return np.floor(x / h), h

    return broken


def free_pull(multipliers):
    def broken(self, i, at, V, owner, pull):
        kept = self.pull
        self.pull = {
            j: (where, rows, cost - np.abs(cost)) for j, (where, rows, cost) in kept.items()
        }
        try:
            return multipliers(self, i, at, V, owner, pull)
        finally:
            self.pull = kept

    return broken


def all_empty(init):
    def broken(self, proof, N, some, slopes, rows, base, cuts):
        init(self, proof, N, some, slopes, rows, base, cuts)
        self.empty |= np.isin(np.arange(len(some)), cuts[2])

    return broken


def in_the_unit_of_sets(init):
    def broken(self, proof, N, some, slopes, rows, base, cuts):
        base = [ends * (proof.numbers.unit / N.unit) for ends in base]
        init(self, proof, N, some, slopes, rows, base, cuts)

    return broken


TRUE = "above the truth"

CANARIES = {
    "roundings of an affine node's rows are free": Canary(
        "autodual_check.network.Affine.back", halves_dropped, checker.few_for_rows, TRUE
    ),
    "roundings of a ReLU's rows are free": Canary(
        "autodual_check.network.Relu.back", halves_dropped, checker.few_for_rows, TRUE
    ),
    "the error of an affine node is dropped": Canary(
        "autodual_check.network.Affine.forward", error_dropped, checker.few_for_values, TRUE
    ),
    "roundings of weights are free": Canary(
        "autodual_check.network.Affine.__init__", weights_exact, checker.few_for_weights, TRUE
    ),
    "errors cost nothing": Canary(
        "autodual_check.network.Numbers.charge",
        lambda charge: lambda *args: 0 * charge(*args),
        checker.bounds_with_all_bits_are_tight,
        TRUE,
    ),
    "floats are taken for exact": Canary(
        "autodual_check.checking.Proof.__init__", exact, checker.floats_are_rounded_outward, TRUE
    ),
    "half of the set": Canary(
        "autodual_check.checking.Bounds.support",
        lambda support: lambda *args: support(*args) // 2,
        checker.bounds_with_all_bits_are_tight,
        TRUE,
    ),
    "the upper line is a unit too low": Canary(
        "autodual_check.network.Relu.forward",
        line_dropped,
        checker.lines_enclose_the_relu,
        "a line is crossed",
    ),
    "the lower line is too steep": Canary(
        "autodual_check.network.Relu.forward",
        steeper,
        checker.lines_enclose_the_relu,
        "a line is crossed",
    ),
    "an interval is not checked": Canary(
        "autodual_check.checking.Bounds.tighten",
        half_tightened,
        checker.bounds_are_those_of_a_second_reading,
        "more than the other's",
    ),
    "errors are rounded down": Canary(
        "autodual_check.network.Numbers.coarse", downward, checker.few_for_errors, TRUE
    ),
    "what is needed is not": Canary(
        "autodual_check.checking.need",
        lambda need: lambda holds, otherwise, answer="invalid": None,
        checker.parts_cover_their_set,
        "a tree that lacks a proof",
    ),
    "claims are not compared": Canary(
        "autodual_check.checking.Proof.check",
        lambda check: lambda self: "1 sets",
        checker.claims_are_compared,
        "a claim of more",
    ),
    "multipliers cost nothing": Canary(
        "autodual_check.checking.Bounds.fall",
        free_pull,
        checker.bounds_of_parts_hold_at_their_points,
        TRUE,
    ),
    "ends of cuts cost nothing": Canary(
        "autodual_check.checking.Bounds.fall",
        free_pull,
        checker.emptiness_needs_multipliers,
        "no proof",
    ),
    "what is cut is taken for empty": Canary(
        "autodual_check.checking.Bounds.__init__",
        all_empty,
        checker.parts_cover_their_set,
        "a tree that lacks a proof",
    ),
    "what is known of sets is in another unit than what is found of parts": Canary(
        "autodual_check.checking.Bounds.__init__",
        in_the_unit_of_sets,
        checker.bounds_of_parts_hold_at_their_points,
        TRUE,
    ),
}


@pytest.mark.parametrize("name", checks_of(CANARIES))
def test_checks_hold(name):
    checks_of(CANARIES)[name]()


@pytest.mark.parametrize("name", CANARIES)
def test_broken_checkers_are_noticed(name, monkeypatch):
    checker.files()
    must_be_noticed(CANARIES[name], monkeypatch)
