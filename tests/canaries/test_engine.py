"""The engine, broken on purpose: rows, layers, intervals, networks, orders, recomputation."""

import random
from dataclasses import replace
from functools import cache
from itertools import pairwise, product

import pytest
import torch

import autodual as ad
from autodual.bound.layer import nothing_known
from autodual.bound.rows import Patches, add
from autodual.interval import Interval
from tests import oracles
from tests import test_polyhedra as plans
from tests.canaries.canary import Canary, checks_of, must_be_noticed
from tests.nets import random_mlp
from tests.test_capture import Around, Residual, make, picture
from tests.test_engine import picture_net, result
from tests.test_soundness import Logarithm

F64 = torch.float64
EXACT = 0.3
BALLS = {
    "a small ℓ∞ ball": ad.LinfBall(0.05),
    "a large ℓ∞ ball": ad.LinfBall(0.3),
    "an ℓ2 ball": ad.L2Ball(0.3, (0, 1)),
    "an ℓ1 ball": ad.L1Ball(0.3, (0, 1)),
}


class Gated(torch.nn.Module):
    """Two linear layers, multiplied."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.other = (torch.nn.Linear(3, 3).double() for _ in range(2))

    def forward(self, x):
        return self.one(x) * self.other(x)


class Squared(torch.nn.Module):
    """A product of two matrices."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.other = (torch.nn.Linear(2, 2).double() for _ in range(2))

    def forward(self, x):
        z = x.unflatten(1, (2, 2))
        return (self.one(z) @ self.other(z)).flatten(1)


class Exploding(torch.nn.Module):
    """Overflows to ∞ where x is large, and compares two such numbers."""

    def forward(self, x):
        z = (1000 * x).exp()
        return torch.relu(z - 2 * z) + z


class Length(torch.nn.Module):
    """The length of x, which a bound on its square's entries could let be imaginary."""

    def forward(self, x):
        return (x * x).sum(1, keepdim=True).sqrt() - x


@cache
def residual():
    return make(Residual)


@cache
def gated():
    return Gated()


@cache
def squared():
    return Squared()


@cache
def mlp():
    return random_mlp(1, (4, 8, 8, 3))


@cache
def pictures(*kinds):
    return picture_net(0, *kinds)


def flat(n=2):
    return torch.rand(n, 4, generator=torch.Generator().manual_seed(1), dtype=F64)


def same(found, expected, what, **close):
    """Raise unless tensors are the same, and say what they are."""
    assert len(found) == len(expected), f"{what}: {len(found)} and {len(expected)}"
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(
            one,
            other,
            **(close or {"rtol": 1e-8, "atol": 1e-9}),
            msg=lambda m: f"{what} differ: {m}",
        )


def tried(model, x, threat, count=15):
    """Points of the set around each example [N, count, K]: random ones, corners, their outputs."""
    generator = torch.Generator().manual_seed(0)
    box = threat.interval(x)
    found = []
    with torch.no_grad():
        for _ in range(count):
            found.append(model(threat.random_start(x, generator)))
            corner = torch.where(torch.rand(x.shape, generator=generator) < 0.5, *_ends(box))
            found.append(model(threat.project(x, corner)))
    return torch.stack(found, 1)


def _ends(box):
    return box.lower, box.upper


def holds(outputs, box, spec, bound, what):
    """Raise if an output lies beyond a bound."""
    slack = 1e-9 * (1 + outputs.abs().max())
    low, high = (end.unsqueeze(1) for end in (box.lower, box.upper))
    assert bool((outputs >= low - slack).all()), f"{what}: an output lies below its interval"
    assert bool((outputs <= high + slack).all()), f"{what}: an output lies above its interval"
    rows = outputs @ spec.mT
    assert bool((rows >= bound.unsqueeze(1) - slack).all()), f"{what}: a row lies below its bound"


def no_point_beats(model, x, threat, what, **options):
    spec = torch.randn(4, model(x).shape[1], generator=torch.manual_seed(0), dtype=F64)
    net = ad.certify(model, threat, **options)
    with torch.no_grad():
        box, bound = net.bounds(x), net.lower_bound(x, spec)
    holds(tried(model, x, threat), box, spec, bound, what)


def no_point_beats_the_bound():
    for name, threat in BALLS.items():
        for bounds in ("dual", "ibp&dual"):
            no_point_beats(residual(), picture(2), threat, f"{name}, {bounds}", bounds=bounds)


def no_point_beats_intervals():
    for name, threat in BALLS.items():
        no_point_beats(residual(), picture(2), threat, f"{name}, ibp", bounds="ibp")


def no_point_beats_a_skip():
    threat = ad.LinfBall(0.05)
    no_point_beats(residual(), picture(2), threat, "a skip", bounds="dual")


