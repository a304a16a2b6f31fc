"""Labels for every pixel, labels of one logit, and labels in every form that people have them."""

import re
import warnings
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import autodual as ad
from autodual import errors

NONE = -100


def pixels():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.Conv2d(4, 3, 1),
    ), (2, 5, 6)  # fmt: skip


def strided():
    up = nn.ConvTranspose2d(3, 3, 2, stride=2)
    return nn.Sequential(nn.Conv2d(1, 3, 2, stride=2), nn.Tanh(), up), (1, 4, 6)


def steps():
    return nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv1d(4, 3, 1)), (2, 7)


def mask():
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 1, 1)), (1, 4, 4)


def logit():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1)), (4,)


def flat():
    model, shape = logit()
    return nn.Sequential(model, nn.Flatten(0)), shape


def classes():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), (4,)


MANY = [pixels, strided, steps, mask]
ONE = [logit, flat, mask]


def setup(make, n=3, seed=0):
    """Return a model, x, labels not all of which are right, and its logits of two or more."""
    torch.manual_seed(seed)
    model, shape = make()
    model = model.double()
    x = torch.rand(n, *shape).double()
    y = logits(model(x)).argmax(1)
    return model, x, torch.where(torch.rand(y.shape) < 0.2, torch.zeros_like(y), y)


def logits(z):
    """One logit z stands for the two (0, z)."""
    z = z.unsqueeze(1) if z.dim() == 1 else z
    return torch.cat([torch.zeros_like(z), z], 1) if z.shape[1] == 1 else z


def margins_at(model, x, y):
    z = logits(model(x))
    return z.gather(1, y.clamp(min=0).unsqueeze(1)) - z


@pytest.mark.parametrize("slopes", ["equal", "free"])
@pytest.mark.parametrize("bounds", ["ibp", "dual", "ibp+dual", "ibp&dual"])
@pytest.mark.parametrize("make", MANY)
def test_margins_of_cells_are_those_of_rows_written_out(make, bounds, slopes):
    model, x, y = setup(make)
    net = ad.certify(model, 0.1, bounds=bounds, slopes=slopes)
    found = net(x, y).margins
    size = model(x).shape[1:]
    unit = logits(torch.eye(size.numel()).double().reshape(-1, *size))  # [outputs, K, *cells]
    rows = unit.movedim(0, -1)  # [K, *cells, outputs]
    own = torch.stack([rows.gather(0, c[None, ..., None].expand(1, *rows.shape[1:])) for c in y])
    spec = (own - rows).reshape(len(x), -1, *size)
    torch.testing.assert_close(found, net.lower_bound(x, spec).reshape(found.shape))
    torch.testing.assert_close(
        ad.certify(model, 0.0, bounds=bounds)(x, y).margins, margins_at(model, x, y)
    )


@pytest.mark.parametrize("make", [*MANY, logit, flat])
def test_no_point_of_the_ball_beats_the_margins(make):
    model, x, y = setup(make)
    certificate = ad.certify(model, 0.05)(x, y)
    assert certificate.verified.shape == y.shape
    assert bool(certificate.verified.any())
    for seed in range(20):
        noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)).double()
        moved = x + 0.05 * (2 * noise - 1).sign()
        found = margins_at(model, moved, y)
        assert bool((found >= certificate.margins - 1e-9).all())
        assert bool((logits(model(moved)).argmax(1) == y)[certificate.verified].all())


ONE_SIDED = {
    "sigmoid": (lambda z: z.sigmoid(), "never below 0.*says 1.*certify the logit"),
    "sigmoid, flat": (lambda z: torch.sigmoid(z).squeeze(1), "never below 0"),
    "hardsigmoid": (F.hardsigmoid, "never below 0"),
    "minus relu": (lambda z: -z.relu(), "never above 0.*says 0"),
    "logit": (lambda z: z, None),
    "tanh": (torch.tanh, None),
    "two": (lambda z: torch.cat([z, -z], 1).sigmoid(), None),
}


@pytest.mark.parametrize("name", ONE_SIDED)
def test_a_logit_that_never_changes_sign_is_remarked(name):
    after, said = ONE_SIDED[name]
    net, x, y = setup(logit)
    model = Then(net, after)
    remarks = ad.certify(model, 0.01)(x, y).remarks
    assert len(remarks) == (said is not None)
    if said is not None:
        assert re.search(said, remarks[0])
    assert ad.certify(model, 0.01)(x).remarks == remarks
    assert not ad.certify(model, 0.01).within(x, 0.5).remarks


class Then(nn.Module):
    def __init__(self, model, after):
        super().__init__()
        self.model, self.after = model, after

    def forward(self, x):
        return self.after(self.model(x))


