"""No sampled point, vertex or attack beats a bound; exact solvers lie where they must."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import autodual as ad
from autodual.bound.plan import METHODS
from autodual.duals import REGISTRY, Call
from autodual.duals.base import Hole
from tests import oracles
from tests.nets import random_convnet, random_mlp, random_net

seeds = st.integers(0, 10**6)
EPS = st.sampled_from([0.0, 1e-6, 0.05, 0.3, 1.0, 10.0])


def make_threat(kind, eps, x, domain):
    if kind == "box":
        return ad.Box(x - eps * torch.rand_like(x), x + eps * torch.rand_like(x), domain)
    ball = {"linf": ad.LinfBall, "l2": ad.L2Ball, "l1": ad.L1Ball}[kind]
    return ball(eps, domain)


def candidates(net, x, threat, generator):
    """Points of the set around x [1, *]: random ones, corners, PGD for every class."""

    def repeated(count):
        index = torch.zeros(count, dtype=torch.long)
        return threat.select(x, index), x[index]

    around, center = repeated(30)
    found = [around.random_start(center, generator)]
    corners = torch.cat(vertices(threat.interval(x), 64))
    around, center = repeated(len(corners))
    found.append(around.project(center, corners))
    with torch.enable_grad():
        start = x.detach().clone().requires_grad_()
        climbable = torch.autograd.grad(net(start).sum(), start, allow_unused=True)[0] is not None
    if climbable:
        around, center = repeated(3)
        with warnings.catch_warnings():  # in a small random net no unit may be on
            warnings.simplefilter("ignore", ad.errors.AttackWarning)
            labels = torch.arange(3)
            found.append(ad.attack.pgd(net, center, labels, around, steps=10, step_size=0.3).x)
    return torch.cat(found)


def vertices(box, limit=256):
    """Corners of one example's box [1, *]: all of them if few, else the first ``limit``."""
    flat = torch.stack([box.lower.flatten(), box.upper.flatten()])
    n = flat.shape[1]
    corners = itertools.islice(itertools.product((0, 1), repeat=n), limit)
    columns = torch.arange(n)
    return [flat[torch.tensor(c), columns].reshape(box.lower.shape) for c in corners]


def check_bound(net, x, threat, methods, spec, generator, **options):
    """C f(x′) ≥ bound for every point tried, per example."""
    images = []
    for i in range(len(x)):
        one = threat
        if isinstance(threat, ad.Box):
            one = ad.Box(threat.lower[i : i + 1], threat.upper[i : i + 1], threat.domain)
        images.append(net(candidates(net, x[i : i + 1], one, generator)).detach())
    for method in methods:
        certified = ad.certify(net, threat, bounds=method, **options)
        bound = certified.lower_bound(x, spec)
        outputs = certified.bounds(x)
        for i, z in enumerate(images):
            slack = 1e-9 * (1 + z.abs().max() + bound[i].abs().max())
            assert bool((z @ spec.mT >= bound[i] - slack).all()), f"{method}: C z below its bound"
            assert bool((z >= outputs.lower[i] - slack).all()), f"{method}: z below its bound"
            assert bool((z <= outputs.upper[i] + slack).all()), f"{method}: z above its bound"


