"""The verifier on regions that are no boxes, and its time limits."""

from __future__ import annotations

import time
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import autodual as ad
from autodual.errors import ControlFlowError, DomainError, InputError
from autodual.solve.emptiness import proved_empty
from autodual.threat import ThreatModel
from autodual.verifier import inputs, points, search, units
from autodual.verifier.around import Around

X, Y = ad.X, ad.Y


def net(seed: int = 0, n: int = 3, act: type = nn.ReLU) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(n, 8), act(), nn.Linear(8, 8), act(), nn.Linear(8, 2)).double()


class Plain(ad.L2Ball):
    """An ℓ2 ball of which programs know nothing: its answers are its own."""

    def deviation(self, x: Tensor, nu: Tensor) -> Tensor:
        return super().deviation(x, nu)


class Silent(ThreatModel):
    """A ball that answers nothing but its support."""

    symmetric = True

    def center(self, x: Tensor) -> Tensor:
        return x

    def deviation(self, x: Tensor, nu: Tensor) -> Tensor:
        return 0.3 * nu.flatten(2).norm(dim=2)


SETS = {
    "l1": ad.L1Ball(0.5),
    "l2": ad.L2Ball(0.3),
    "in a domain": ad.L2Ball(0.3, domain=(0, 1)),
    "user's": Plain(0.3),
    "Wasserstein": ad.Wasserstein(0.1, kernel=3),
}


def points_of(threat: ThreatModel, x: Tensor, count: int = 4000) -> Tensor:
    """Points of a set, most of them on its edge."""
    generator = torch.Generator().manual_seed(0)
    many, direction = x.expand(count, *x.shape[1:]), torch.randn(count, *x.shape[1:])
    inside = threat.random_start(many, generator)
    edge = threat.maximizer(many[: count // 2], direction[: count // 2].to(x))
    return torch.cat([inside, edge])


@pytest.mark.long
@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("name", SETS)
def test_verdicts_turn_where_the_least_value_is(name: str, act: type) -> None:
    threat, x = SETS[name], torch.rand(3, generator=torch.Generator().manual_seed(1)).double()
    model = net(act=act)
    if name == "Wasserstein":
        x, model = x.reshape(1, 1, 3), nn.Sequential(nn.Flatten(), *model)
    at = points_of(threat, x[None])
    with torch.no_grad():
        z = model(at)
        spread = float((z[:, 0] - z[:, 1]).amax() - (z[:, 0] - z[:, 1]).amin())
        least = float((z[:, 0] - z[:, 1]).amin())
    region, margin = ad.Region.around(x, threat), Y[0] - Y[1]
    safe = ad.verify(model, region, margin > least - 0.1 * spread, 30)
    assert safe.verified, safe
    assert "no box" in safe.how
    for attack in (True, False):
        verdict = ad.verify(model, region, margin > least + 0.02 * spread, 10 if attack else 1,
                            attack=attack)  # fmt: skip
        assert not verdict.verified
        if attack:
            assert verdict.falsified
            assert bool(threat.contains(x[None], verdict.witness[None], 1e-6))
            found = model(verdict.witness[None])[0].detach()
            assert float(found[0] - found[1]) <= least + 0.02 * spread


def test_a_linear_program_with_tangents_decides_leaves() -> None:
    """An affine model has nothing to cut: at the root the bound over the ball is exact."""
    model = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.eye(2))
    region = ad.Region.around(torch.zeros(2).double(), Plain(1.0))
    one = ad.verify(model, region, Y[0] + Y[1] > -1.4143, 10)
    assert one.verified
    assert ad.verify(model, region, Y[0] + Y[1] > -1.4141, 10).falsified
    both = ad.any_of(Y[0] > -0.7072, Y[1] > -0.7072)  # somewhere both fail only beyond 1/√2 each
    assert ad.verify(model, region, both, 10, attack=False).verified
    assert not ad.verify(model, region, ad.any_of(Y[0] > -0.7, Y[1] > -0.7), 10).verified


def test_tangents_keep_the_set_and_cut_the_point_off() -> None:
    for threat in (ad.L2Ball(0.5), ad.L1Ball(0.5), ad.L2Ball(0.5, domain=(0, 1))):
        x = torch.rand(1, 4).double()
        around, at = Around(threat, x), points_of(threat, x, 200)
        center = threat.center(x)
        for far in torch.randn(10, 4).double():
            found = around.tangent(far)
            if found is None:
                assert bool(threat.contains(x, center + far, 1e-3))
                continue
            row, most = found
            assert float(row @ far) > most
            assert float(((at - center) @ row).amax()) <= most + 1e-9


def test_a_box_by_another_name_is_a_box() -> None:
    x = torch.rand(3)
    region = ad.Region.around(x, ad.LinfBall(0.1, domain=(0, 1)))
    assert region.ball is None
    assert bool((torch.as_tensor(region.lower) >= 0).all())
    verdict = ad.verify(net().float(), region, Y[0] < 1e3)
    assert verdict.verified
    assert "inputs" in verdict.how


def test_every_member_of_a_union_is_decided() -> None:
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 1.0]]))
    union = ad.Union(ad.L1Ball(1.0), ad.L2Ball(1.0))
    region = ad.Region.around(torch.zeros(2).double(), union)
    assert len(region.members) == 2
    assert ad.verify(model, region, Y[0] < 1.42, 10).verified
    assert ad.verify(model, region, Y[0] < 1.41, 10).falsified  # by the second alone
    assert ad.verify(model, region.members[0], Y[0] < 1.41, 10).verified
    with pytest.raises(InputError, match="one by one"):
        ad.verify(model, region, Y[0] < 1.41, 10, resume="nowhere")


