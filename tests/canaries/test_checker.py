"""The checker of proofs, broken on purpose: each break makes it believe what is false."""

import numpy as np
import pytest

from tests import test_checker as checker
from tests.canaries.canary import Canary, checks_of, must_be_noticed


def halves_dropped(back):
    def broken(self, rows, owner, dual):
        rows, paid, _ = back(self, rows, owner, dual)
        return rows, paid, 0

    return broken


def error_dropped(forward):
    def broken(self, inputs):
        out = forward(self, inputs)
        self.e = 0 * self.e
        return out

    return broken


def line_dropped(forward):
    def broken(self, inputs):
        out = forward(self, inputs)
        self.above = self.above - (self.above > 0)
        return out

    return broken


def steeper(forward):
    def broken(self, inputs):
        out = forward(self, inputs)
        self.a = self.a + 2.0**-3 * self.open
        return out

    return broken


def half_tightened(tighten):
    def broken(self, i):
        tighten(self, i)
        z = self.values[i]
        z.hi = np.where((z.lo < 0) & (z.hi > 0), z.hi // 2, z.hi)
        z.measure()

    return broken


def only_first(add):
    def broken(self, padded):
        return padded[:-1] if self.alone else padded[self.readers[0]]

    return broken


def downward(coarse):
    def broken(x, most):
        h = coarse(x, most)[1]
        return np.floor(x * 2.0**-h), h

    return broken


CANARIES = {
    "roundings of an affine node's rows are free": Canary(
        "autodual_check.network.Affine.back",
        halves_dropped,
        checker.few_for_rows,
        "above the truth",
    ),
    "roundings of a ReLU's rows are free": Canary(
        "autodual_check.network.Relu.back",
        halves_dropped,
        checker.few_for_rows,
        "above the truth",
    ),
    "the error of an affine node is dropped": Canary(
        "autodual_check.network.Affine.forward",
        error_dropped,
        checker.few_for_values,
        "above the truth",
    ),
    "the smaller parts of weights are dropped": Canary(
        "autodual_check.network.Affine.sums",
        lambda sums: lambda self, x, by: 0 * sums(self, x, by),
        checker.few_for_weights,
        "above the truth",
    ),
    "errors cost nothing": Canary(
        "autodual_check.network.charge",
        lambda charge: lambda *args: 0 * charge(*args),
        checker.bounds_with_all_bits_are_tight,
        "above the truth",
    ),
    "half of the set": Canary(
        "autodual_check.checking.Bounds.support",
        lambda support: lambda *args: support(*args) // 2,
        checker.bounds_with_all_bits_are_tight,
        "above the truth",
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
        checker.margins_are_those_of_a_second_reading,
        "more than the other's",
    ),
    "entries that are read twice count once": Canary(
        "autodual_check.network.Touched.add",
        only_first,
        checker.margins_are_those_of_a_second_reading,
        "than the other's",
    ),
    "errors are rounded down": Canary(
        "autodual_check.network.coarse",
        downward,
        checker.few_for_errors,
        "above the truth",
    ),
    "what is needed is not": Canary(
        "autodual_check.checking.need",
        lambda need: lambda holds, otherwise: None,
        checker.parts_cover_their_set,
        "a tree that lacks a proof",
    ),
    "claims are not compared": Canary(
        "autodual_check.checking.CHECKS",
        lambda checks: {**checks, "margins": lambda proof, said: "1 sets"},
        checker.claims_are_compared,
        "a claim of more",
    ),
}


@pytest.mark.parametrize("name", checks_of(CANARIES))
def test_checks_hold(name):
    checks_of(CANARIES)[name]()


@pytest.mark.parametrize("name", CANARIES)
def test_broken_checkers_are_noticed(name, monkeypatch):
    checker.files()
    must_be_noticed(CANARIES[name], monkeypatch)
