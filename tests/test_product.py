"""Several perturbed arguments, each with a set of its own."""

import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import autodual as ad
from autodual import threat
from autodual.attack import apgd, fgsm, msd, multi_targeted, pgd, search, square, worst_of
from autodual.errors import DomainError, InputError

N = 3


class Policy(nn.Module):
    """An image, a state and a sequence; a gain that is not perturbed."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 2)
        self.fc, self.out = nn.Linear(4, 18), nn.Linear(18, 3)

    def forward(self, image, state, *, gain, steps):
        z = self.conv(image).flatten(1) * gain + torch.tanh(self.fc(state))
        return self.out(F.relu(z)) + steps.sum(1)


def setup(seed=0):
    torch.manual_seed(seed)
    model, r = Policy().double(), torch.rand
    inputs = ad.Inputs(r(N, 1, 4, 4), r(N, 4), gain=r(N, 1) + 0.5, steps=r(N, 2, 3))
    inputs = inputs.map(lambda t: t.double())
    return model, inputs, model(*inputs.args, **inputs.kwargs).argmax(1)


SETS = {
    "boxes": {"image": ad.LinfBall(0.05, domain=(0, 1)), "state": 0.1},
    "balls": {
        "state": ad.L2Ball(0.2),
        "image": ad.L2Ball(0.1, domain=(0, 1)),
        "steps": ad.L1Ball(0.1),
    },
    "mixed": {0: ad.LinfBall(torch.tensor([0.01, 0.05, 0.1])), "state": ad.L2Ball(0.2)},
    "one": {"state": 0.1},
    "unions": {"image": ad.Union(ad.LinfBall(0.02), ad.L2Ball(0.1)), 1: ad.LinfBall(0.05)},
}
BOUNDS = ["ibp", "dual", "ibp+dual", "ibp&dual"]


def inside(sets, inputs, moved):
    """Whether each argument lies in its set, and all others are as they were."""
    names = ["image", "state"]
    known = {names.index(k) if k in names else k: s for k, s in sets.items()}
    for key in (0, 1, "gain", "steps"):
        own = threat.as_threat(known[key]) if key in known else ad.LinfBall(0.0)
        assert bool(own.contains(inputs.get(key), moved.get(key)).all()), key


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("kind", SETS)
def test_no_points_of_the_sets_beat_the_bound(kind, bounds):
    (model, inputs, y), sets = setup(), SETS[kind]
    net = ad.certify(model, sets, bounds=bounds)
    margins = net(inputs, y).margins
    box = net.bounds(inputs)
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        for run in (pgd, search):
            found = run(model, inputs, y, sets, steps=10, restarts=2, generator=g)
            inside(sets, inputs, found.inputs)
            z = model(*found.inputs.args, **found.inputs.kwargs)
            torch.testing.assert_close(found.margins, (z.gather(1, y[:, None]) - z).detach())
            assert bool((found.margins >= margins - 1e-9).all())
            assert bool(((box.lower <= z + 1e-9) & (z <= box.upper + 1e-9)).all())
    alone = ad.certify(model, next(iter(sets.values())), perturb=next(iter(sets)), bounds=bounds)
    assert bool((alone(inputs, y).margins >= margins - 1e-9).all())


def test_the_support_is_the_sum_of_theirs():
    _, inputs, _ = setup()
    sets = {"image": ad.L2Ball(0.1), "state": ad.LinfBall(0.2), "steps": ad.L1Ball(0.3)}
    keys = (0, 1, "steps")
    product = threat.as_threat(sets).around(inputs.shapes(keys))
    x = inputs.get(keys)
    nu = torch.randn(N, 5, x.shape[1]).double()
    parts, own = nu.split([16, 4, 6], 2), [inputs.get(k) for k in keys]
    want = sum(
        s.deviation(o, p.unflatten(2, o.shape[1:]))
        for s, o, p in zip(sets.values(), own, parts, strict=True)
    )
    torch.testing.assert_close(product.deviation(x, nu), want)
    best = product.maximizer(x, nu[:, 0])
    torch.testing.assert_close((best * nu[:, 0]).sum(1), product.support(x, nu)[:, 0])
    assert bool(product.contains(x, best).all())
    assert not product.contains(x, x + 1.01 * (best - x)).any()
    torch.testing.assert_close(product.distance(x, best), torch.ones(N).double())
    point = product.project(x, x + 9 * torch.randn_like(x))
    assert bool(product.contains(x, point).all())
    torch.testing.assert_close(product.project(x, point), point)
    box = product.interval(x)
    assert bool(((box.lower <= point + 1e-9) & (point <= box.upper + 1e-9)).all())
    assert product.weights(x) is None
    moved = inputs.replace(keys, point)
    torch.testing.assert_close(moved.get(keys), point)


def test_boxes_of_all_arguments_are_one_box():
    """A model of x and state is one of both side by side."""

    class Side(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))

        def forward(self, x, state):
            return self.body(torch.cat([x, state], 1))

    torch.manual_seed(0)
    model, x, state = Side().double(), torch.rand(4, 2).double(), torch.rand(4, 3).double()
    both = torch.cat([x, state], 1)
    reach = torch.tensor([0.1, 0.1, 0.2, 0.2, 0.2]).double()
    for bounds in BOUNDS:
        want = ad.certify(model.body, ad.Box(both - reach, both + reach), bounds=bounds)(both)
        net = ad.certify(model, {"x": 0.1, "state": 0.2}, bounds=bounds)
        for inputs in (ad.Inputs(x, state), ad.Inputs(x=x, state=state), (x, state)):
            torch.testing.assert_close(net(inputs).margins, want.margins)
    ball = ad.certify(model, {"x": ad.L2Ball(0.0), 1: ad.L2Ball(0.3)})(ad.Inputs(x, state))
    one = ad.certify(model, ad.L2Ball(0.3), perturb="state")(ad.Inputs(x, state))
    torch.testing.assert_close(ball.margins, one.margins)


ATTACKS = [fgsm, apgd, multi_targeted, square, msd, worst_of]


@pytest.mark.parametrize("run", ATTACKS)
@pytest.mark.parametrize("kind", ["boxes", "mixed", "unions"])
def test_every_attack_projects_every_argument(kind, run):
    (model, inputs, y), sets = setup(), SETS[kind]
    if run is square and kind != "boxes":
        with pytest.raises(InputError, match=r"square attacks boxes.*not .*: .*Ball"):
            run(model, inputs, y, sets)
        return
    found = run(model, inputs, y, sets, **({} if run is fgsm or run is worst_of else {"steps": 4}))
    assert found.rejected == 0
    inside(sets, inputs, found.inputs)
    assert bool((found.margins >= ad.certify(model, sets)(inputs, y).margins - 1e-9).all())


def test_training_schedules_and_parts(monkeypatch):
    model, inputs, y = setup()
    net = ad.certify(model, SETS["mixed"], memory="16MiB")
    ad.robust_loss(net, inputs, y).backward()
    slope = model.conv.weight.grad.clone()
    model.zero_grad()
    monkeypatch.setattr("autodual.bound.module.HELD", 2**18)  # one example at a time
    ad.robust_loss(ad.certify(model, SETS["mixed"], memory="16MiB"), inputs, y).backward()
    torch.testing.assert_close(model.conv.weight.grad, slope)
    smaller = net.at({0: 0.001, "state": ad.L2Ball(0.01)})(inputs, y)
    assert bool((smaller.margins >= net(inputs, y).margins - 1e-9).all())
    torch.testing.assert_close(
        ad.robust_loss(model, inputs, y, {0: 0.01, 1: 0.02}),
        ad.robust_loss(ad.certify(model, {0: 0.01, 1: 0.02}), inputs, y),
    )


def test_all_that_a_net_answers():
    model, inputs, y = setup()
    net = ad.certify(model, SETS["boxes"])
    assert ad.self_check(net, inputs, y, steps=2).passed
    assert ad.self_check(ad.certify(model, SETS["unions"]), inputs, steps=2).passed
    assert torch.equal(net.detect(inputs), net(inputs).verified)
    assert net.within(inputs, 9.0).verified.all()
    assert net.holds(inputs, ad.All(torch.eye(3).double(), -99.0)).verified.all()
    assert "image: LinfBall(0.05" in str(net(inputs, y))
    assert "image+state" in str(net.explain(inputs)) + str(net.graph)
    assert len(net.relax(inputs).networks) == 2
    again = pickle.loads(pickle.dumps(net))
    torch.testing.assert_close(again(inputs, y).margins, net(inputs, y).margins)
    likely = ad.certify(model, SETS["boxes"], estimator=ad.Geometric(20))(inputs, y)
    assert bool((likely.margins <= net(inputs, y).margins + 1e-9).all())


X = torch.rand(2, 3)


class Two(nn.Module):
    def forward(self, x, state=None):
        return x + state


BAD = {
    "none": (lambda: ad.certify(Two(), {}), "a set for each perturbed argument"),
    "both": (lambda: ad.certify(Two(), {"x": 0.1}, perturb=0), "leave perturb= out"),
    "both, attacked": (
        lambda: pgd(Two(), ad.Inputs(X, X), None, {"x": 0.1}, perturb=1),
        "leave perturb= out",
    ),
    "no such": (lambda: ad.certify(Two(), {"z": 0.1})(ad.Inputs(X, X)), "perturb='z' names no"),
    "twice": (
        lambda: ad.certify(Two(), {"x": 0.1, 0: 0.2})(ad.Inputs(X, X)),
        r"\['x', 0\] name an argument twice",
    ),
    "lengths": (
        lambda: ad.certify(Two(), {"x": 0.1, "state": 0.1})(ad.Inputs(X, X[:1])),
        r"a row for each example, not torch.float32 \[2, 3\], torch.float32 \[1, 3\]",
    ),
    "numbers": (
        lambda: pgd(Two(), ad.Inputs(X, 3), None, {"x": 0.1, "state": 0.1}),
        "must be tensors.*int",
    ),
    "ε": (lambda: ad.certify(Two(), {"x": -1, "state": 0.1}), "at least 0"),
    "radius": (
        lambda: ad.certify(Two(), {"x": 0.1, "state": 0.1}).radius(ad.Inputs(X, X)),
        "has no radius",
    ),
    "a number for several": (
        lambda: ad.certify(Two(), {"x": 0.1, "state": 0.1}).at(0.2),
        "a mapping with the same arguments",
    ),
    "others": (lambda: ad.certify(Two(), 0.1).at({"x": 0.1}), "certify the model anew"),
    "a straight line": (
        lambda: ad.certify(Two(), {"x": 0.1, "state": 0.1}).emit(ad.Inputs(X, X)),
        "serves LinfBall and L2Ball",
    ),
    "domain": (
        lambda: ad.certify(Two(), {"x": 0.1, 1: ad.L2Ball(1, (0, 1))})(ad.Inputs(X, X + 1)),
        "leaves the domain",
    ),
    "alone": (
        lambda: threat.as_threat({"x": 0.1}).center(X),
        "give the mapping to certify or an attack",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_sets(case):
    call, message = BAD[case]
    with pytest.raises((InputError, DomainError), match=message):
        call()


def test_attacks_take_no_choice_for_an_argument_as_certify_does():
    sets, both = {"x": 0.1, "state": 0.1}, ad.Inputs(X, X)
    assert ad.certify(Two(), sets, perturb=None)(both) is not None
    assert len(pgd(Two(), both, None, sets, perturb=None, steps=1)) == len(X)


@pytest.mark.parametrize("wrong", ["one set alone", "the farthest alone"])
def test_sums_that_leave_sets_out_are_caught(wrong, monkeypatch):
    """Canary: deviations add up over the arguments."""
    each = threat.Product._each

    def deviation(self, x, nu):
        far = torch.stack(each(self, lambda part, *own: part.deviation(*own), x, nu))
        return far[0] if wrong == "one set alone" else far.amax(0)

    monkeypatch.setitem(SETS, "wrong", {"image": ad.L2Ball(0.2), "state": ad.L2Ball(0.3)})
    monkeypatch.setattr(threat.Product, "deviation", deviation)
    with pytest.raises(AssertionError):
        test_no_points_of_the_sets_beat_the_bound("wrong", "dual")
