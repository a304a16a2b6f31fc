"""Broken rules and passes, each of which the suite must catch.

A canary changes one thing and runs the checks that guard it; they must fail. The same checks on
the unbroken code must pass, or the canary proves nothing.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

import autodual as ad
from autodual.duals import Elementwise, Lines, MatrixProduct, Planes, smooth
from autodual.duals.maximum import maximum_planes
from autodual.interval import Interval
from autodual.testing import check_dual_layer
from tests import oracles
from tests.cases.rules import CASES, name, rule_of
from tests.nets import random_mlp
from tests.test_capture import Frozen, Residual, make, picture
from tests.test_engine import assert_same, picture_net, result
from tests.test_soundness import check_bound
from tests.test_threat import BALLS, nearest
from tests.test_wasserstein import best, cheapest, draw, reach


def rule_checks(op, mutate):
    """Run the property checks of one op on its mutated rule."""
    for case in (c for c in CASES if name(c) == op):
        check_dual_layer(mutate(rule_of(case)), case, examples=6, shrink=False)


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


def with_planes(change):
    """Mutate the slopes and intercepts of a rule of two arguments."""

    def mutate(rule):
        def lines(call, a, b, slopes):
            return Planes.with_slopes(*change(rule.lines(call, a, b, slopes)))

        return replace(rule, lines=lines)

    return mutate


def by_ends_only():
    return lambda call, z: Interval(call(z.lower), call(z.upper))


RULES = {
    "ReLU: h dropped": (
        "aten.relu.default",
        with_lines(
            lambda n, b: Lines.parallel(n.lower_slope, n.lower_intercept, n.lower_intercept)
        ),
    ),
    "ReLU: slope flipped": (
        "aten.relu.default",
        with_lines(
            lambda n, b: Lines.parallel(-n.lower_slope, n.lower_intercept, n.upper_intercept)
        ),
    ),
    "ReLU: ends swapped in the slope": (
        "aten.relu.default",
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
    "ReLU: lines swapped": (
        "aten.relu.default",
        with_lines(
            lambda n, b: Lines.parallel(n.lower_slope, n.upper_intercept, n.lower_intercept)
        ),
    ),
    "ReLU: intercept one part in a thousand short": (
        "aten.relu.default",
        with_lines(
            lambda n, b: Lines.parallel(n.lower_slope, n.lower_intercept, 0.999 * n.upper_intercept)
        ),
    ),
    "hardtanh: as printed": ("aten.hardtanh.default", with_lines(printed_hardtanh)),
    "clamp: slope 1 everywhere": (
        "aten.clamp.default",
        with_lines(
            lambda n, b: Lines.parallel(
                torch.ones_like(n.lower_slope), n.lower_intercept, n.upper_intercept
            )
        ),
    ),
    "LeakyReLU: interval by its ends": (
        "aten.leaky_relu.default",
        lambda rule: replace(rule, interval=by_ends_only()),
    ),
    "linear: not transposed back": (
        "aten.linear.default",
        with_transpose(lambda pulled: [-p for p in pulled]),
    ),
    "convolution: rows shifted by a pixel": (
        "aten.convolution.default",
        with_transpose(lambda pulled: [p.roll(1, -1) for p in pulled]),
    ),
    "convolution: |W| forgotten": (
        "aten.convolution.default",
        lambda rule: replace(rule, interval=lambda c, z: Interval(c(z.lower), c(z.upper))),
    ),
    "convolution: windows a pixel off": (
        "aten.convolution.default",
        lambda rule: replace(rule, window=lambda call: moved(rule.window(call))),
    ),
    "convolution: windows without dilation": (
        "aten.convolution.default",
        lambda rule: replace(rule, window=lambda call: undilated(call, rule.window(call))),
    ),
    "mean: windows where padding is not counted": (
        "aten.avg_pool2d.default",
        lambda rule: replace(rule, window=lambda call: counted(rule, call)),
    ),
    "pad: taken for linear with its value": (
        "aten.constant_pad_nd.default",
        lambda rule: replace(rule, linear=True),
    ),
    "batch norm: taken for linear without its bias": (
        "autodual.batch_norm",
        lambda rule: replace(rule, bias="bias"),
    ),
    "sub: both summands with a plus": (
        "aten.sub.Tensor",
        with_transpose(lambda pulled: [p.abs() for p in pulled]),
    ),
    "mul: negative factors ignored": (
        "aten.mul.Tensor",
        lambda rule: replace(rule, interval=by_ends),
    ),
    "cat: pieces in the wrong order": (
        "aten.cat.default",
        with_transpose(lambda pulled: [p.flip(-1) for p in pulled]),
    ),
    "batch norm: γ forgotten": (
        "autodual.batch_norm",
        lambda rule: replace(
            rule,
            transpose=lambda c, nu, s: (
                nu * torch.rsqrt(c["running_var"] + 1e-5).reshape(-1, *[1] * (nu.dim() - 3)),
            ),
        ),
    ),
}


RULES |= {
    "product: the rest dropped": (
        "aten.mul.Tensor",
        lambda rule: replaced_product(rule, lambda x, y: (pointlike(x), y)),
    ),
    "product: one center moved": (
        "aten.mul.Tensor",
        lambda rule: replaced_product(rule, lambda x, y: (Interval(x.lower, x.center), y)),
    ),
    "atanh: inflection forgotten": (
        "aten.atanh.default",
        lambda rule: smooth(
            lambda z: 1 / (1 - z * z), holds=lambda b: (b.lower > -1) & (b.upper < 1), inside=0.0
        ),
    ),
    "product: planes without a gap": ("aten.mul.Tensor", without_gap),
    "matrix product: rests of half the size": (
        "aten.matmul.default",
        lambda rule: replaced_product(rule, lambda x, y: (x, halved(y))),
    ),
    "matrix product: |A| forgotten": (
        "aten.bmm.default",
        lambda rule: replace(rule, interval=by_ends),
    ),
    "maximum: slopes exchanged": (
        "aten.maximum.default",
        with_planes(lambda n: ((n.lower_slopes[::-1]), n.lower_intercept, n.upper_intercept)),
    ),
    "maximum: h dropped": (
        "aten.maximum.default",
        with_planes(lambda n: (n.lower_slopes, n.lower_intercept, n.lower_intercept)),
    ),
    "minimum: taken for a maximum": (
        "aten.minimum.default",
        lambda rule: replace(
            rule,
            lines=lambda c, a, b, s: maximum_planes(torch.maximum, a, b, s),
        ),
    ),
    "logaddexp: intercepts of the ends alone": (
        "aten.logaddexp.default",
        with_planes(lambda n: (n.lower_slopes, n.upper_intercept, n.upper_intercept)),
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_broken_rules_are_caught(name):
    op, mutate = RULES[name]
    rule_checks(op, lambda rule: rule)
    with pytest.raises((AssertionError, RuntimeError)):
        rule_checks(op, mutate)


class Gated(torch.nn.Module):
    """Two linear layers, multiplied."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.other = torch.nn.Linear(3, 3).double(), torch.nn.Linear(3, 3).double()

    def forward(self, x):
        return self.one(x) * self.other(x)


