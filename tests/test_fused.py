"""The fused loss: between the true worst cross-entropy and that of interval arithmetic."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import autodual as ad
from autodual.errors import InputError

BATCH = 6


def nets():
    torch.manual_seed(0)
    yield "linear", nn.Sequential(nn.Flatten(), nn.Linear(36, 5))
    yield "mlp", nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 5))
    yield (
        "conv",
        nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(64, 8),
            nn.ReLU(),
            nn.Linear(8, 3),
        ),
    )
    yield "binary", nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Sigmoid(), nn.Linear(8, 1))
    yield "ends in a ReLU", nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.ReLU())


def problem(net, dtype=torch.float64):
    torch.manual_seed(1)
    x = torch.rand(BATCH, 1, 6, 6, dtype=dtype)
    y = ad.certify(net.to(dtype), 0.0)(x).labels
    y[0] = 0
    return net, x, y


SETS = [
    ad.LinfBall(0.05),
    ad.LinfBall(0.3, domain=(0, 1)),
    ad.L2Ball(0.5),
    ad.L1Ball(1.0, domain=(0, 1)),
    ad.Union(ad.LinfBall(0.05), ad.L2Ball(0.4)),
    ad.LinfBall(0.0),
]


def each(net, x, y, loss):
    """A loss for each example by itself."""
    return torch.stack([loss(net, x[i : i + 1], y[i : i + 1]) for i in range(len(x))])


@pytest.mark.parametrize(("name", "net"), [*nets()], ids=lambda v: v if isinstance(v, str) else "")
@pytest.mark.parametrize("bounds", ["ibp+dual", "ibp&dual"])
@pytest.mark.parametrize("eps", SETS, ids=str)
def test_no_point_of_the_set_has_a_higher_loss(name, net, bounds, eps):
    net, x, y = problem(net)
    fused = each(net, x, y, lambda *a: ad.robust_loss(*a, eps, bounds=bounds, fused=True))

    def loss(z):
        z = torch.cat([torch.zeros_like(z), z], 1) if z.shape[1] == 1 else z
        return F.cross_entropy(z, y, reduction="none")

    for seed in range(5):
        found = ad.attack.pgd(
            net, x, y, eps, steps=10, restarts=2, generator=torch.Generator().manual_seed(seed)
        )
        assert (loss(net(found.x)) <= fused + 1e-9).all()
        start = eps.random_start(x, torch.Generator().manual_seed(seed))
        assert (loss(net(start)) <= fused + 1e-9).all()
    intervals = each(net, x, y, lambda *a: ad.robust_loss(*a, eps, bounds="ibp"))
    assert (fused <= intervals + 1e-9).all()


@pytest.mark.parametrize(("name", "net"), [*nets()], ids=lambda v: v if isinstance(v, str) else "")
def test_at_a_point_it_is_cross_entropy(name, net):
    net, x, y = problem(net)
    plain = ad.robust_loss(net, x, y, 0.0, bounds="ibp")
    torch.testing.assert_close(ad.robust_loss(net, x, y, 0.0, fused=True), plain)


@torch.no_grad()
def test_it_is_tighter_than_intervals_where_rows_are():
    net, x, y = problem(dict(nets())["mlp"])
    fused, intervals, rows = (
        float(ad.robust_loss(net, x, y, 0.3, **how))
        for how in ({"fused": True}, {"bounds": "ibp"}, {"bounds": "ibp+dual"})
    )
    assert rows < fused < intervals
    assert fused - rows < 0.5 * (intervals - rows)


def test_its_gradient_is_that_of_differences():
    net, x, y = problem(dict(nets())["mlp"])
    certified = ad.certify(net, 0.05, bounds="ibp+dual")
    parameters = [*net.parameters()]
    slopes = torch.autograd.grad(ad.robust_loss(certified, x, y, fused=True), parameters)
    step = 1e-6
    with torch.no_grad():
        for p, slope in zip(parameters, slopes, strict=True):
            way = torch.randn_like(p)
            p += step * way
            above = ad.robust_loss(certified, x, y, fused=True)
            p -= 2 * step * way
            below = ad.robust_loss(certified, x, y, fused=True)
            p += step * way
            torch.testing.assert_close(
                (slope * way).sum(), (above - below) / (2 * step), rtol=1e-4, atol=1e-6
            )


def test_labels_that_are_none_count_for_nothing():
    net, x, y = problem(dict(nets())["mlp"])
    some = ad.robust_loss(net, x[2:], y[2:], 0.1, fused=True)
    y[:2] = -100
    torch.testing.assert_close(ad.robust_loss(net, x, y, 0.1, fused=True), some)


@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_huge_margins_do_not_overflow_in_float32(scale):
    net, x, y = problem(dict(nets())["mlp"], torch.float32)
    with torch.no_grad():
        net[3].weight *= scale
    loss = ad.robust_loss(net, x, y, 0.1, fused=True)
    assert loss.isfinite()
    assert loss >= F.cross_entropy(net(x), y) * (1 - 1e-4)


def test_what_it_is_not_for_is_refused():
    net, x, y = problem(dict(nets())["mlp"])
    for bounds in ("ibp", "dual"):
        with pytest.raises(InputError, match=r"ibp\+dual"):
            ad.robust_loss(net, x, y, 0.1, bounds=bounds, fused=True)
    with pytest.raises(InputError, match="cross-entropy"):
        ad.robust_loss(net, x, y, 0.1, loss=F.multi_margin_loss, fused=True)
    with pytest.raises(InputError, match="exact sums"):
        ad.robust_loss(
            ad.certify(net, 0.1, bounds="ibp+dual", estimator=ad.Cauchy(5)), x, y, fused=True
        )


def test_it_fits_into_what_averages_gradients():
    net, x, y = problem(dict(nets())["mlp"])
    module = ad.RobustLoss(net, 0.05, fused=True)
    assert module(x, y) == ad.robust_loss(net, x, y, 0.05, fused=True)
    assert "fused=True" in repr(module)


def test_a_loss_of_the_wrong_kind_is_refused():
    """Theorem 2: no fall when other logits grow, no change when a constant is added to all."""
    net, x, y = problem(dict(nets())["mlp"])
    for loss in (
        F.cross_entropy,
        F.multi_margin_loss,
        nn.CrossEntropyLoss(label_smoothing=0.0),
        lambda z, y: F.nll_loss(z.log_softmax(1), y),
    ):
        assert ad.robust_loss(net, x, y, 0.1, loss=loss).isfinite()
    for loss, said in (
        (lambda z, y: z.sum(), "a constant is added"),
        (lambda z, y: F.nll_loss(z, y), "a constant is added"),
        (lambda z, y: -F.cross_entropy(z, y), "logits of other classes grow"),
        (lambda z, y: F.mse_loss(z.softmax(1), F.one_hot(y, 5).to(z)), "logits of other classes"),
    ):
        with pytest.raises(InputError, match=said):
            ad.robust_loss(net, x, y, 0.1, loss=loss)
    net, x, y = problem(dict(nets())["binary"])
    y = (net(x).flatten() > 0).long()
    assert ad.robust_loss(net, x, y, 0.1, loss=F.binary_cross_entropy_with_logits).isfinite()
    with pytest.raises(InputError, match="moves away from the label"):
        ad.robust_loss(net, x, y, 0.1, loss=lambda z, y: (z * (1 - 2 * y)).neg().mean())