def no_point_beats_a_product():
    x = torch.rand(2, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    no_point_beats(gated(), x, ad.LinfBall(0.3), "a product", bounds="dual")


def no_point_beats_optimised_planes():
    x = torch.rand(2, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    no_point_beats(gated(), x, ad.LinfBall(0.3), "optimised planes", optimize=10)
    no_point_beats(random_mlp(3, (3, 5, 5, 3)), x, ad.L2Ball(0.4), "a net", optimize=10)


def no_linear_program_passes_a_point():
    x = torch.rand(2, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    model, eye = random_mlp(3, (3, 5, 5, 3)), torch.eye(3, dtype=F64)
    program = ad.certify(model, 0.3).lp(x, eye)
    noise = 0.6 * torch.rand(200, 2, 3, generator=torch.Generator().manual_seed(1), dtype=F64) - 0.3
    low = torch.stack([model(x + d) for d in noise]).amin(0)
    assert (low >= program - 1e-9).all(), "a program passes a point"


def programs_decide_as_an_independent_one_does():
    """Without attacks, so that what is falsified is so by programs."""
    x = torch.rand(6, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    y, weights = mlp()(x).argmax(1), oracles.layers(mlp(), (4,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autodual.ladder.exact._Deciding.attack", lambda *_: None)
        verdict = ad.certify(mlp(), EXACT).exact(x, y)
    for i, label in enumerate(y.tolist()):
        spec = (torch.eye(3)[label] - torch.eye(3)[[k for k in range(3) if k != label]]).numpy()
        center = x[i].numpy()
        boxes = oracles.algorithm_1(weights, center, EXACT)
        ends = center - EXACT, center + EXACT
        true = oracles.optimum(weights, boxes, *ends, spec, exact=True).min()
        told = bool(verdict.verified[i]), bool(verdict.falsified[i])
        assert told == (true > 0, true <= 0), f"a verdict is wrong: {told} at {true}"


def programs_over_plans_are_the_formulas():
    for name in ("two channels in a domain", "a cost matrix"):
        shape, ball = plans.CASES[name]
        x = plans.images(shape, 1)
        net = ad.certify(plans.mlp(x, 0), ball)
        mine, theirs = plans.program_and_formulas(net, x, torch.eye(3, dtype=F64))
        off = abs(mine - theirs).max()
        assert off < 1e-7, f"a program over plans lies {off} away from the formulas"


def a_set_is_not_taken_for_its_parent():
    x, own = flat(1), type("Own", (plans.Half, ad.L1Ball), {})(0.1)
    forms = own.weights(x), own.local(x), own.polyhedron(x)
    assert forms == (None, None, None), "a set is taken for its parent"


def no_point_beats_a_matrix_product():
    no_point_beats(squared(), flat(), ad.LinfBall(0.3), "a matrix product", bounds="dual")


def the_set_at_the_input_is_measured_whole():
    """A linear model's bound is the support function: over the whole domain, a corner's value."""
    model = torch.nn.Linear(4, 3, dtype=F64)
    x = flat()
    box = ad.certify(model, ad.L2Ball(10.0, (0, 1)), bounds="dual").bounds(x)
    positive, negative = model.weight.clamp(min=0).sum(1), model.weight.clamp(max=0).sum(1)
    same([box.upper], [(positive + model.bias).expand(2, 3)], "a corner and the bound")
    same([box.lower], [(negative + model.bias).expand(2, 3)], "a corner and the bound")


def one_hidden_unit_is_exact():
    """Where every op is monotone and no entry is used twice, the intervals are the images."""
    model = random_mlp(1, (2, 1, 3))
    with torch.no_grad():
        model[0].bias.fill_(1.0)
        x = torch.zeros(1, 2, dtype=F64)
        for bounds in ("ibp", "dual", "ibp&dual"):
            box = ad.certify(model, 0.1, bounds=bounds).bounds(x)
            corners = torch.tensor([[-0.1, -0.1], [-0.1, 0.1], [0.1, -0.1], [0.1, 0.1]], dtype=F64)
            images = model(corners)
            same([box.lower[0], box.upper[0]], [images.amin(0), images.amax(0)], "image and box")


def the_bound_is_algorithm_1():
    x = flat(1)
    box = ad.certify(mlp(), 0.3, bounds="dual", slopes="equal").bounds(x)
    lower, upper = oracles.algorithm_1(oracles.layers(mlp(), (4,)), x[0].numpy(), 0.3)[-1]
    found = [box.lower[0].detach(), box.upper[0].detach()]
    same(found, [torch.from_numpy(lower), torch.from_numpy(upper)], "Algorithm 1 and the bound")


def rows_only_tighten():
    """The boxes of intervals and rows lie within those of intervals alone, and are smaller."""
    x = flat()
    with torch.no_grad():
        rough, both = (
            ad.certify(mlp(), 0.3, bounds=bounds).relax(x).boxes for bounds in ("ibp", "ibp&dual")
        )
    gain = 0.0
    for value, box in both.items():
        wide = next(b for v, b in rough.items() if v.name == value.name)
        less = torch.stack([box.lower - wide.lower, wide.upper - box.upper])
        assert bool((less >= -1e-9).all()), f"{value.name} is not in its box by interval arithmetic"
        gain = max(gain, float(less.max()))
    assert gain > 1e-3, "no box is tighter than by interval arithmetic"


def unit_rows_give_the_intervals():
    """The interval of an output, batch dimension anywhere, is what its unit rows' bounds are."""
    for model, x in ((residual(), picture(2)), (around(), picture(2))):
        net = ad.certify(model, 0.1, bounds="dual")
        with torch.no_grad():
            bound = net.relax(x)
            output = net.graph.output
            box = bound.interval(output)
            unit = torch.eye(output.numel, dtype=F64).unsqueeze(0)
            ends = bound.lower({output: unit}), -bound.lower({output: -unit})
            found = [output.per_example(end, len(x)).flatten(1) for end in _ends(box)]
        same(found, ends, "unit rows and intervals")


@cache
def around():
    return make(Around)


def an_overflow_is_unbounded():
    """∞ − ∞ is no number: what it is read as must say nothing, not one thing."""
    x = torch.tensor([[0.1, 5.0]], dtype=F64)
    for bounds in ("ibp", "dual", "ibp&dual"):
        box = ad.certify(Exploding(), 0.1, bounds=bounds).relax(x).boxes
        for value, ends in box.items():
            assert not bool(ends.lower.isnan().any() | ends.upper.isnan().any()), (
                f"{bounds}: the interval of {value.name} is no number"
            )
            assert bool((ends.lower < torch.inf).all()), f"{bounds}: {value.name} is all beyond ∞"
            assert bool((ends.upper > -torch.inf).all()), f"{bounds}: {value.name} is all below −∞"


def no_bound_is_given_beyond_a_domain():
    """log of a negative number is NaN, which no later sigmoid makes a number of."""
    x = torch.tensor([[0.05, 0.5], [0.5, 0.5]], dtype=F64)
    for bounds in ("ibp", "dual", "ibp&dual"):
        lower = ad.certify(Logarithm(), 0.1, bounds=bounds).bounds(x).lower
        assert bool(lower[0].isneginf().all()), f"{bounds}: a bound on what is not defined"
        assert bool(lower[1].isfinite().all()), f"{bounds}: no bound on what is defined"


def what_is_known_of_a_range_is_kept():
    x = torch.tensor([[0.0, 0.1], [1.0, -2.0]], dtype=F64)
    for bounds in ("ibp", "dual", "ibp&dual"):
        box = ad.certify(Length(), 0.3, bounds=bounds).bounds(x)
        finite = box.lower.isfinite() & box.upper.isfinite()
        assert bool(finite.all()), f"{bounds}: a sum of squares is let be negative"
        no_point_beats(Length(), x, ad.LinfBall(0.3), f"a length, {bounds}", bounds=bounds)


CASES = (("sub", "norm"), ("residual",))


def patches_are_dense_rows():
    for kinds in (CASES[0], ("max",)):
        case = *pictures(*kinds), ad.LinfBall(0.3)
        patches = result(*case, bounds="dual")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Patches, "serve", staticmethod(lambda value: False))
            same(patches, result(*case, bounds="dual"), "patches and dense rows")


def chunks_are_the_whole():
    """Also in their gradients: what is computed anew, piece by piece, is what autograd kept."""
    for kinds in CASES:
        case = *pictures(*kinds), ad.LinfBall(0.3)
        whole = result(*case, bounds="dual", select=False)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("autodual.bound.estimators.exact.KEPT", 2**40)
            patch.setattr("autodual.bound.estimators.exact.CACHE_BYTES", 2**17)
            same(result(*case, bounds="dual"), whole, "chunks and the whole")


def parts_of_a_batch_are_the_whole():
    model, x, y = pictures("residual")
    whole = result(model, x, y, ad.LinfBall(0.1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autodual.bound.module.BoundModule._examples_at_once", lambda *args: 1)
        same(result(model, x, y, ad.LinfBall(0.1)), whole, "parts of a batch and the whole")


def each_end_has_its_row():
    """Where an op stays open, a row for each end finds what rows for both find everywhere.

    Few rows, which need not be counted, are asked for at once.
    """
    cases = ((mlp(), flat()), pictures("conv")[:2])
    for (model, x), few in product(cases, (0, 1e8)):
        with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
            patch.setattr("autodual.bound.estimators.exact.FEW", few)
            whole = ad.certify(model, 0.3, select=False).relax(x).boxes
            asked = ad.certify(model, 0.3).relax(x).boxes
        for one, other in zip(whole.values(), asked.values(), strict=True):
            assert bool((one.lower >= other.lower - 1e-9).all()), "a lower end is too high"
            assert bool((one.upper <= other.upper + 1e-9).all()), "an upper end is too low"
            open_ = (other.lower < 0) & (other.upper > 0)
            for end, right in ((other.lower, one.lower), (other.upper, one.upper)):
                same([end[open_]], [right[open_]], "ends by rows of their own and by both")


def any_order_gives_the_bound():
    """Whatever the planner chooses for each value, bounds and gradients stay the same."""
    pick = random.Random(0)

    def arbitrary(plan, record, network, memory):
        return {value: pick.choice(["forward", "backward"]) for value in record.costs}

    options = {"bounds": "dual", "slopes": "equal"}
    for kinds in CASES:
        model, x, y = pictures(*kinds)
        expected = result(model, x, y, ad.LinfBall(0.3), **options, choose=_backward(model, x))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("autodual.bound.module.choose_orders", arbitrary)
            net = ad.certify(model, 0.3, **options, memory="1GiB")
            for _ in range(2):
                net.admitted(x).program._decided_for.clear()
                net(x)
                same(result_of(net, x, y), expected, "orders of the rows")


def _backward(model, x):
    net = ad.certify(model, 0.3, bounds="dual")
    net(x)
    return {v.name: "backward" for v in net.plan.bounded if v != net.graph.perturbed}


def result_of(net, x, y):
    """Return the margins and the gradients of the robust loss."""
    margins = net(x, y).margins
    net.model.zero_grad()
    ad.robust_loss(net, x, y).backward()
    return [margins, *(p.grad for p in net.model.parameters() if p.grad is not None)]


@cache
def wide():
    torch.manual_seed(0)
    sizes = (3, 60, 60, 60, 2)
    layers = [m for a, b in pairwise(sizes) for m in (torch.nn.Linear(a, b), torch.nn.ReLU())]
    return torch.nn.Sequential(*layers[:-1]).double()


def the_planner_chooses_by_cost():
    """Few inputs and hardly an open unit against many rows; the bound stays the same."""
    x = torch.rand(2, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    net = ad.certify(wide(), 1e-4, bounds="dual", slopes="equal")
    with torch.no_grad():
        first, later = net(x).margins, net(x).margins
        shown = str(net.explain(x))
    assert "forward" in shown, "columns cost less and are not chosen"
    same([later], [first], "bounds before and after orders are chosen")
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr("autodual.bound.cost.SHARE", 10**9)
        net = ad.certify(wide(), 1e-4, bounds="dual", slopes="equal", memory="1GiB")
        net(x)
        shown = str(net.explain(x))
    assert "forward" not in shown, "columns do not fit and are chosen"


def an_estimate_is_no_better_than_the_bound():
    model, x, y = picture_net(3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        exact = ad.certify(model, 0.05)(x, y).margins
        size = (ad.certify(model, 0.0)(x, y).margins - exact).max()
        for estimator, slack in (
            (ad.Cauchy(3001, generator), 0.1),
            (ad.Geometric(400, 4, 0.01), 0.0),
        ):
            found = ad.certify(model, 0.05, estimator=estimator)(x, y).margins
            name = type(estimator).__name__
            assert bool((found <= exact + slack * size + 1e-9).all()), f"{name} exceeds the bound"
            assert bool((found >= exact - (slack + 0.5) * size).all()), f"{name} is far below"


def selected_examples_keep_their_bounds():
    """Examples picked from a network, some twice, have the bounds that they had there."""
    index = torch.tensor([1, 1, 0, 2])
    for kinds in CASES:
        model, x, _ = pictures(*kinds)
        eps = torch.tensor([0.02, 0.1, 0.3], dtype=F64)
        for threat in (ad.LinfBall(eps), ad.L2Ball(eps)):
            net = ad.certify(model, threat, bounds="dual")
            with torch.no_grad():
                bound = net.relax(x)
                spec = {net.graph.output: torch.eye(3, dtype=F64).unsqueeze(0)}
                some = _on(bound, bound.networks[0].select(index))
                same([some.lower(spec)], [bound.lower(spec)[index]], "bounds of some examples")


def _on(bound, network):
    """The same sums over another network."""
    (sums,) = bound.sums
    twin = object.__new__(type(sums))
    twin.__dict__.update(vars(sums), network=network)
    return replace(bound, sums=(twin,))


def slopes_from_outside_are_taken():
    """A network with its own slopes is the same; with others it is what is made with them."""
    x = flat()
    net = ad.certify(mlp(), 0.3, bounds="dual", slopes="equal")
    with torch.no_grad():
        bound = net.relax(x)
        network, spec = bound.networks[0], {net.graph.output: torch.eye(3, dtype=F64).unsqueeze(0)}
        last = [v for v, layer in network.layers.items() if layer.boxes][-1]
        own = {last: network[last].relaxed.lower_slopes[0]}
        found = _on(bound, network.with_slopes(own)).lower(spec)
        same([found], [bound.lower(spec)], "bounds with the slopes there were")
        other = {last: torch.full_like(network[last].reference, 0.3)}
        found = _on(bound, network.with_slopes(other)).lower(spec)
        same([found], [net.relax(x, slopes=other).lower(spec)], "bounds with slopes given")


def boxes_from_outside_are_intersected():
    """Exact boxes tighten a bound and leave it one; boxes that say nothing leave it the same."""
    x, spec = flat(), torch.eye(3, dtype=F64)
    model, threat = mlp(), ad.LinfBall(0.3)
    tight = ad.certify(model, threat, bounds="ibp&dual").relax(x)
    net = ad.certify(model, threat, bounds="ibp")
    with torch.no_grad():
        free = net.relax(x)
        given = {v: b for v, b in tight.boxes.items() if v.name != net.graph.perturbed.name}
        known = net.relax(x, given={v.name: b for v, b in given.items()})
        rows = {net.graph.output: spec.unsqueeze(0)}
        output = net.graph.output
        box = known.interval(output)
        holds(tried(model, x, threat), box, spec, known.lower(rows), "boxes given")
        gain = known.lower(rows) - free.lower(rows)
        assert bool((gain >= -1e-9).all()), "a box given loosened the bound"
        assert bool((gain > 1e-6).any()), "a box given was not used"
        wide = {v.name: Interval(b.lower - 100, b.upper + 100) for v, b in given.items()}
        same([net.relax(x, given=wide).lower(rows)], [free.lower(rows)], "bounds with wide boxes")


def moved(box):
    return Interval(box.lower, box.center)


def without_first(pieces):
    """Leave the first piece out where pieces are computed anew."""

    def some(others, matter):
        for k, piece in enumerate(pieces(others, matter)):
            if k or not others:
                yield piece

    return some


def reversed_where_it_matters(pieces):
    """Ask for the results that matter in another order."""
    return lambda others, matter: pieces(others, None if matter is None else matter.flip(0))


def _half(columns):
    return None if columns is None else 0.5 * columns


def radius_kept(f):
    """Replace all tensors but the radius."""

    def broken(self, others):
        twin = f(self, others)
        twin.__dict__.update(radius=None if self.radius is None else self.radius.detach())
        return twin

    return broken


def unmoved_intercept(f):
    """Pick examples of the slopes and of none of the intercepts."""

    def broken(self, change, batch, inputs):
        return replace(f(self, lambda v, t: change(v, t).roll(1, 0), batch, inputs))

    return broken


CANARIES = {
    "deviation halved": Canary(
        "autodual.bound.travel.at_entry",
        lambda f: lambda *given: 0.5 * f(*given),
        no_point_beats_the_bound,
        "dual: (an output|a row) lies (below|above)",
    ),
    "products of matrices: the rest dropped": Canary(
        "autodual.duals.relaxed.Product.about",
        lambda f: lambda self, *z: (f(self, *z)[0], 0.1 * f(self, *z)[1]),
        no_point_beats_a_matrix_product,
        "a matrix product: an output lies",
    ),
    "products of matrices: about another point": Canary(
        "autodual.duals.products.MatrixProduct.relax",
        lambda f: lambda self, call, x, y, **_: f(self, call, x, Interval(y.center, y.center)),
        no_point_beats_a_matrix_product,
        "a matrix product: an output lies",
    ),
    "the distance of planes dropped": Canary(
        "autodual.duals.relaxed.Planes.about",
        lambda f: lambda self, *z: (f(self, *z)[0], 0 * f(self, *z)[0]),
        no_point_beats_a_product,
        "a product: an output lies",
    ),
    "rows of the wrong sign": Canary(
        "autodual.bound.rows.dense.Dense.pull_lines",
        lambda f: lambda self, lines, memo: [-rows for rows in f(self, lines, memo)],
        no_point_beats_a_skip,
        "a skip: an output lies",
    ),
    "skip connections overwritten": Canary(
        "autodual.bound.travel.add",
        lambda f: lambda a, b: b,
        no_point_beats_a_skip,
        "a skip: an output lies",
    ),
    "lines of twice the slope": Canary(
        "autodual.bound.rows.dense.Dense.pull_lines",
        lambda f: lambda self, lines, memo: [add(r, r) for r in f(self, lines, memo)],
        the_bound_is_algorithm_1,
        "Algorithm 1 and the bound differ",
    ),
    "ℓ2 room ignored below": Canary(
        "autodual.threat.cut.Cut.deviation",
        lambda f: lambda self, nu: f(replace(self, down=0.5 * self.down), nu),
        the_set_at_the_input_is_measured_whole,
        "a corner and the bound differ",
    ),
    "flat planes: the upper one in the middle": Canary(
        "autodual.duals.relaxed.Planes.flat",
        lambda f: lambda box: f(moved(box)),
        one_hidden_unit_is_exact,
        "image and box differ",
    ),
    "flat planes: both in the middle": Canary(
        "autodual.duals.relaxed.Planes.flat",
        lambda f: lambda box: f(Interval(box.center, box.center)),
        no_point_beats_intervals,
        "ibp: an output lies",
    ),
    "interval ends intersected the wrong way": Canary(
        "autodual.interval.Interval.intersect",
        lambda f: (
            lambda self, other: Interval(
                torch.maximum(self.lower, other.lower),
                torch.minimum(self.upper, other.upper) - 0.05,
            )
        ),
        one_hidden_unit_is_exact,
        "image and box differ",
    ),
    "interval: intervals in the wrong places": Canary(
        "autodual.bound.reading.interval",
        lambda f: lambda sums, units: f(sums, units).map(lambda end: end.flip(0)),
        unit_rows_give_the_intervals,
        "unit rows and intervals differ",
    ),
    "interval: rows of another example": Canary(
        "autodual.bound.reading.interval",
        lambda f: lambda sums, units: f(sums, replace(units, owner=units.owner.flip(0))),
        unit_rows_give_the_intervals,
        "unit rows and intervals differ",
    ),
    "meet: the box forgotten": Canary(
        "autodual.bound.building.meet",
        lambda f: lambda box, units, found: f(nothing_known(box.lower), units, found),
        rows_only_tighten,
        "not in its box by interval arithmetic",
    ),
    "meet: the ends of the rows' bounds dropped": Canary(
        "autodual.bound.building.meet",
        lambda f: lambda box, units, found: box,
        rows_only_tighten,
        "no box is tighter",
    ),
    "widen: NaN left": Canary(
        "autodual.bound.building.widen",
        lambda f: lambda box, look: box,
        an_overflow_is_unbounded,
        "is no number",
    ),
    "widen: NaN of rows left": Canary(
        "autodual.bound.reading.widen",
        lambda f: lambda box, look: box,
        an_overflow_is_unbounded,
        "dual: the interval of .* is no number",
    ),
    "sets taken for symmetric": Canary(
        "autodual.bound.relaxation.Relaxation.symmetric",
        lambda f: lambda self, values: True,
        the_set_at_the_input_is_measured_whole,
        "a corner and the bound differ",
    ),
    "the arguments' rows exchanged": Canary(
        "autodual.bound.travel._pull",
        lambda f: lambda layer, rows, memo: f(layer, rows, memo)[::-1],
        no_point_beats_a_product,
        "a product: an output lies",
    ),
    "what planes add to optimised sums left out": Canary(
        "autodual.bound.layer.Facet.lead",
        lambda f: lambda self, up, down: [*f(self, up, down)[:-1], 0 * up],
        no_point_beats_optimised_planes,
        "optimised planes: an output lies",
    ),
    "distances of planes from z⁰ halved": Canary(
        "autodual.solve.polytope.array",
        lambda f: lambda tensor: f(tensor) / 2,
        no_linear_program_passes_a_point,
        "a program passes a point",
    ),
    "programs that ask for far too little": Canary(
        "autodual.solve.branching.margin_of",
        lambda f: lambda cost, value: -0.5 * (1 + abs(value)),
        programs_decide_as_an_independent_one_does,
        "a verdict is wrong",
    ),
    "pieces that reach half as far": Canary(
        "autodual.solve.integer._unit",
        lambda f: lambda *args: 2 * f(*args),
        programs_decide_as_an_independent_one_does,
        "a verdict is wrong",
    ),
    "plans on half the budget": Canary(
        "autodual.threat.wasserstein.Wasserstein.polyhedron",
        lambda f: lambda self, x: f(self.with_eps(0.5 * self.eps), x),
        programs_over_plans_are_the_formulas,
        "a program over plans lies",
    ),
    "pixels that send more than they hold": Canary(
        "autodual.threat.transport.Moves.polyhedron",
        lambda f: lambda self, mass, budget: f(self, 2 * mass, budget),
        programs_over_plans_are_the_formulas,
        "a program over plans lies",
    ),
    "plans left out of what is proved": Canary(
        "autodual.solve.polytope.Polytope._over",
        lambda f: lambda self, cost, y: -float("inf"),
        programs_over_plans_are_the_formulas,
        "a program over plans lies",
    ),
    "forms inherited with another set": Canary(
        "autodual.threat.base.FORMS",
        lambda forms: {},
        a_set_is_not_taken_for_its_parent,
        "taken for its parent",
    ),
    "rows asked for nowhere": Canary(
        "autodual.bound.building.Building.open",
        lambda f: lambda self, value, box: f(self, value, box) & False,
        the_bound_is_algorithm_1,
        "Algorithm 1 and the bound differ",
    ),
    "rows for upper ends not turned": Canary(
        "autodual.bound.rows.seeds.Units.rows",
        lambda f: lambda self, like: f(replace(self, negative=None), like),
        each_end_has_its_row,
        "an upper end is too low|ends by rows of their own and by both",
    ),
    "a second end asked for nowhere": Canary(
        "autodual.bound.rows.seeds.Units.those",
        lambda f: lambda self, mask: f(self, mask & False),
        each_end_has_its_row,
        "ends by rows of their own and by both",
    ),
    "second ends read off the first rows": Canary(
        "autodual.bound.rows.seeds.Units.both_sides",
        lambda f: lambda self: replace(f(self), negative=f(self).negative.flip(0)),
        each_end_has_its_row,
        "ends by rows of their own and by both",
    ),
    "rows not asked for at the first entry": Canary(
        "autodual.bound.rows.seeds.Units.where",
        lambda f: lambda value, mask: f(value, mask & (torch.arange(mask.shape[1]) > 0)),
        the_bound_is_algorithm_1,
        "Algorithm 1 and the bound differ",
    ),
    "widen: a lower end where nothing is known": Canary(
        "autodual.bound.building.widen",
        lambda f: (
            lambda box, look: Interval(
                f(box, look).lower.nan_to_num(0, torch.inf, torch.inf), f(box, look).upper
            )
        ),
        an_overflow_is_unbounded,
        "is all beyond ∞",
    ),
    "a domain forgotten": Canary(
        "autodual.bound.layer.Layer.undefined",
        lambda f: property(lambda self: None),
        no_bound_is_given_beyond_a_domain,
        "a bound on what is not defined",
    ),
    "a domain taken for left everywhere": Canary(
        "autodual.bound.relaxation.Relaxation.undefined",
        lambda f: property(lambda self: torch.ones(self.batch, dtype=torch.bool)),
        no_bound_is_given_beyond_a_domain,
        "no bound on what is defined",
    ),
    "a range not kept": Canary(
        "autodual.bound.plan.Plan.within",
        lambda f: lambda self, value, box: box,
        what_is_known_of_a_range_is_kept,
        "a sum of squares is let be negative",
    ),
    "an example's own slopes exchanged": Canary(
        "autodual.bound.layer.Layer.map",
        unmoved_intercept,
        selected_examples_keep_their_bounds,
        "bounds of some examples differ",
    ),
    "selected: the set of the first examples": Canary(
        "autodual.bound.layer.Entry.select",
        lambda f: lambda self, index: f(self, torch.arange(len(index)) % len(self.x)),
        selected_examples_keep_their_bounds,
        "bounds of some examples differ",
    ),
    "selected: examples in ascending order": Canary(
        "autodual.bound.relaxation.Relaxation.select",
        lambda f: lambda self, index: f(self, index.sort().values),
        selected_examples_keep_their_bounds,
        "bounds of some examples differ",
    ),
    "slopes from outside dropped": Canary(
        "autodual.bound.relaxation.Relaxation.with_slopes",
        lambda f: lambda self, slopes: self,
        slopes_from_outside_are_taken,
        "bounds with slopes given differ",
    ),
    "slopes from outside halved": Canary(
        "autodual.bound.relaxation.Relaxation.with_slopes",
        lambda f: lambda self, slopes: f(self, {v: 0.5 * s for v, s in slopes.items()}),
        slopes_from_outside_are_taken,
        "bounds with the slopes there were differ",
    ),
    "boxes from outside ignored": Canary(
        "autodual.bound.module._named",
        lambda f: lambda plan, given: {},
        boxes_from_outside_are_intersected,
        "a box given was not used",
    ),
    "boxes from outside taken as they are": Canary(
        "autodual.interval.Interval.intersect",
        lambda f: lambda self, other: other,
        boxes_from_outside_are_intersected,
        "a box given loosened the bound|bounds with wide boxes differ",
    ),
    "boxes from outside intersected with half": Canary(
        "autodual.bound.module._named",
        lambda f: lambda plan, given: {v: moved(b) for v, b in f(plan, given).items()},
        boxes_from_outside_are_intersected,
        "boxes given: an output lies",
    ),
    "tensors replaced, but not the radius": Canary(
        "autodual.bound.layer.Layer.replace",
        radius_kept,
        chunks_are_the_whole,
        "chunks and the whole differ",
    ),
    "vectors replaced without their gradient": Canary(
        "autodual.bound.layer.Layer.replace",
        lambda f: (
            lambda self, others: f(
                self, {name: t.detach() if t.dim() < 2 else t for name, t in others.items()}
            )
        ),
        chunks_are_the_whole,
        "chunks and the whole differ",
    ),
    "the first piece not differentiated": Canary(
        "autodual.bound.recompute._Recomputed.apply",
        lambda f: lambda pieces, *given: f(without_first(pieces), *given),
        chunks_are_the_whole,
        "chunks and the whole differ",
    ),
    "the first part of a batch not differentiated": Canary(
        "autodual.bound.recompute._Recomputed.apply",
        lambda f: lambda pieces, *given: f(without_first(pieces), *given),
        parts_of_a_batch_are_the_whole,
        "parts of a batch and the whole differ",
    ),
    "results that matter mixed up": Canary(
        "autodual.bound.recompute._Recomputed.apply",
        lambda f: lambda pieces, *given: f(reversed_where_it_matters(pieces), *given),
        chunks_are_the_whole,
        "chunks and the whole differ",
    ),
    "columns pushed through lines of half the slope": Canary(
        "autodual.bound.projection.Sources._elementwise",
        lambda f: lambda self, layer: _half(f(self, layer)),
        any_order_gives_the_bound,
        "orders of the rows differ",
    ),
    "columns that begin elsewhere taken for the first": Canary(
        "autodual.bound.projection.Sources.filled",
        lambda f: lambda self, columns: f(self, columns).roll(1, 1),
        any_order_gives_the_bound,
        "orders of the rows differ",
    ),
    "columns of another unit": Canary(
        "autodual.bound.estimators.forward.ForwardSums.deviations",
        lambda f: lambda self, seeds, both: f(self, seeds, both).roll(1, 1),
        any_order_gives_the_bound,
        "orders of the rows differ",
    ),
    "columns taken for dear": Canary(
        "autodual.bound.cost._push",
        lambda f: lambda *given: (torch.inf, 0),
        the_planner_chooses_by_cost,
        "columns cost less and are not chosen",
    ),
    "columns taken for small": Canary(
        "autodual.bound.cost._push",
        lambda f: lambda *given: (f(*given)[0], 0),
        the_planner_chooses_by_cost,
        "columns do not fit and are chosen",
    ),
    "windows moved": Canary(
        "autodual.bound.rows.patches.Frame.through",
        lambda f: lambda self, w: f(self, replace(w, padding=(w.padding[0], 0))),
        patches_are_dense_rows,
        "patches and dense rows differ",
    ),
    "entries outside the image kept": Canary(
        "autodual.bound.rows.patches.Patches.cleaned",
        lambda f: lambda self, memo: self,
        patches_are_dense_rows,
        "patches and dense rows differ",
    ),
    "patches added where they do not lie": Canary(
        "autodual.bound.rows.patches.Patches._margins",
        lambda f: (
            lambda self, offset, size: f(self, (size[0] - self.data.shape[2], offset[1]), size)
        ),
        patches_are_dense_rows,
        "patches and dense rows differ",
    ),
    "the chunks' shared part not differentiated": Canary(
        "autodual.bound.rows.memo.Memo.finish",
        lambda f: lambda self: None,
        chunks_are_the_whole,
        "chunks and the whole differ",
    ),
    "columns lost": Canary(
        "autodual.bound.projection.Sources._inject",
        lambda f: lambda self, columns, radius: f(self, columns, radius * (radius > radius.mean())),
        any_order_gives_the_bound,
        "orders of the rows differ",
    ),
    "noise halved": Canary(
        "autodual.bound.projection.Projection._inject",
        lambda f: lambda self, columns, radius: f(self, columns, 0.2 * radius),
        an_estimate_is_no_better_than_the_bound,
        "(Cauchy|Geometric) exceeds the bound",
    ),
    "no margin for chance": Canary(
        "autodual.bound.estimators.projected.margin",
        lambda f: lambda r, repeats, delta: -0.5,
        an_estimate_is_no_better_than_the_bound,
        "(Cauchy|Geometric) exceeds the bound",
    ),
}
CHECKS = checks_of(CANARIES)


@pytest.mark.parametrize("name", CHECKS)
def test_checks_pass_on_the_unbroken_engine(name):
    CHECKS[name]()


@pytest.mark.parametrize("name", CANARIES)
def test_broken_engines_are_noticed(name, monkeypatch):
    must_be_noticed(CANARIES[name], monkeypatch)