def net_checks():
    """A short form of the network tests: sampled points, the oracle, zero radius, gradients."""
    model = make(Residual)
    generator = torch.Generator().manual_seed(0)
    spec = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        for size in (0.01, 0.3):
            for threat in (ad.LinfBall(size), ad.L2Ball(size, (0, 1)), ad.L1Ball(size, (0, 1))):
                check_bound(model, picture(2), threat, ["dual", "ibp&dual"], spec, generator)
        check_bound(Gated(), torch.rand(2, 3).double(), ad.LinfBall(0.3), ["dual"], spec, generator)
        narrow = random_mlp(1, (2, 1, 3))  # one hidden unit: interval arithmetic is exact
        narrow[0].bias.fill_(1.0)
        point = torch.zeros(1, 2, dtype=torch.float64)
        check_bound(narrow, point, ad.LinfBall(0.1), ["ibp", "dual"], spec, generator)
        nu = torch.randn(1, 3, 4, dtype=torch.float64, generator=generator)
        inside = torch.rand(1, 4, dtype=torch.float64, generator=generator)
        support = ad.L2Ball(10.0, (0, 1)).support(inside, nu)  # the whole domain
        assert torch.allclose(support, nu.clamp(min=0).sum(2))
        mlp = random_mlp(1, (4, 8, 8, 3))
        x = torch.randn(1, 4, dtype=torch.float64, generator=generator)
        outputs = ad.certify(mlp, 0.3, bounds="dual").bounds(x)
        lower, upper = oracles.algorithm_1(oracles.layers(mlp, (4,)), x[0].numpy(), 0.3)[-1]
        assert abs(outputs.lower[0].numpy() - lower).max() < 1e-9
        assert abs(outputs.upper[0].numpy() - upper).max() < 1e-9
        trained = make(Residual, training=True)
        certified = ad.certify(trained, 0.0, bounds="dual")
        (network,) = certified.relax(picture()).networks
        centre = network[certified.graph.output].reference
        state = {k: v.clone() for k, v in trained.state_dict().items()}
        assert torch.allclose(centre, trained(picture()))
        trained.load_state_dict(state)
    frozen = make(Frozen)
    ad.robust_loss(frozen, picture(), torch.tensor([0, 1, 2]), 0.1).backward()
    assert frozen.features.weight.grad is None, "a gradient went through no_grad"