def test_a_statement_cuts_a_ball() -> None:
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0]]))
    ball = ad.L2Ball(1.0)
    half = ad.Region.around(torch.zeros(2).double(), ball, where=X[0] < 0.5)
    assert ad.verify(model, half, Y[0] < 0.51, 10).verified
    assert ad.verify(model, half, Y[0] < 0.49, 10).falsified


def test_a_set_that_answers_its_support_alone_is_bounded_not_attacked() -> None:
    region = ad.Region.around(torch.zeros(3).double(), Silent())
    assert ad.verify(net(), region, Y[0] < 1e3, 10).verified
    assert ad.verify(net(), region, Y[0] < -1e3, 2).status == "unknown"


def test_what_does_not_fit_is_refused() -> None:
    model, x = net(), torch.rand(3).double()
    with pytest.raises(InputError, match="boxes alone"):
        ad.verify(model, ad.Region.around(x, ad.L2Ball(0.1)), Y[0] > 0, branch="inputs")
    with pytest.raises(InputError, match="would round"):
        ad.verify(net().float(), ad.Region.around(x + 1e-12, ad.L2Ball(0.1)), Y[0] > 0)
    with pytest.raises(DomainError):
        ad.Region.around(2 + x, ad.L2Ball(0.1, domain=(0, 1)))


@pytest.mark.parametrize("branch", ["inputs", "units"])
def test_no_part_is_lost_whenever_a_search_is_stopped(branch: str, monkeypatch) -> None:
    """Stopped at any point of a step, what is left covers all that was not proved."""
    model, region = net(1, 2), ad.Region(-torch.ones(2), torch.ones(2))
    with torch.no_grad():
        z = model(torch.rand(20_000, 2).double() * 2 - 1)
    prop = Y[0] - Y[1] > float((z[:, 0] - z[:, 1]).amin()) + 0.01  # it does not hold
    kind = {"inputs": inputs.InputSplits, "units": units.UnitSplits}[branch]
    for owner, where in ((kind, "learn"), (points.Points, "attempt"), (search.Search, "_note")):
        own, raised = getattr(owner, where), list[bool]()

        def stopped(self: object, *given: object, **options: object) -> None:
            if not raised:  # noqa: B023, called before the next turn
                raised.append(True)  # noqa: B023
                raise search.TimeOver
            own(self, *given, **options)  # noqa: B023

        with monkeypatch.context() as patch:
            patch.setattr(owner, where, stopped)
            patch.setattr(points.Points, "begin", lambda *_: None)
            patch.setattr(search.Search, "glance", lambda *_: None)
            attack = where == "attempt"
            verdict = ad.verify(model, region, prop, 5, branch=branch, attack=attack)
        assert raised
        assert verdict.status == "unknown"
        assert verdict.open > 0


def test_time_limits_hold_in_the_midst_of_a_batch() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip
    region, prop = ad.Region.around(torch.rand(3, 32, 32), 0.1), Y[0] > Y[1]
    ad.verify(model, region, prop, 0.001)  # what is compiled once
    for branch in ("units", "inputs"):
        start = time.perf_counter()
        verdict = ad.verify(model, region, prop, 0.3, branch=branch, attack=False)
        assert verdict.reason == "time"
        assert time.perf_counter() - start < 60  # without the limit it takes minutes


