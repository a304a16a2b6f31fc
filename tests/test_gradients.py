"""Gradients of robust_loss against finite differences, in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import autodual as ad
from tests.test_capture import Assigned, Dense, Functional, Residual, Stem, Twice, make, picture
from tests.zoo import Net

Y = torch.tensor([0, 1, 2])


def check_gradients(model, bounds, threat):
    """Compare the directional derivative along a random direction with a central difference."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    directions = [torch.randn_like(p) for p in parameters]

    def loss():
        net = ad.certify(model, threat, bounds=bounds)
        return ad.robust_loss(net, picture(), Y)

    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
    slope = sum(
        (g * d).sum().item() for g, d in zip(gradients, directions, strict=True) if g is not None
    )
    step, ends = 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p.add_(d, alpha=sign * step)
            ends.append(loss().item())
            for p, d in zip(parameters, directions, strict=True):
                p.sub_(d, alpha=sign * step)
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("bounds", ["ibp", "ibp+dual", "dual", "ibp&dual"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", [Functional, Residual, Dense, Twice, Stem, Assigned])
def test_gradient_is_the_derivative(kind, training, bounds):
    check_gradients(make(kind, training), bounds, ad.LinfBall(0.05, domain=(0, 1)))


@pytest.mark.parametrize("threat", [ad.L2Ball(0.3), ad.L2Ball(0.3, (0, 1)), ad.L1Ball(0.4, (0, 1))])
def test_gradient_for_other_sets(threat):
    check_gradients(make(Residual, training=True), "dual", threat)


@pytest.mark.parametrize("bounds", ["ibp", "ibp+dual", "dual", "ibp&dual"])
@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh])
def test_second_derivatives_are_refused(act, bounds):
    model = nn.Sequential(nn.Linear(4, 5), act(), nn.Linear(5, 3))
    x, eps = torch.rand(3, 4, requires_grad=True), torch.full((3,), 0.1, requires_grad=True)
    net, eye = ad.certify(model, eps, bounds=bounds), torch.eye(3, requires_grad=True)
    leaves = model[0].weight, x, eps, eye

    def outputs():
        yield net.margins(x, Y).sum(), leaves[:3]
        yield ad.robust_loss(net, x, Y), leaves[:3]
        yield net.lower_bound(x, eye).sum(), leaves
        yield net.bounds(x).upper.sum(), leaves[:3]
        if "dual" in bounds:
            yield net.relax(x).lower({net.graph.output: eye[None]}).sum(), leaves

    for bound, wanted in outputs():
        for leaf in wanted:
            with pytest.raises(ad.errors.InputError, match="first derivatives only"):
                torch.autograd.grad(bound, leaf, create_graph=True, retain_graph=True)
        assert all(g is not None for g in torch.autograd.grad(bound, wanted))


def test_the_loss_bounds_what_an_attack_can_do():
    """Theorem 2: the robust loss is at least the loss at any point of the set."""
    model = make(Functional)
    threat = ad.LinfBall(0.1, domain=(0, 1))
    bound = ad.robust_loss(model, picture(), Y, threat).item()
    worst = ad.attack.pgd(model, picture(), Y, threat, steps=30)
    assert nn.functional.cross_entropy(model(worst.x), Y).item() <= bound


def test_robust_training_lowers_the_certified_error():
    torch.manual_seed(0)
    x = torch.randn(64, 2, dtype=torch.float64)
    y = (x[:, 0] > 0).long()
    x[:, 0] += torch.where(y == 1, 0.3, -0.3)
    model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2)).double()
    standard = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    other = torch.optim.Adam(standard.parameters(), 0.02)
    for step in range(60):
        eps = 0.25 * min(1, (step + 1) / 30)
        optimizer.zero_grad()
        ad.robust_loss(model, x, y, eps).backward()
        optimizer.step()
        other.zero_grad()
        nn.functional.cross_entropy(standard(x), y).backward()
        other.step()
    assert ad.certify(model, 0.25)(x, y).error <= ad.certify(standard, 0.25)(x, y).error
    assert ad.certify(model, 0.25)(x, y).error < 0.1


def test_radius_is_certified_and_close_to_the_limit():
    model = make(Functional)
    x = picture()
    net = ad.certify(model, 0.1)
    y = model(x).argmax(1)
    radius = net.radius(x, y)
    assert bool((radius > 0).all())
    assert bool(net.at(radius)(x, y).verified.all())
    assert not bool(net.at(radius * 1.001 + 1e-6)(x, y).verified.any())
    assert torch.equal(net.detect(x), net(x).verified)
    assert float(net.radius(x, (y + 1) % 3).max()) == 0.0