def engine_checks():
    """Patches against dense rows, forward against backward order, kept against recomputed."""
    for kinds in (("sub", "norm"), ("residual",), ("max", "gate")):
        case = *picture_net(0, *kinds), ad.LinfBall(0.3)
        patches = result(*case, bounds="dual")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("autodual.bound.rows.Patches.serve", staticmethod(lambda value: False))
            assert_same(patches, result(*case, bounds="dual"))
        net = ad.certify(case[0], 0.3)
        net(case[1])
        names = dict.fromkeys((v.name for v in net.plan.bounded), "forward")
        assert_same(patches, result(*case, bounds="dual", choose=names))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("autodual.bound.spread.KEPT", 2**40)
            patch.setattr("autodual.bound.spread.CACHE_BYTES", 1000)
            assert_same(patches, result(*case, bounds="dual"))
    model, x, y = picture_net(3)
    generator = torch.Generator().manual_seed(0)
    exact = ad.certify(model, 0.05)(x, y).margins
    for estimator, slack in ((ad.Cauchy(3001, generator), 0.1), (ad.Geometric(400, 4, 0.01), 0.0)):
        found = ad.certify(model, 0.05, estimator=estimator)(x, y).margins
        size = (ad.certify(model, 0.0)(x, y).margins - exact).max()
        assert bool((found <= exact + slack * size + 1e-9).all()), estimator
        assert bool((found >= exact - (slack + 0.5) * size).all()), estimator


def patch_method(path, change):
    """Return (dotted path, replacement made from the original)."""
    return path, change


ENGINE = {
    "deviation halved": patch_method(
        "autodual.bound.travel._at_entry",
        lambda f: lambda entry, rows, memo: 0.5 * f(entry, rows, memo),
    ),
    "products of matrices: the rest dropped": patch_method(
        "autodual.duals.relaxed.Product.about",
        lambda f: lambda self, *z: (f(self, *z)[0], 0.1 * f(self, *z)[1]),
    ),
    "products of matrices: about another point": patch_method(
        "autodual.duals.products.MatrixProduct.relax",
        lambda f: lambda self, call, x, y, **_: f(self, call, x, pointlike(y)),
    ),
    "the distance of planes dropped": patch_method(
        "autodual.duals.relaxed.Planes.about",
        lambda f: lambda self, *z: (f(self, *z)[0], 0 * f(self, *z)[0]),
    ),
    "rows of the wrong sign": patch_method(
        "autodual.bound.rows.dense.Dense.pull_lines",
        lambda f: lambda self, lines, memo: [-rows for rows in f(self, lines, memo)],
    ),
    "skip connections overwritten": patch_method(
        "autodual.bound.travel.add", lambda f: lambda a, b: b
    ),
    "ℓ2 room ignored below": patch_method(
        "autodual.threat.ball.Ball.room", lambda f: lambda self, x, nu: 0.5 * f(self, x, nu)
    ),
    "center not moved": patch_method(
        "autodual.duals.relaxed.Planes.flat",
        lambda f: lambda box: f(Interval(box.lower, box.center)),
    ),
    "no_grad dropped": patch_method(
        "autodual.front.passes.PIPELINE",
        lambda passes: tuple(p for p in passes if "stop" not in p.__name__),
    ),
    "batch statistics from the running ones": patch_method(
        "autodual.front.passes.batch_norm._statistics",
        lambda f: (
            lambda x, node: tuple(replace(n, args={**n.args, "correction": 1}) for n in f(x, node))
        ),
    ),
    "interval ends intersected the wrong way": patch_method(
        "autodual.interval.Interval.intersect",
        lambda f: (
            lambda self, other: Interval(
                torch.maximum(self.lower, other.lower),
                torch.minimum(self.upper, other.upper) - 0.05,
            )
        ),
    ),
}


ROWS = {
    "windows moved": patch_method(
        "autodual.bound.rows.patches.Frame.through",
        lambda f: lambda self, w: f(self, replace(w, padding=(w.padding[0], 0))),
    ),
    "entries outside the image kept": patch_method(
        "autodual.bound.rows.patches.Patches.cleaned", lambda f: lambda self, memo: self
    ),
    "patches added where they do not lie": patch_method(
        "autodual.bound.rows.patches.Patches._margins",
        lambda f: (
            lambda self, offset, size: f(self, (size[0] - self.data.shape[2], offset[1]), size)
        ),
    ),
    "the chunks' shared part not differentiated": patch_method(
        "autodual.bound.rows.memo.Memo.finish", lambda f: lambda self: None
    ),
    "columns lost": patch_method(
        "autodual.bound.projection.Sources._inject",
        lambda f: lambda self, columns, radius: f(self, columns, radius * (radius > radius.mean())),
    ),
    "noise halved": patch_method(
        "autodual.bound.projection.Projection._inject",
        lambda f: lambda self, columns, radius: f(self, columns, 0.2 * radius),
    ),
    "no margin for chance": patch_method(
        "autodual.bound.estimators.projected.margin", lambda f: lambda r, repeats, delta: -0.5
    ),
}