@pytest.mark.parametrize(
    ("make", "after", "warned"),
    [
        (classes, lambda z: z.softmax(1), True),
        (pixels, lambda z: F.softmax(z, 1), True),
        (logit, torch.sigmoid, True),
        (classes, lambda z: F.log_softmax(z, 1), False),
        (logit, torch.tanh, False),
    ],
)
def test_losses_of_probabilities_are_warned_of(make, after, warned):
    net, x, y = setup(make)
    model = Then(net, after)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ad.robust_loss(model, x, y, 0.01)
        ad.robust_loss(model, x, y, 0.01, loss=lambda z, y: 0 * z.sum())
    assert [w.category for w in said] == [errors.TrainingWarning] * warned
    assert all(w.filename == __file__ and "the logits" in str(w.message) for w in said)


@pytest.mark.parametrize("make", [pixels, mask, classes, logit])
def test_no_label_at_all_has_no_loss(make):
    model, x, y = setup(make)
    with pytest.raises(errors.InputError, match=rf"all {y.numel()} labels are -100.*leave this"):
        ad.robust_loss(model, x, torch.full_like(y, NONE), 0.01)
    assert not ad.certify(model, 0.01)(x, torch.full_like(y, NONE)).verified.any()


@pytest.mark.parametrize("make", [pixels, mask, classes, logit])
def test_what_has_no_label_is_neither_verified_nor_counted(make):
    model, x, y = setup(make)
    net, cut = ad.certify(model, 0.01), y.clone()
    cut.view(-1)[::2] = NONE
    whole, part = net(x, y), net(x, cut)
    labelled = cut != NONE
    assert torch.equal(part.verified, whole.verified & labelled)
    assert part.error == float((~whole.verified[labelled]).double().mean())
    assert f" of {int(labelled.sum())} " in str(part)
    loss = F.cross_entropy(-whole.margins, cut)
    torch.testing.assert_close(ad.robust_loss(net, x, cut), loss)


@pytest.mark.parametrize("make", [pixels, steps, mask, logit, flat])
def test_the_robust_loss_is_cross_entropy_of_the_worst(make):
    """Its gradient is that of the margins written out, in parts and in chunks too."""
    model, x, y = setup(make)
    net = ad.certify(model, 0.05)
    for reduction in ("mean", "sum", "none"):
        loss = partial(F.cross_entropy, reduction=reduction)
        if make in ONE:
            loss = partial(F.binary_cross_entropy_with_logits, reduction=reduction)
        found = ad.robust_loss(net, x, y, loss=loss)
        want = F.cross_entropy(-net.margins(x, y), y, reduction=reduction)
        torch.testing.assert_close(found.flatten(), want.flatten())
        assert found.flatten().ge(F.cross_entropy(logits(model(x)), y).detach()).any()
    torch.testing.assert_close(ad.robust_loss(net, x, y), ad.robust_loss(model, x, y, 0.05))


@pytest.mark.parametrize("make", MANY)
def test_gradients_are_those_of_small_steps(make):
    model, x, y = setup(make, n=2)
    net, weight = ad.certify(model, 0.03), model[0].weight

    def loss():
        return ad.robust_loss(net, x, y)

    (slope,) = torch.autograd.grad(loss(), weight)
    step = torch.randn_like(weight)
    with torch.no_grad():
        weight += 1e-6 * step
        up = loss()
        weight -= 2e-6 * step
        down = loss()
    torch.testing.assert_close((slope * step).sum(), (up - down) / 2e-6, rtol=1e-4, atol=1e-6)


def test_rows_in_chunks_and_batches_in_parts_give_the_same(monkeypatch):
    model, x, y = setup(pixels)

    def bound():
        model.zero_grad()
        net = ad.certify(model, 0.05, memory="16MiB")
        ad.robust_loss(net, x, y).backward()
        return net.margins(x, y), model[0].weight.grad.clone()

    whole = bound()
    monkeypatch.setattr("autodual.bound.estimators.exact.CACHE_BYTES", 2**11)
    monkeypatch.setattr("autodual.bound.estimators.exact.KEPT_BYTES", 0)
    torch.testing.assert_close(bound(), whole)
    monkeypatch.setattr("autodual.bound.module.HELD", 2**14)
    torch.testing.assert_close(bound(), whole)


@pytest.mark.parametrize("make", [pixels, steps, mask])
def test_columns_and_samples_meet_the_rows(make):
    model, x, y = setup(make)
    name = f"{len(model) - 1}"
    options = {"bounds": "dual", "slopes": "equal"}
    backward = ad.certify(model, 0.05, **options)(x, y).margins
    forward = ad.certify(model, 0.05, **options, choose={name: "forward"})(x, y).margins
    torch.testing.assert_close(forward, backward)
    likely = ad.certify(model, 0.05, bounds="dual", estimator=ad.Geometric(50))(x, y)
    assert bool((likely.margins <= backward + 1e-9).all())
    guess = ad.certify(model, 0.05, bounds="dual", estimator=ad.Cauchy(400))(x, y).margins
    with torch.no_grad():
        fall, drop = (margins_at(model, x, y) - m for m in (backward, guess))
    assert 0.8 < float(drop.sum() / fall.sum()) < 1.25