STEEP = {
    "norm": lambda z: z.norm(dim=1, keepdim=True),
    "normalize": F.normalize,
    "root of a sum of squares": lambda z: z.pow(2).sum(1, keepdim=True).sqrt(),
    "distances": lambda z: torch.cdist(z, torch.eye(3)),
    "standard deviation": lambda z: z.std(1, keepdim=True),
    "a root of a ReLU": lambda z: z.relu().sqrt(),
    "powers": lambda z: z.abs() ** torch.tensor([0.5, 1.5, 2.0]),
    "cosine": lambda z: F.cosine_similarity(z, z.roll(1, 1))[:, None],
}


@pytest.mark.parametrize("bounds", ["ibp", "ibp+dual", "dual", "ibp&dual"])
@pytest.mark.parametrize("name", STEEP)
def test_where_a_root_is_vertical_gradients_stay_finite(name, bounds):
    """At 0 √ has slope ∞ and a square before it has slope 0."""
    layer = nn.Linear(3, 3, bias=False)
    model = Net(lambda net, x: torch.cat([y := STEEP[name](net.fc(x)), -y], 1), fc=layer)
    x, y = torch.tensor([[0.0, 0.0, 0.0], [0.5, -1.0, 2.0]]), torch.tensor([0, 1])
    for eps, slopes in ((0.0, "equal"), (1.0, "equal"), (0.0, "free"), (1.0, "free")):
        net = ad.certify(model, eps, bounds=bounds, slopes=slopes)
        (gradient,) = torch.autograd.grad(ad.robust_loss(net, x, y), [layer.weight])
        assert bool(gradient.isfinite().all()), (eps, slopes)


@pytest.mark.parametrize("slopes", ["free", "equal"])
def test_gradients_of_maxima_are_finite_where_boxes_are_points(slopes):
    """At ε = 0, where schedules begin, and where no unit of a window is on."""
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 3)
    )
    model = model.double()
    with torch.no_grad():
        model[0].bias[0] = -9.0
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    for eps in (0.0, 0.01):
        net = ad.certify(model, eps, slopes=slopes)
        loss = ad.robust_loss(net, x, torch.tensor([0, 2]))
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        assert all(bool(g.isfinite().all()) for g in gradients), eps


@pytest.mark.parametrize("bounds", ["ibp", "ibp+dual", "dual", "ibp&dual"])
@pytest.mark.parametrize("f", [F.elu, F.gelu, torch.abs, F.hardswish, F.relu6])
def test_gradients_at_a_point_are_those_of_the_model(f, bounds):
    """At ε = 0 breakpoints and inflections that lie outside a box move with it."""
    layer = nn.Linear(3, 5).double()
    model = Net(lambda net, x: f(net.fc(x)), fc=layer)
    x, y = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 4])
    (expected,) = torch.autograd.grad(F.cross_entropy(model(x), y), [layer.weight])
    for slopes in ("free", "equal"):
        net = ad.certify(model, 0.0, bounds=bounds, slopes=slopes)
        (gradient,) = torch.autograd.grad(ad.robust_loss(net, x, y), [layer.weight])
        assert torch.allclose(gradient, expected), slopes


BENT = {
    "leaky ReLU": lambda z: F.leaky_relu(z, 0.2),
    "ELU": F.elu,
    "GELU": F.gelu,
    "abs": torch.abs,
    "square": lambda z: z * z,
    "step": lambda z: torch.where(z > 0.1, 2 * z, -z),
    "product": lambda z: z * z.sigmoid().roll(1, 1),
    "normalize": F.normalize,
    "layer norm": lambda z: F.layer_norm(z, z.shape[1:]),
}


@pytest.mark.parametrize("slopes", ["free", "equal"])
@pytest.mark.parametrize("bounds", ["ibp", "ibp+dual", "dual", "ibp&dual"])
@pytest.mark.parametrize("name", BENT)
def test_at_a_point_gradients_are_the_models_own(name, bounds, slopes):
    torch.manual_seed(0)
    layer = nn.Linear(3, 3).double()
    model = Net(lambda net, x: BENT[name](net.fc(x)), fc=layer)
    x, y = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    z = model(x)
    own = torch.autograd.grad((z.gather(1, y[:, None]) - z).sum(), list(layer.parameters()))
    margins = ad.certify(model, 0.0, bounds=bounds, slopes=slopes).margins(x, y)
    found = torch.autograd.grad(margins.sum(), list(layer.parameters()))
    for a, b in zip(found, own, strict=True):
        torch.testing.assert_close(a, b)