def set_checks():
    """Sets against linear programs, closed forms and each other, in short."""
    x, nu, _ = draw(1, (1, 3, 3))
    ball, moves = ad.Wasserstein(0.2), reach((1, 3, 3), 5, 1)
    support, box = ball.support(x, nu), ball.interval(x)
    for i in range(2):
        flat, budget = x[i].flatten().numpy(), 0.2 * float(x[i].sum())
        for s in range(2):
            value = best(moves, flat, nu[i, s].flatten().numpy(), budget)
            assert abs(float(support[i, s]) - value) < 1e-8
        for k in range(9):
            unit = np.eye(9)[k]
            assert abs(float(box.upper[i].flatten()[k]) - best(moves, flat, unit, budget)) < 1e-8
            low = -best(moves, flat, -unit, budget)
            assert abs(float(box.lower[i].flatten()[k]) - low) < 1e-8
    for point in (ball.maximizer(x, nu[:, 0]), ball.project(x, x + nu[:, 0]),
                  ball.sinkhorn(x, x + nu[:, 0], 1e3, 5)):  # fmt: skip
        for i in range(2):
            far = cheapest(moves, x[i].flatten().numpy(), point[i].flatten().numpy())
            assert far <= 0.2 + 1e-8
    flat, wild = x.flatten(1), (x + nu[:, 0]).flatten(1)
    for kind in ("l1", "l2"):
        found = BALLS[kind](0.5, (0.0, 1.0)).project(flat, wild)
        for i in range(2):
            value = nearest(kind, 0.5, flat[i].numpy(), wild[i].numpy(), np.zeros(9), np.ones(9))
            assert abs(found[i].numpy() - value).max() < 1e-8
    model = random_mlp(1, (9, 5, 3))
    union = ad.Union(ad.LinfBall(0.01), ad.L2Ball(0.4))
    y = torch.tensor([0, 1])
    least = [ad.certify(model, member)(flat, y).margins for member in (ad.L2Ball(0.4),)]
    assert bool((ad.certify(model, union)(flat, y).margins <= least[0] + 1e-12).all())


SETS = {
    "budget dropped": patch_method(
        "autodual.threat.wasserstein.Wasserstein.budget",
        lambda f: lambda self, x, moves: 0 * f(self, x, moves),
    ),
    "rows with the wrong sign": patch_method(
        "autodual.threat.wasserstein.rows_deviation",
        lambda f: lambda moves, nu, mass, budget: f(moves, -nu, mass, budget),
    ),
    "mass only from where ν is not 0": patch_method(
        "autodual.threat.transport.Moves.near", lambda f: lambda self, mask: mask
    ),
    "mass that lands a pixel off": patch_method(
        "autodual.threat.transport.Moves.land", lambda f: lambda self, plan: f(self, plan).roll(1)
    ),
    "arrivals forgotten": patch_method(
        "autodual.threat.transport.Moves.arrivals",
        lambda f: lambda self, x: tuple(0.5 * part for part in f(self, x)),
    ),
    "ℓ1 threshold too small": patch_method(
        "autodual.threat.l1._shorten",
        lambda f: lambda size, room, eps: f(size, room, 1.01 * eps),
    ),
    "ℓ2 step shrunk before it is cut": patch_method(
        "autodual.threat.l2._shorten",
        lambda f: lambda size, room, eps: torch.minimum(f(size, room + 9, eps), room),
    ),
    "union of its first member": patch_method(
        "autodual.threat.union.Union.members",
        lambda f: property(lambda self: self._members[:1]),
    ),
}


def test_the_network_checks_pass_on_the_real_engine():
    net_checks()
    engine_checks()
    set_checks()


@pytest.mark.parametrize("name", SETS)
def test_broken_sets_are_caught(name, monkeypatch):
    path, change = SETS[name]
    owner, _, attribute = path.rpartition(".")
    target = _resolve(owner)
    monkeypatch.setattr(target, attribute, change(getattr(target, attribute)))
    with pytest.raises((AssertionError, ad.errors.AutodualError)):
        set_checks()


@pytest.mark.parametrize("name", [*ENGINE, *ROWS])
def test_broken_engines_are_caught(name, monkeypatch):
    path, change = {**ENGINE, **ROWS}[name]
    owner, _, attribute = path.rpartition(".")
    target = _resolve(owner)
    monkeypatch.setattr(target, attribute, change(getattr(target, attribute)))
    with pytest.raises((AssertionError, ad.errors.AutodualError)):
        (net_checks if name in ENGINE else engine_checks)()


def _resolve(path):
    import importlib

    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise AssertionError(path)
