"""Rules, broken on purpose: in what they are made of, and in what they are given."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch

from autodual.duals import DualLayer, Elementwise, Lines, MatrixProduct, Planes, pieces, smooth
from autodual.duals.activations import gelu_derivative, sigmoid_derivative
from autodual.duals.curves import Curve, by_curve
from autodual.duals.functions import SINE, _multiples, _within_a_turn
from autodual.duals.maximum import free_planes, largest_planes
from autodual.interval import Interval
from autodual.testing import check_dual_layer
from tests.canaries.canary import must_fail
from tests.cases.rules import CASES, name, rule_of


def with_lines(change):
    """Mutate the lines an elementwise rule gives."""

    def mutate(rule):
        return replace(rule, lines=lambda c, box, s: change(rule.lines(c, box, s), box))

    return mutate


def with_transpose(change):
    def mutate(rule):
        return replace(rule, transpose=lambda c, nu, s: change(rule.transpose(c, nu, s)))

    return mutate


def printed_hardtanh(lines, box):
    """Equations 3.62–3.63 as printed."""
    both = (box.lower < -1) & (box.upper > 1)
    top = torch.maximum(box.upper, box.lower)
    slope = torch.where(both, (1 - 2 / (1 + top)).abs(), lines.lower_slope)
    intercept = torch.where(both, 2 / (1 + top), lines.upper_intercept)
    low = torch.where(both, -2 / (1 + top), lines.lower_intercept)
    return Lines.parallel(slope, low, intercept)


def moved(window):
    """The same window, one pixel to the side."""
    return window and replace(window, padding=(window.padding[0], window.padding[1] + 1))


def undilated(call, window):
    """The window of the kernel as if its entries were neighbours."""
    return window and replace(window, kernel=tuple(call["weight"].shape[2:]))


def counted(rule, call):
    """The window as if padding always were counted."""
    return rule.window(call.replace({"count_include_pad": True}))


def pointlike(box):
    return Interval(box.center, box.center)


def halved(box):
    return Interval((box.lower + box.center) / 2, (box.upper + box.center) / 2)


def replaced_product(rule, change):
    """The dual layer of a product on other boxes than it is told."""
    if isinstance(rule, Elementwise):
        return replace(rule, lines=lambda call, x, y, s: rule.lines(call, *change(x, y), s))

    class Broken(MatrixProduct):
        def relax(self, call, x, y, **given):
            return super().relax(call, *change(x, y), **given)

    return Broken(rule.factor, rule.interval) if isinstance(rule, MatrixProduct) else rule


def without_gap(rule):
    """The planes of a product, both through the middle."""

    def lines(call, x, y, slopes):
        slopes = slopes or (y.center, x.center)
        end = call(x.center, y.center) - slopes[0] * x.center - slopes[1] * y.center
        return Planes.with_slopes(slopes, end, end)

    return replace(rule, lines=lines) if isinstance(rule, Elementwise) else rule


def by_ends(call, *z):
    return Interval(call(*(i.lower for i in z)), call(*(i.upper for i in z)))


def under_the_first(call, *boxes, at):
    """Planes around the largest, the upper one over the first entry."""
    found, first = free_planes(call, *boxes, at=at), boxes[0]
    flat = tuple(0 * slope for slope in found.upper_slopes)
    return Planes(found.lower_slopes, found.lower_intercept, flat, first.upper)


def a_little_low(lines):
    """Parallel planes of which the upper one is lowered by a tenth of their distance."""

    def lowered(call, *given):
        n = lines(call, *given)
        upper = torch.lerp(n.upper_intercept, n.lower_intercept, 0.1)
        return Planes.with_slopes(n.lower_slopes, n.lower_intercept, upper)

    return lowered


def with_planes(change):
    """Mutate the slopes and intercepts of a rule of two arguments."""

    def mutate(rule):
        def lines(call, a, b, slopes):
            return Planes.with_slopes(*change(rule.lines(call, a, b, slopes)))

        return replace(rule, lines=lines)

    return mutate


def by_ends_only():
    return lambda call, z: Interval(call(z.lower), call(z.upper))


def given(**args):
    """Make the curve of a smooth function anew, with other arguments."""
    return lambda rule: smooth(**args)


@dataclass(frozen=True)
class Broken:
    """A rule that is broken.

    Attributes:
        op, case: the op's name, and which of its cases tells.
        says: a pattern that the message must match.
        change: makes the broken rule of the original.
    """

    op: str
    case: int
    says: str
    change: Callable[[DualLayer], DualLayer]


RULES = {
    "ReLU: h dropped": Broken(
        "aten.relu.default",
        0,
        "equal slopes: violated f ≤ a·z",
        with_lines(
            lambda n, b: Lines.parallel(n.lower_slope, n.lower_intercept, n.lower_intercept)
        ),
    ),
    "ReLU: slope flipped": Broken(
        "aten.relu.default",
        0,
        "the lines did not take the slope given",
        with_lines(
            lambda n, b: Lines.parallel(-n.lower_slope, n.lower_intercept, n.upper_intercept)
        ),
    ),
    "ReLU: ends swapped in the slope": Broken(
        "aten.relu.default",
        0,
        "equal slopes: violated f ≤ a·z",
        with_lines(
            lambda n, b: Lines.parallel(
                torch.where(
                    (b.lower < 0) & (b.upper > 0), -b.lower / (b.upper - b.lower), n.lower_slope
                ),
                n.lower_intercept,
                n.upper_intercept,
            )
        ),
    ),
    "ReLU: lines swapped": Broken(
        "aten.relu.default",
        0,
        "equal slopes: violated f ≤ a·z",
        with_lines(
            lambda n, b: Lines.parallel(n.lower_slope, n.upper_intercept, n.lower_intercept)
        ),
    ),
    "ReLU: intercept one part in a thousand short": Broken(
        "aten.relu.default",
        0,
        "equal slopes: violated f ≤ a·z",
        with_lines(
            lambda n, b: Lines.parallel(n.lower_slope, n.lower_intercept, 0.999 * n.upper_intercept)
        ),
    ),
    "hardtanh: as printed": Broken(
        "aten.hardtanh.default",
        0,
        "equal slopes: violated f ≤ a·z|did not take the slope given",
        with_lines(printed_hardtanh),
    ),
    "clamp: slope 1 everywhere": Broken(
        "aten.clamp.default",
        0,
        "the lines did not take the slope given",
        with_lines(
            lambda n, b: Lines.parallel(
                torch.ones_like(n.lower_slope), n.lower_intercept, n.upper_intercept
            )
        ),
    ),
    "LeakyReLU: interval by its ends": Broken(
        "aten.leaky_relu.default",
        2,
        "f leaves its upper bound",
        lambda rule: replace(rule, interval=by_ends_only()),
    ),
    "linear: not transposed back": Broken(
        "aten.linear.default",
        0,
        "violated ⟨A z, ν⟩ = ⟨z, Aᵀν⟩",
        with_transpose(lambda pulled: [-p for p in pulled]),
    ),
    "convolution: rows shifted by a pixel": Broken(
        "aten.convolution.default",
        2,
        "violated ⟨A z, ν⟩ = ⟨z, Aᵀν⟩",
        with_transpose(lambda pulled: [p.roll(1, -1) for p in pulled]),
    ),
    "convolution: |W| forgotten": Broken(
        "aten.convolution.default",
        2,
        "the interval's upper end .* is not the extreme",
        lambda rule: replace(rule, interval=lambda c, z: Interval(c(z.lower), c(z.upper))),
    ),
    "convolution: windows a pixel off": Broken(
        "aten.convolution.default",
        1,
        "the window is not there",
        lambda rule: replace(rule, window=lambda call: moved(rule.window(call))),
    ),
    "convolution: windows without dilation": Broken(
        "aten.convolution.default",
        1,
        "no window of this op is as the rule says",
        lambda rule: replace(rule, window=lambda call: undilated(call, rule.window(call))),
    ),
    "mean: windows where padding is not counted": Broken(
        "aten.avg_pool2d.default",
        2,
        "the window is not there",
        lambda rule: replace(rule, window=lambda call: counted(rule, call)),
    ),
    "pad: taken for linear with its value": Broken(
        "aten.constant_pad_nd.default",
        0,
        "a constant part is left in the linear part",
        lambda rule: replace(rule, linear=True),
    ),
    "batch norm: taken for linear without its bias": Broken(
        "autodual.batch_norm",
        0,
        "a constant part is left in the linear part",
        lambda rule: replace(rule, bias="bias"),
    ),
    "sub: both summands with a plus": Broken(
        "aten.sub.Tensor",
        0,
        "violated ⟨A z, ν⟩ = ⟨z, Aᵀν⟩",
        with_transpose(lambda pulled: [p.abs() for p in pulled]),
    ),
    "mul: negative factors ignored": Broken(
        "aten.mul.Tensor",
        0,
        "the interval's upper end .* is not the extreme",
        lambda rule: replace(rule, interval=by_ends),
    ),
    "cat: pieces in the wrong order": Broken(
        "aten.cat.default",
        0,
        "violated ⟨A z, ν⟩ = ⟨z, Aᵀν⟩",
        with_transpose(lambda pulled: [p.flip(-1) for p in pulled]),
    ),
    "batch norm: γ forgotten": Broken(
        "autodual.batch_norm",
        0,
        "violated ⟨A z, ν⟩ = ⟨z, Aᵀν⟩",
        lambda rule: replace(
            rule,
            transpose=lambda c, nu, s: (
                nu * torch.rsqrt(c["running_var"] + 1e-5).reshape(-1, *[1] * (nu.dim() - 3)),
            ),
        ),
    ),
    "product: the rest dropped": Broken(
        "aten.mul.Tensor",
        3,
        "violated −zᵀν_in",
        lambda rule: replaced_product(rule, lambda x, y: (pointlike(x), y)),
    ),
    "product: one center moved": Broken(
        "aten.mul.Tensor",
        3,
        "violated −zᵀν_in",
        lambda rule: replaced_product(rule, lambda x, y: (Interval(x.lower, x.center), y)),
    ),
    "atanh: inflection forgotten": Broken(
        "aten.atanh.default",
        0,
        "equal slopes: violated f ≤ a·z",
        lambda rule: smooth(
            lambda z: 1 / (1 - z * z), holds=lambda b: (b.lower > -1) & (b.upper < 1), inside=0.0
        ),
    ),
    "product: planes without a gap": Broken("aten.mul.Tensor", 3, "violated −zᵀν_in", without_gap),
    "matrix product: rests of half the size": Broken(
        "aten.matmul.default",
        2,
        "violated −zᵀν_in",
        lambda rule: replaced_product(rule, lambda x, y: (x, halved(y))),
    ),
    "matrix product: |A| forgotten": Broken(
        "aten.bmm.default",
        0,
        "the interval's upper end .* is not the extreme",
        lambda rule: replace(rule, interval=by_ends),
    ),
    "maximum: slopes exchanged": Broken(
        "aten.maximum.default",
        0,
        "the planes did not take the slopes given",
        with_planes(lambda n: ((n.lower_slopes[::-1]), n.lower_intercept, n.upper_intercept)),
    ),
    "maximum: h dropped": Broken(
        "aten.maximum.default",
        0,
        "violated −zᵀν_in",
        with_planes(lambda n: (n.lower_slopes, n.lower_intercept, n.lower_intercept)),
    ),
    "minimum: taken for a maximum": Broken(
        "aten.minimum.default",
        0,
        "violated −zᵀν_in",
        lambda rule: replace(
            rule,
            lines=lambda c, a, b, s: largest_planes(torch.maximum, a, b, s),
        ),
    ),
    "largest: free planes as high as the first entry alone": Broken(
        "autodual.largest",
        0,
        "free slopes: violated f ≤ Σ a·z",
        lambda rule: replace(rule, free=under_the_first),
    ),
    "largest: the water a little too low": Broken(
        "autodual.largest",
        1,
        "violated −zᵀν_in",
        lambda rule: replace(rule, lines=a_little_low(rule.lines)),
    ),
    "smallest: taken for the largest": Broken(
        "autodual.smallest",
        0,
        "violated −zᵀν_in",
        lambda rule: replace(rule, lines=largest_planes),
    ),
    "logaddexp: intercepts of the ends alone": Broken(
        "aten.logaddexp.default",
        0,
        "violated −zᵀν_in",
        with_planes(lambda n: (n.lower_slopes, n.upper_intercept, n.upper_intercept)),
    ),
    "sigmoid: inflection forgotten": Broken(
        "aten.sigmoid.default",
        0,
        "equal slopes: violated f ≤ a·z",
        given(derivative=sigmoid_derivative, range=(0.0, 1.0)),
    ),
    "ReLU: the piece beside the chosen one too high": Broken(
        "aten.relu.default",
        0,
        "lines beside those chosen: violated a·z",
        lambda rule: replace(
            rule,
            beside=lambda call, box, chosen: [
                replace(lines, lower_intercept=lines.lower_intercept + 0.1)
                for lines in rule.facets(call, box, chosen=chosen)
            ],
        ),
    ),
    "maximum: no share for the others beside the first": Broken(
        "aten.maximum.default",
        0,
        "planes beside those chosen",
        lambda rule: replace(
            rule,
            beside=lambda call, *boxes, chosen: [
                replace(planes, upper_intercept=planes.upper_intercept - 0.1)
                for planes in rule.facets(call, *boxes, chosen=chosen)
            ],
        ),
    ),
    "GELU: one of two inflections forgotten": Broken(
        "aten.gelu.default",
        0,
        "violated",
        lambda rule: by_curve(
            lambda call: Curve(gelu_derivative, (-(2**0.5),), (-0.7517915246935645,))
        ),
    ),
    "log: said to hold everywhere": Broken(
        "aten.log.default",
        0,
        "the rule does not say where it is",
        given(derivative=torch.reciprocal),
    ),
    "tan: said to hold at its poles": Broken(
        "aten.tan.default",
        0,
        "equal slopes: violated f ≤ a·z",
        given(
            derivative=lambda z: 1 + torch.tan(z) ** 2,
            inflections=_multiples(0.0),
            holds=_within_a_turn,
        ),
    ),
    "reciprocal: said to hold at its pole": Broken(
        "aten.reciprocal.default",
        0,
        "violated −zᵀν_in . f.z.ᵀν_out ≤ h",
        given(derivative=lambda z: -(z**-2), inflections=(0.0,)),
    ),
    "cosh: stationary point forgotten": Broken(
        "aten.cosh.default",
        0,
        "f leaves its lower bound",
        given(derivative=torch.sinh, range=(1.0, torch.inf)),
    ),
    "sin: one of three stationary points forgotten": Broken(
        "aten.sin.default",
        0,
        "f leaves its (upper|lower) bound",
        lambda rule: by_curve(
            lambda call: replace(SINE, stationary=lambda box: SINE.stationary(box)[1:])
        ),
    ),
    "sin: range too narrow": Broken(
        "aten.sin.default",
        0,
        "equal slopes: violated f ≤ a·z",
        lambda rule: by_curve(lambda call: replace(SINE, range=(-0.5, 0.5))),
    ),
    "sin: zeros forgotten": Broken(
        "aten.sin.default",
        0,
        "equal slopes: violated",
        lambda rule: by_curve(lambda call: replace(SINE, inflections=())),
    ),
    "softplus: derivative of another β": Broken(
        "aten.softplus.default",
        0,
        "equal slopes: violated a·z",
        given(derivative=torch.sigmoid),
    ),
    "ReLU: breakpoint forgotten": Broken(
        "aten.relu.default",
        0,
        "equal slopes: violated a·z . b ≤ f",
        lambda rule: pieces(nondecreasing=True),
    ),
    "softshrink: one of two breakpoints forgotten": Broken(
        "aten.softshrink.default",
        0,
        "equal slopes: violated f ≤ a·z",
        lambda rule: pieces("lambd", nondecreasing=True),
    ),
    "threshold: jump forgotten": Broken(
        "aten.threshold.default",
        0,
        "equal slopes: violated f ≤ a·z",
        lambda rule: pieces("threshold"),
    ),
    "step: jump forgotten": Broken(
        "autodual.step",
        0,
        "equal slopes: violated f ≤ a·z",
        lambda rule: pieces("edge", argument="input"),
    ),
    "abs: said not to decrease": Broken(
        "aten.abs.default",
        0,
        "f leaves its upper bound",
        lambda rule: pieces(0.0, nondecreasing=True),
    ),
}


def check(op, index, change=lambda rule: rule):
    """Check the properties of a rule, or of what is made of it, on one case of its op."""
    case = [case for case in CASES if name(case) == op][index]
    check_dual_layer(change(rule_of(case)), case, examples=3, shrink=False)


@pytest.mark.parametrize(("op", "index"), sorted({(b.op, b.case) for b in RULES.values()}))
def test_checks_pass_on_the_unbroken_rules(op, index):
    check(op, index)


@pytest.mark.parametrize("name", RULES)
def test_broken_rules_are_noticed(name):
    broken = RULES[name]
    must_fail(lambda: check(broken.op, broken.case, broken.change), broken.says)
