"""Minimum-norm attacks: exact on linear models, between the certified radius and PGD's."""

from functools import partial

import pytest
import torch
from torch import nn

import autodual as ad
from autodual.attack import minimum_norm, pgd
from autodual.errors import InputError
from tests.nets import random_mlp

BALLS = ad.LinfBall, ad.L2Ball, ad.L1Ball


@pytest.mark.parametrize("domain", [None, (0.0, 1.0)])
@pytest.mark.parametrize("kind", BALLS)
def test_linear_models_are_solved(kind, domain):
    """The smallest ε at which the support function reaches what the nearest class lacks."""
    torch.manual_seed(0)
    model, x = nn.Linear(12, 4).double(), torch.rand(8, 12, dtype=torch.float64)
    y = model(x).argmax(1)
    z = model(x).detach()
    lacking = z.gather(1, y[:, None]) - z
    toward = (model.weight[None] - model.weight[y][:, None]).detach()
    low, high = torch.zeros(8, dtype=torch.float64), torch.full((8,), 12.0, dtype=torch.float64)
    for _ in range(50):
        middle = (low + high) / 2
        gain = kind(middle, domain).support(x, toward) - (toward @ x[:, :, None])[:, :, 0]
        reached = (gain - lacking).scatter(1, y[:, None], -1).amax(1) >= 0
        low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
    found = minimum_norm(model, x, y, kind(12.0, domain), steps=10)
    torch.testing.assert_close(found.eps, high, rtol=2e-4, atol=0)
    assert bool(found.success.all())


@pytest.mark.long
@pytest.mark.parametrize("domain", [None, (0.0, 1.0)])
@pytest.mark.parametrize("kind", BALLS)
def test_what_is_found_lies_between_the_certified_radius_and_pgd(kind, domain):
    torch.manual_seed(0)
    model, x = random_mlp(3, (6, 12, 8, 4)), torch.rand(12, 6, dtype=torch.float64)
    y = model(x).argmax(1)
    found = minimum_norm(model, x, y, kind(3.0, domain), steps=40)
    ball = kind(found.eps.clamp(max=3).reshape(-1, 1), domain)
    assert torch.equal(found.success, found.eps.isfinite())
    assert int(found.success.sum()) > 6
    assert torch.equal(model(found.x).argmax(1) != y, found.success)
    assert bool(ball.contains(x, found.x).all())
    assert bool((found.eps >= ad.certify(model, kind(3.0, domain)).radius(x, y) - 1e-9).all())
    low, high = torch.zeros_like(found.eps), torch.full_like(found.eps, 3)
    for _ in range(8):
        middle = (low + high) / 2
        won = pgd(model, x, y, kind(middle.reshape(-1, 1), domain), steps=20).success
        low, high = torch.where(won, low, middle), torch.where(won, middle, high)
    both = found.success & (high < 3)
    assert float((found.eps / high)[both].mean()) < 1.02


def test_what_is_wrong_at_x_needs_no_step():
    model, x = random_mlp(3, (6, 12, 8, 4)), torch.rand(5, 6, dtype=torch.float64)
    y = (model(x).argmax(1) + torch.tensor([0, 1, 0, 2, 0])) % 4
    found = minimum_norm(model, x, y, 1e-6, steps=3)
    assert found.eps.tolist() == [torch.inf, 0, torch.inf, 0, torch.inf]
    assert not bool(((found.x - x).abs() > 1.001e-6).any())


def test_targets_softmax_verdicts_and_radii_of_their_own():
    torch.manual_seed(0)
    model, x = random_mlp(3, (6, 12, 8, 4)), torch.rand(8, 6, dtype=torch.float64)
    y = model(x).argmax(1)
    any_ = minimum_norm(model, x, y, 4.0, steps=20)
    aimed = minimum_norm(model, x, y, 4.0, steps=20, targets=(y + 1) % 4)
    assert bool((aimed.eps >= 0.98 * any_.eps).all())
    reached = aimed.success
    assert torch.equal(model(aimed.x).argmax(1)[reached], ((y + 1) % 4)[reached])
    sure = minimum_norm(lambda v: (1e4 * model(v)).softmax(1), x, y, 4.0, steps=20)
    assert float((sure.eps / any_.eps).mean()) < 1.05
    own = {"loss": lambda z, y: z.sum(1), "success": lambda z, y: z.sum(1) > model(x).sum(1) + 0.1}
    assert bool(minimum_norm(model, x, y, 4.0, steps=20, **own).success.all())
    half = minimum_norm(model, x, y, ad.LinfBall(any_.eps / 2), steps=5)
    assert not bool(half.success.any()), "each looks no farther than its own ε"
    for wrong in (ad.Wasserstein(0.1), ad.Box(x - 1, x + 1)):
        with pytest.raises(InputError, match="LinfBall, L2Ball or L1Ball"):
            minimum_norm(model, x, y, wrong)
    for more in ({"restarts": 2}, {"early_stop": True}, {"steps": 0}):
        with pytest.raises(InputError):
            partial(minimum_norm, **more)(model, x, y, 1.0)