@pytest.mark.parametrize("make", [pixels, logit, flat])
def test_predictions_radius_and_detection(make):
    model, x, _ = setup(make)
    net, own = ad.certify(model, 0.02), logits(model(x)).argmax(1)
    assert torch.equal(net(x).labels, own)
    assert torch.equal(net(x).margins, net(x, own).margins)
    assert torch.equal(net.detect(x), net(x).verified)
    radius = net.radius(x)
    assert radius.shape == (len(x),)
    one = [1] * (x.dim() - 1)
    inside = net.at((radius * 0.999).reshape(-1, *one))(x).verified.reshape(len(x), -1).all(1)
    beyond = net.at((radius * 1.01).reshape(-1, *one))(x).verified.reshape(len(x), -1).all(1)
    assert inside.tolist() == [True] * len(x)
    assert beyond.tolist() == [False] * len(x)


@pytest.mark.parametrize("make", [pixels, flat])
def test_without_a_label_any_radius_will_do(make):
    model, x, _ = setup(make)
    y = logits(model(x)).argmax(1)
    y[1] = -100
    radius = ad.certify(model, 0.02).radius(x, y, steps=6)
    assert radius[1] == torch.inf
    assert radius[torch.arange(len(x)) != 1].isfinite().all()


@pytest.mark.parametrize("make", [classes, pixels, logit])
def test_labels_in_every_form(make):
    model, x, y = setup(make)
    net = ad.certify(model, 0.02)
    want = net(x, y)
    forms = [y.tolist(), y.int(), y.to(torch.uint8), y.numpy(), y.numpy().astype(np.int32)]
    forms += [tuple(y.tolist())]
    if make is logit:
        forms += [y.double(), y.bool(), y.unsqueeze(1).float()]
    for form in forms:
        got = net(x, form)
        assert torch.equal(got.margins, want.margins)
        assert torch.equal(got.labels, y)
        assert torch.equal(ad.robust_loss(net, x, form), ad.robust_loss(net, x, y))


BAD = {
    "too high": (classes, lambda y: y + 3, r"labels span \[.*classes 0 to 2"),
    "negative": (classes, lambda y: 0 * y - 1, r"span \[-1"),
    "another that is ignored": (pixels, lambda y: y + 255, "give -100"),
    "floats": (classes, lambda y: y.double(), r"not torch.float64. Call y.long\(\)"),
    "float list": (classes, lambda y: [0.5, 1.0, 0.0], "not torch.float32"),
    "probabilities": (classes, lambda y: torch.ones(3, 3), r"y.argmax\(1\)"),
    "one hot": (classes, lambda y: F.one_hot(y, 3), r"shape \[3, 3\].*needs \[3\]"),
    "too few": (classes, lambda y: y[:2], r"shape \[2\].*needs \[3\]"),
    "one per image": (pixels, lambda y: y[:, 0, 0], r"needs \[3, 5, 6\].*each example and pos"),
    "ragged": (classes, lambda y: [[0], [1, 2]], "a list or an array of class numbers, not list"),
    "words": (classes, lambda y: ["cat", "dog", "cat"], "a list or an array of class numbers"),
    "truth values": (classes, lambda y: y.bool(), "not torch.bool"),
    "a number": (classes, lambda y: 2, r"shape \[\]"),
    "values": (logit, lambda y: y + 0.3, r"one logit must be 0 or 1, not.*net.within"),
    "two": (logit, lambda y: y + 2, r"classes 0 to 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_labels_that_do_not_fit(case):
    make, change, message = BAD[case]
    model, x, y = setup(make)
    net = ad.certify(model, 0.02)
    for call in (net, partial(ad.robust_loss, net)):
        with pytest.raises(errors.InputError, match=message):
            call(x, change(y))


def test_outputs_that_are_no_logits():
    class Merged(nn.Module):
        def forward(self, x):
            return x.flatten(0, 1)

    with pytest.raises(errors.ModelError, match=r"f32\[2N, 3\].*net.within"):
        ad.certify(Merged(), 0.1)(torch.rand(2, 2, 3))


def test_a_regression_with_one_output_stays_one():
    model, x, _ = setup(logit)
    net = ad.certify(model, 0.02)
    assert net.within(x, 10.0).verified.all()
    assert net.within(x, 10.0, model(x).detach() + 0.3).verified.all()


def test_a_bound_that_forgets_whose_label_is_whose_is_caught(monkeypatch):
    """Canary: the rows of a cell must carry its own label."""
    from autodual.bound.rows import Margins

    places = Margins.places

    def shifted(self):
        owner, cell, plus, minus = places(self)
        return owner, cell.flip(0), plus, minus

    monkeypatch.setattr(Margins, "places", shifted)
    with pytest.raises(AssertionError):
        test_margins_of_cells_are_those_of_rows_written_out(pixels, "dual", "equal")
