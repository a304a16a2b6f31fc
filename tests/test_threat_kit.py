"""The kit for sets: ours pass, and each way of being wrong is named."""

import pytest
import torch

import autodual as ad
from autodual.errors import InputError
from autodual.testing import check_threat_model
from tests.test_own_set import Attackable, Ellipsoid, draw, net

X = draw((1, 3, 3), 3)[0]
EPS = torch.tensor([0.05, 0.1, 0.2], dtype=torch.float64)
SETS = {
    "linf": ad.LinfBall(EPS, (0, 1)),
    "l2": ad.L2Ball(EPS.reshape(3, 1, 1, 1)),
    "l2 cut": ad.L2Ball(0.3, (0, 1)),
    "l1": ad.L1Ball(0.5),
    "l1 cut": ad.L1Ball(0.5, (0, 1)),
    "box": ad.Box(X - 0.1, X + 0.2),
    "wasserstein": ad.Wasserstein(0.1, 3),
}


@pytest.mark.parametrize("kind", SETS)
def test_sets_pass(kind):
    if kind == "linf":
        check_threat_model(ad.LinfBall(EPS.reshape(3, 1, 1, 1), (0, 1)), X, rows=10)
    else:
        check_threat_model(SETS[kind], X, rows=10)


class Short(Attackable):
    def deviation(self, x, nu):
        return 0.9 * Attackable.deviation(self, x, nu)


class Flat(Attackable):
    def deviation(self, x, nu):
        return super().deviation(x, nu).sum(1)


class Lopsided(Attackable):
    def deviation(self, x, nu):
        return super().deviation(x, nu) + nu.flatten(2).sum(2).clamp(min=0)


class Constant(Attackable):
    symmetric = False

    def deviation(self, x, nu):
        return super().deviation(x, nu) + 1


class Narrow(Attackable):
    def interval(self, x):
        box = super().interval(x)
        return ad.Interval(box.lower + 0.05, box.upper)


class Alone(Attackable):
    per_example = ()

    def select(self, x, index):
        return Alone(self.axes, self.eps[:1])


class Weighted(Attackable):
    def weights(self, x):
        return self.axes


class Reversed(Attackable):
    def reversed(self):
        return Attackable(self.axes, self.eps / 10)


WRONG = {
    Short: "over deviation, by",
    Lopsided: "symmetric",
    Constant: r"deviation\(2ν\)",
    Narrow: "lies below interval",
    Alone: "select: deviation of example 1 alone",
    Weighted: "weights",
    Reversed: "leaves out its x",
}


def test_own_sets_pass():
    x, axes, eps = draw()
    check_threat_model(Attackable(axes, eps), x)


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_sets_are_named(kind):
    x, axes, eps = draw()
    with pytest.raises(AssertionError, match=WRONG[kind]):
        check_threat_model(kind(axes, eps), x)


class Number(Attackable):
    def center(self, x):
        return 0.0


def test_answers_of_the_wrong_shape_are_refused():
    x, axes, eps = draw()
    for kind, said in (
        (Flat, r"Flat\.deviation\(x, nu\) must return \[N, S\], here \[4, 2\].*not tensor\[4\]"),
        (Number, r"Number\.center\(x\) must return \[N, \*\], here \[4, 2, 3\].*not 0\.0"),
    ):
        with pytest.raises(InputError, match=said):
            ad.certify(net(), kind(axes, eps))(x)


class Telling(Ellipsoid):
    """Without points of its own, but it tells them."""

    def contains(self, x, point, tolerance=1e-5):
        far = ((point - x) / self.axes).flatten(1).norm(dim=1)
        return far <= self.eps * (1 + tolerance)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_sets_that_only_tell_their_points_are_tried_at_the_edge(scale):
    x, axes, eps = draw()
    found = check_threat_model(Telling(axes, scale * eps), x, rows=10)
    assert found.tried["contains"] == found.tried["deviation at points of the set"]
    short = type("Short", (Telling,), {"deviation": Short.deviation})
    with pytest.raises(AssertionError, match="at a point of contains over deviation"):
        check_threat_model(short(axes, scale * eps), x, rows=10)


def test_what_was_not_tried_stands_in_the_first_line():
    """A deviation too small passes where nothing says which points there are."""
    x, axes, eps = draw()
    for deviation in (Ellipsoid.deviation, Short.deviation):
        silent = type("Silent", (Ellipsoid,), {"deviation": deviation})(axes, eps)
        found = check_threat_model(silent, x, rows=10)
        said = str(found).splitlines()
        assert (
            "8 not tried (deviation at points of the set, weights, polyhedron, reversed, "
            in said[0]
        )
        assert any("define project() or contains()" in line for line in said[1:])
    assert "3 not tried (weights, polyhedron, reversed)" in str(
        check_threat_model(Attackable(axes, eps), x)
    )


def test_an_upper_bound_is_one():
    x, axes, eps = draw()
    check_threat_model(Constant(axes, eps), x, exact=False)