def test_a_maximum_is_not_cut_where_a_difference_would_swallow_an_argument() -> None:
    """The padding of a pool is a number so far below that b + max(a − b, 0) forgets a."""
    model = nn.Sequential(nn.Tanh(), nn.MaxPool2d(3, 2, 1), nn.Flatten())
    region = ad.Region.around(torch.full((1, 6, 6), -0.5), 0.1)
    for k in (0, 3, 8):
        for attack in (True, False):
            verdict = ad.verify(model, region, Y[k] > -0.3, 1, branch="units", attack=attack)
            assert not verdict.verified

    class Far(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.maximum(x.tanh(), x - 1e8)

    region = ad.Region.around(torch.full((2,), -0.5), 0.1)
    assert not ad.verify(Far(), region, Y[0] > -0.3, 1, branch="units", attack=False).verified


def test_only_our_own_classes_are_recorded_on_real_numbers() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.straight, self._autodual_straight = nn.Linear(2, 1), True

        def forward(self, x: Tensor) -> Tensor:
            return self.straight(x) * 0 - 100 if x.sum() > 10 else self.straight(x)

    with pytest.raises(ControlFlowError):
        ad.verify(Branches(), ad.Region.around(torch.zeros(2), 20.0), Y[0] > -1, 5)


def test_tiny_coefficients_are_not_dropped() -> None:
    wide = ad.Region(torch.zeros(1), torch.full((1,), 1e10), where=1e-10 * X[0] > 0.5)
    assert ad.verify(nn.Identity().double(), wide, Y[0] < 1e9, 5).falsified
    never = ad.Region(torch.zeros(1), torch.full((1,), 1e10), where=1e-10 * X[0] > 1.5)
    assert "empty" in ad.verify(nn.Identity().double(), never, Y[0] < 1e9, 5).reason
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU()).double()
    with torch.no_grad():
        model[0].weight.fill_(1e-10)
        model[0].bias.fill_(-0.5)
    for ball in (ad.L2Ball(1e10), ad.L1Ball(1e10)):
        region = ad.Region.around(torch.zeros(1).double(), ball)
        assert not ad.verify(model, region, Y[0] < 0.3, 2, branch="units", attack=False).verified


def test_no_box_with_a_point_is_proved_empty() -> None:
    """Rows that hold at a point by less than their terms round, far from 0 and in small boxes."""
    numbers = np.random.default_rng(0)
    empty = 0
    for trial in range(200):
        n, far = int(numbers.integers(1, 6)), 10.0 ** numbers.integers(-3, 9)
        low = far * numbers.normal(size=n)
        high = low + numbers.random(n) * numbers.choice([0, 1e-6, 1.0])
        x, rows = low + (high - low) * numbers.random(n), numbers.normal(size=(4, n))
        x = np.clip(x, low, high)
        at = np.array([Fraction(float(v)) for v in x])
        exact = [sum(Fraction(float(a)) * v for a, v in zip(r, at, strict=True)) for r in rows]
        most = np.array([np.nextafter(float(value), np.inf) for value in exact])
        assert not proved_empty(rows, most, low, high)
        if trial % 4 == 0:  # and where there is none it is mostly noticed
            away = np.minimum(rows * low, rows * high).sum(1)
            empty += proved_empty(rows, away - 1e-3 * far, low, high)
    assert empty > 40


def test_a_search_goes_on_with_its_own_problem_alone(tmp_path) -> None:
    def stopped(slope: float, ball: ThreatModel) -> ad.Verdict:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 20), nn.LeakyReLU(slope), nn.Linear(20, 1)).double()
        region = ad.Region.around(torch.zeros(4).double(), ball)
        raised = list[object]()

        def once(moment: object) -> None:
            raised.append(moment)
            if len(raised) == 1:
                raise search.TimeOver

        options = {"branch": "units", "resume": tmp_path / "s.pt", "attack": False, "told": once}
        return ad.verify(model, region, Y[0] > 10, 60, **options)

    assert stopped(0.1, ad.L2Ball(3.0)).status == "unknown"
    for slope, ball in ((0.9, ad.L2Ball(3.0)), (0.1, ad.L2Ball(2.9)), (0.1, ad.L1Ball(3.0))):
        with pytest.raises(InputError, match="of another model"):
            stopped(slope, ball)
    assert stopped(0.1, ad.L2Ball(3.0)).status == "unknown"


def test_regions_that_are_none_are_refused() -> None:
    for x, eps in ((torch.zeros(2), -0.1), ([0.0, 0.0], 0.1), (torch.zeros(2).long(), 0.1)):
        with pytest.raises(InputError):
            ad.Region.around(x, eps)