@given(seed=seeds, eps=EPS, cut=st.booleans())
@settings(max_examples=12)
def test_no_point_beats_the_bound(seed, eps, cut):
    net, shape = random_net(seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(2, *shape, generator=generator, dtype=torch.float64)
    spec = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    for kind in ("linf", "l2", "l1", "box"):
        threat = make_threat(kind, eps, x, (0.0, 1.0) if cut else None)
        with torch.no_grad():
            check_bound(net, x, threat, METHODS, spec, generator)


@given(seed=seeds, eps=EPS)
@settings(max_examples=10)
def test_no_point_beats_the_bound_with_free_slopes(seed, eps):
    net, shape = random_net(seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(2, *shape, generator=generator, dtype=torch.float64)
    spec = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        for threat in (ad.LinfBall(eps), ad.L2Ball(eps, (0, 1))):
            check_bound(net, x, threat, ["dual", "ibp&dual"], spec, generator, slopes="free")


def test_free_slopes_of_relu_are_those_of_the_field():
    """The chord above, and below 1 if u > −ℓ, else 0."""
    box = ad.Interval(torch.tensor([-1.0, -2.0, 1.0, -3.0]), torch.tensor([2.0, 1.0, 2.0, -1.0]))
    rule, call = REGISTRY["aten.relu.default"], Call(torch.relu, {"self": Hole(0)})
    lines = rule.relax(call, box, at=[box.center])
    torch.testing.assert_close(lines.lower_slopes[0], torch.tensor([1.0, 0.0, 1.0, 0.0]))
    torch.testing.assert_close(lines.upper_slopes[0], torch.tensor([2 / 3, 1 / 3, 1.0, 0.0]))
    torch.testing.assert_close(lines.lower_intercept, torch.zeros(4))


class Logarithm(torch.nn.Module):
    def forward(self, x):
        return torch.sigmoid(torch.log(x)) * torch.tensor([1.0, -1.0], dtype=x.dtype)


@pytest.mark.parametrize("method", METHODS)
def test_an_example_that_may_leave_the_domain_of_an_op_has_no_bound(method):
    """log of a negative number is NaN, which no later sigmoid makes a number of."""
    net = ad.certify(Logarithm(), 0.1, bounds=method)
    x = torch.tensor([[0.05, 0.5], [0.5, 0.5]], dtype=torch.float64)
    bound = net.lower_bound(x, torch.eye(2, dtype=torch.float64))
    assert bool(bound[0].isneginf().all())
    assert bool(bound[1].isfinite().all())
    assert bool(net.bounds(x).upper[0].isposinf().all())


@given(seed=seeds, eps=st.sampled_from([0.01, 0.1, 0.5]), picture=st.booleans())
@settings(max_examples=25)
def test_attack_milp_lp_bound(seed, eps, picture):
    """attack ≥ MILP ≥ LP ≥ bound on small ReLU nets."""
    net, shape = random_convnet(seed) if picture else (random_mlp(seed), None)
    shape = shape or (net[0].in_features,)
    weights = oracles.layers(net, shape)
    x = torch.randn(1, *shape, dtype=torch.float64)
    spec = torch.randn(2, net[-1].out_features, dtype=torch.float64)
    with torch.no_grad():
        for method in METHODS:
            certified = ad.certify(net, eps, bounds=method)
            bound = certified.lower_bound(x, spec)[0].numpy()
            boxes = [
                (b.lower.flatten().numpy(), b.upper.flatten().numpy())
                for b in certified.relax(x).boxes.values()
            ]
            low, high = (x - eps).flatten().numpy(), (x + eps).flatten().numpy()
            lp = oracles.optimum(weights, boxes, low, high, spec.numpy(), exact=False)
            slack = 1e-6 * (1 + np.abs(lp))
            assert (lp >= bound - slack).all(), (method, lp, bound)
        exact = oracles.optimum(weights, boxes, low, high, spec.numpy(), exact=True)
        assert (exact >= lp - slack).all(), (exact, lp)
    points = (
        candidates(net, x, ad.LinfBall(eps), torch.Generator().manual_seed(seed))
        if (net[-1].out_features >= 3)
        else x + eps * (2 * torch.rand(50, *shape, dtype=torch.float64) - 1)
    )
    values = (net(points) @ spec.mT).detach().numpy().min(0)
    assert (values >= exact - slack).all(), (values, exact)


@given(seed=seeds, eps=st.sampled_from([0.01, 0.1, 1.0]), norm=st.sampled_from([np.inf, 2, 1]))
@settings(max_examples=25)
def test_dual_is_algorithm_1(seed, eps, norm):
    """The fixed-slope bound equals an independent numpy implementation to 1e-9."""
    net = random_mlp(seed)
    weights = oracles.layers(net, (net[0].in_features,))
    x = torch.randn(1, net[0].in_features, dtype=torch.float64)
    ball = {np.inf: ad.LinfBall, 2: ad.L2Ball, 1: ad.L1Ball}[norm](eps)
    certified = ad.certify(net, ball, bounds="dual", slopes="equal")
    with torch.no_grad():
        relaxed = certified.relax(x)
        outputs = certified.bounds(x)
    theirs = oracles.algorithm_1(weights, x[0].numpy(), eps, norm)
    ours = [*relaxed.boxes.values(), outputs]
    for mine, (lower, upper) in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine.lower[0].numpy(), lower, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(mine.upper[0].numpy(), upper, rtol=1e-9, atol=1e-9)


@given(seed=seeds, cut=st.booleans())
@settings(max_examples=6)
def test_larger_eps_is_never_tighter(seed, cut):
    net, shape = random_net(seed)
    x = torch.rand(1, *shape, dtype=torch.float64)
    spec = torch.randn(4, 3, dtype=torch.float64)
    for method, kind in itertools.product(METHODS, ("linf", "l2", "l1")):
        check_monotone(net, x, spec, method, kind, cut)


def check_monotone(net, x, spec, method, kind, cut):
    eps = torch.tensor([0.0, 0.01, 0.02, 0.1, 0.3, 1.0], dtype=torch.float64)
    many = x.expand(len(eps), *x.shape[1:])
    with torch.no_grad():
        threat = make_threat(kind, eps, many, (0.0, 1.0) if cut else None)
        bound = ad.certify(net, threat, bounds=method).lower_bound(many, spec)
    for smaller, larger in itertools.pairwise(bound):
        slack = 1e-9 * (1 + smaller.abs())
        assert bool((larger <= smaller + slack).all()), (kind, method, bound)


def test_intersection_is_never_looser_than_its_parts():
    net, shape = random_net(3)
    x = torch.rand(4, *shape, dtype=torch.float64)
    with torch.no_grad():
        both = ad.certify(net, 0.2, bounds="ibp&dual").relax(x).boxes
        ibp = ad.certify(net, 0.2, bounds="ibp").relax(x).boxes
    for value, box in both.items():
        assert bool((box.lower >= ibp[value].lower - 1e-12).all())
        assert bool((box.upper <= ibp[value].upper + 1e-12).all())


@given(seed=seeds)
@settings(max_examples=20)
def test_slopes_from_outside_are_sound(seed):
    net, shape = random_net(seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(1, *shape, dtype=torch.float64)
    certified = ad.certify(net, 0.3, bounds="dual")
    certified.explain(x)
    slopes = {
        step.out: torch.rand(step.out.size(1), generator=generator, dtype=torch.float64)
        for steps in certified.plan.bounded.values()
        for step in steps
    }
    spec = torch.eye(3, dtype=torch.float64)
    with torch.no_grad():
        relaxed = certified.relax(x, slopes)
        bound = relaxed.lower({certified.graph.output: spec.unsqueeze(0)})
        z = net(candidates(net, x, ad.LinfBall(0.3), generator))
    assert bool((z >= bound - 1e-9 * (1 + bound.abs())).all())


@pytest.mark.long
@given(seed=seeds)
@settings(max_examples=10)
def test_chunked_equals_whole(seed):
    net, shape = random_net(seed)
    x = torch.rand(3, *shape, dtype=torch.float64)
    certified = ad.certify(net, 0.2, bounds="dual")
    whole = certified.lower_bound(x, torch.eye(3, dtype=torch.float64)).detach()
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("autodual.bound.estimators.exact.CACHE_BYTES", 1000)
        chunked = certified.lower_bound(x, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(whole, chunked, rtol=1e-9, atol=1e-9)


@pytest.mark.long
@given(seed=seeds)
@settings(max_examples=10)
def test_examples_and_dtypes_agree(seed):
    """A batch gives what its examples give alone; float32 agrees with float64 to rounding."""
    net, shape = random_net(seed)
    x = torch.rand(3, *shape, dtype=torch.float64)
    spec = torch.eye(3, dtype=torch.float64)
    with torch.no_grad():
        batch = ad.certify(net, 0.1).lower_bound(x, spec)
        alone = torch.cat([ad.certify(net, 0.1).lower_bound(e.unsqueeze(0), spec) for e in x])
        torch.testing.assert_close(batch, alone, rtol=1e-9, atol=1e-9)
        single = ad.certify(net.float(), 0.1).lower_bound(x.float(), spec.float())
    torch.testing.assert_close(single.double(), batch, rtol=1e-3, atol=1e-3)
