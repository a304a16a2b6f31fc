"""The verifier: no wrong verdict, on either kind of branching, with attacks and without."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

import autodual as ad
from autodual.bound import building
from autodual.bound.estimators import FormSums, forms
from autodual.bound.reading import lines
from autodual.bound.relaxation import Relaxation
from autodual.duals import Planes
from autodual.errors import InputError, Interrupted, UnsupportedOpError
from autodual.front.evaluate import run_nodes
from autodual.front.ir import Value
from autodual.query import Case, Query
from autodual.verifier import ascent, clip, inputs, system, units
from autodual.verifier.clip import Lines
from autodual.verifier.pool import Nodes
from autodual.verifier.rounding import room_inside
from autodual.verifier.verdict import Verdict
from tests.exactly import evaluate, rational

BRANCH = ["inputs", "units", "programs"]


def net(seed: int, n: int = 2, hidden: int = 8, outputs: int = 3, act: type = nn.ReLU) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Sequential(
        nn.Linear(n, hidden), act(), nn.Linear(hidden, hidden), act(), nn.Linear(hidden, outputs)
    )
    return layers.double()


def grid(lower: Tensor, upper: Tensor, count: int) -> Tensor:
    axes = [
        torch.linspace(float(a), float(b), count).double()
        for a, b in zip(lower, upper, strict=True)
    ]
    return torch.stack([axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij")], 1)


def least(model: nn.Module, row: Tensor, lower: Tensor, upper: Tensor) -> float:
    """The least value of a row on a plane's box, by a fine grid, from above."""
    with torch.no_grad():
        return float((model(grid(lower, upper, 201)) @ row).amin())


@pytest.mark.parametrize("branch", BRANCH)
@pytest.mark.parametrize("seed", range(3))
def test_verdicts_turn_where_the_least_value_is(branch: str, seed: int) -> None:
    model, (lower, upper) = net(seed), (-torch.ones(2).double(), torch.ones(2).double())
    row = torch.tensor([1.0, -1.0, 0.0]).double()
    at_least = least(model, row, lower, upper)
    margin, region = ad.Y[0] - ad.Y[1], ad.Region(lower, upper)
    spread = 0.05 * (1 + abs(at_least))  # the grid's least is that far from the true one, at most
    safe = ad.verify(model, region, margin > at_least - spread, branch=branch, timeout=60)
    assert safe.status == "verified", safe
    for attack in (True, False):
        prop = margin > at_least + 0.01
        found = ad.verify(
            model, region, prop, branch=branch, timeout=20 if attack else 0.4, attack=attack
        )
        assert found.status != "verified", found
        if attack:
            assert found.falsified
            z = model(found.witness[None])[0].detach()
            assert torch.equal(z, found.output)
            assert float(z[0] - z[1]) <= at_least + 0.01
            assert bool((found.witness >= lower).all() & (found.witness <= upper).all())


@pytest.mark.parametrize("branch", BRANCH)
def test_a_conjunction_is_decided_jointly(branch: str) -> None:
    """Neither row is positive everywhere, but nowhere are both at most 0."""
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        model[0].bias.zero_()
        model[2].weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
        model[2].bias.fill_(0.1)  # z = (x + 0.1, −x + 0.1)
    region = ad.Region(torch.tensor([-1.0]), torch.tensor([1.0]))
    either = ad.any_of(ad.Y[0] > 0, ad.Y[1] > 0)
    assert ad.verify(model, region, either, branch=branch, timeout=30).verified
    assert ad.verify(model, region, ad.all_of(ad.Y[0] > 0, ad.Y[1] > 0), branch=branch).falsified


@pytest.mark.parametrize("branch", BRANCH)
def test_rows_may_be_about_inputs_and_outputs(branch: str) -> None:
    model, region = net(1), ad.Region(-torch.ones(2), torch.ones(2))
    points = grid(-torch.ones(2), torch.ones(2), 201)
    with torch.no_grad():
        values = model(points)[:, 0] + 2 * points[:, 1]
    prop = ad.Y[0] + 2 * ad.X[1] > float(values.amin()) - 0.1
    assert ad.verify(model, region, prop, branch=branch, timeout=30).verified
    assert ad.verify(model, region, ad.Y[0] > 0.9 * values.amax() - 2 * ad.X[1]).falsified


@pytest.mark.parametrize("branch", BRANCH)
def test_a_region_is_cut_by_its_statement(branch: str) -> None:
    model, ends = net(2), (-torch.ones(2), torch.ones(2))
    points = grid(*ends, 201)
    with torch.no_grad():
        z = model(points)[:, 2]
    side = -1.0 if points[z.argmin()].sum() > 0 else 1.0  # away from where the least value is
    inside = side * points.sum(1) > 0.5
    low, all_low = float(z[inside].amin()), float(z.amin())
    assert low > all_low + 0.02
    where = side * (ad.X[0] + ad.X[1]) > 0.5
    middle = (low + all_low) / 2
    assert ad.verify(model, ad.Region(*ends, where), ad.Y[2] > middle, branch=branch).verified
    assert ad.verify(model, ad.Region(*ends), ad.Y[2] > middle, branch=branch).falsified
    either = ad.any_of(where, ad.X[0] > 5)
    assert ad.verify(model, ad.Region(*ends, either), ad.Y[2] > middle, branch=branch).verified


def test_an_empty_region_is_said_to_be_empty() -> None:
    model = net(0)
    where = ad.all_of(ad.X[0] + ad.X[1] > 1, ad.X[0] + ad.X[1] < -1)
    verdict = ad.verify(model, ad.Region(-torch.ones(2), torch.ones(2), where), ad.Y[0] > 1e9)
    assert verdict.verified
    assert "empty" in verdict.reason
    crossed = ad.Region(torch.ones(2), -torch.ones(2))
    assert "empty" in ad.verify(model, crossed, ad.Y[0] > 1e9).reason


@pytest.mark.parametrize("act", [nn.Tanh, nn.LeakyReLU, nn.Sigmoid, nn.GELU, nn.Hardtanh])
@pytest.mark.parametrize("branch", ["inputs", "units"])
def test_other_ops_are_cut_too(act: type, branch: str) -> None:
    model, ends = net(3, act=act), (-2 * torch.ones(2), 2 * torch.ones(2))
    row = torch.tensor([0.0, 1.0, 1.0]).double()
    at_least = least(model, row, *ends)
    prop = ad.Y[1] + ad.Y[2] > at_least - 0.2  # curved units never get exact
    assert ad.verify(model, ad.Region(*ends), prop, branch=branch, timeout=60).verified
    assert ad.verify(model, ad.Region(*ends), ad.Y[1] + ad.Y[2] > at_least + 0.01).falsified


def test_programs_find_what_is_violated_in_a_corner_alone() -> None:
    """Σ min(x, 1 − x) is 0 where all x are 0 or 1, and solvers come near that, not there."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 1)).double()
    with torch.no_grad():
        eye = torch.eye(6).double()
        model[0].weight.copy_(torch.cat([eye, 2 * eye]))
        model[0].bias.copy_(torch.cat([torch.zeros(6), -torch.ones(6)]))
        model[2].weight.copy_(torch.cat([torch.ones(6), -torch.ones(6)])[None])
        model[2].bias.zero_()
    region = ad.Region(torch.zeros(6), torch.ones(6), where=ad.X[0] + ad.X[1] - ad.X[2] > 0.7)
    verdict = ad.verify(model, region, ad.Y[0] > 0, 20, branch="programs", attack=False)
    assert verdict.falsified
    assert set(verdict.witness.tolist()) <= {0.0, 1.0}


class Extremes(nn.Module):
    """Maxima and minima between layers, and no other op that bends."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(2, 8), nn.Linear(4, 6), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.a(x)
        z = self.b(torch.maximum(z[:, :4], z[:, 4:]))
        return self.c(torch.stack([z[:, :3].amax(1), torch.minimum(z[:, 3], z[:, 4])], 1))


@pytest.mark.parametrize("branch", BRANCH)
def test_maxima_are_cut(branch: str) -> None:
    model, ends = Extremes().double(), (-torch.ones(2), torch.ones(2))
    row = torch.tensor([1.0, -1.0, 0.0]).double()
    at_least = least(model, row, *ends)
    prop = ad.Y[0] - ad.Y[1] > at_least - 0.02
    assert ad.verify(model, ad.Region(*ends), prop, branch=branch, timeout=60).verified
    false = ad.Y[0] - ad.Y[1] > at_least + 0.01
    assert ad.verify(model, ad.Region(*ends), false, branch=branch).falsified


def test_images_are_cut_inside_the_network() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.ReLU(),
        nn.Linear(8, 3),
    )  # fmt: skip
    x = torch.rand(1, 6, 6)
    y = int(model(x[None]).argmax())
    net = ad.certify(model, 0.1)
    eps = float(net.radius(x[None], torch.tensor([y])))
    others = [k for k in range(3) if k != y]
    keeps = ad.all_of(*[ad.Y[y] > ad.Y[k] for k in others])
    verdicts = [ad.verify(model, ad.Region.around(x, e * eps), keeps, 30) for e in (1.1, 4.0)]
    assert verdicts[0].verified
    assert "units" in verdicts[0].how
    exact = ad.certify(model, 1.1 * eps).exact(x[None], torch.tensor([y]))
    assert bool(exact.verified)
    assert not verdicts[1].verified


@pytest.mark.parametrize("branch", ["inputs", "units"])
def test_many_cases_are_decided_side_by_side(branch: str) -> None:
    model, ends = net(1), (-torch.ones(2), torch.ones(2))
    rows = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        values = (model(grid(*ends, 101)) @ rows.mT).amin(0) - 0.05
    safe = ad.All(rows, values)
    verdict = ad.verify(model, ad.Region(*ends), safe, 30, branch=branch, attack=False)
    assert verdict.verified, verdict
    values[33] += 0.1
    found = ad.verify(model, ad.Region(*ends), ad.All(rows, values), 30, branch=branch)
    assert found.falsified


def test_planted_points_are_never_verified_away() -> None:
    """A thin spike in an otherwise safe function, far from corners and centers."""
    torch.manual_seed(0)
    for i in range(3):
        at, width = torch.rand(2).double() * 1.6 - 0.8, 10.0 ** -(2 + i)
        model = Spike(at, width)
        region = ad.Region(-torch.ones(2), torch.ones(2))
        for branch, attack in itertools.product(["inputs", "units"], [True, False]):
            verdict = ad.verify(
                model, region, ad.Y[0] > 0, 20 if attack else 0.3, branch=branch, attack=attack
            )
            assert verdict.status != "verified", (at, width, verdict)
            if attack:
                assert verdict.falsified, (at, width, verdict)
        assert ad.verify(model, region, ad.Y[0] > -1.5, 20).verified


class Spike(nn.Module):
    """1 but near a point, where it falls to −1."""

    def __init__(self, at: Tensor, width: float) -> None:
        super().__init__()
        self.at, self.width = nn.Parameter(at), width

    def forward(self, x: Tensor) -> Tensor:
        far = torch.relu(x - self.at) + torch.relu(self.at - x)
        return 1 - 2 * torch.relu(1 - far.sum(1, keepdim=True) / self.width)


def test_leaves_without_anything_to_cut_are_decided_by_programs() -> None:
    """|x₁| + |x₂| ≥ |x₁ + x₂|: equal on half of the plane, which no bound closes before the end."""
    model = nn.Sequential(nn.Linear(2, 6, bias=False), nn.ReLU(), nn.Linear(6, 1)).double()
    with torch.no_grad():
        rows = [[1.0, 0], [-1, 0], [0, 1], [0, -1], [1, 1], [-1, -1]]
        model[0].weight.copy_(torch.tensor(rows))
        model[2].weight.copy_(torch.tensor([[1.0, 1, 1, 1, -1, -1]]))
        model[2].bias.fill_(1e-3)
    region = ad.Region(-torch.ones(2), torch.ones(2))
    verdict = ad.verify(model, region, ad.Y[0] > 0, 60, branch="units", attack=False)
    assert verdict.verified, verdict


def test_time_ends_a_search_and_a_file_goes_on_with_it(tmp_path) -> None:
    model, region = net(5, n=6, hidden=32), ad.Region(-torch.ones(6), torch.ones(6))
    with torch.no_grad():
        low = float(model(2 * torch.rand(20000, 6).double() - 1)[:, 0].amin())
    prop, kept = ad.Y[0] > low - 0.02, tmp_path / "search.pt"
    first = ad.verify(model, region, prop, 0.3, resume=kept, attack=False)
    assert first.status == "unknown"
    assert first.reason == "time"
    assert first.open > 0
    assert first.bound < 0
    assert [m.bounded for m in first.curve] == sorted(m.bounded for m in first.curve)
    assert kept.exists()
    with pytest.raises(InputError, match="another model"):
        ad.verify(model, region, ad.Y[0] > low, 0.3, resume=kept)
    second = ad.verify(model, region, prop, 0.3, resume=kept, attack=False)
    assert second.bounded > first.bounded
    assert second.bound >= first.bound
    kept.write_bytes(b"rubbish")
    with pytest.raises(InputError, match="whole file"):
        ad.verify(model, region, prop, 1, resume=kept)


def test_an_interrupted_search_says_what_it_knows(tmp_path) -> None:
    model, kept = net(5, n=4, hidden=24), tmp_path / "search.pt"

    def told(moment: ad.Moment) -> None:
        if moment.bounded > 0:
            raise KeyboardInterrupt

    region = ad.Region(-torch.ones(4), torch.ones(4))
    with pytest.raises(Interrupted) as caught:
        ad.verify(model, region, ad.Y[0] > -0.1, resume=kept, attack=False, told=told)
    assert caught.value.partial.status == "unknown"
    assert caught.value.partial.reason == "interrupted"
    assert kept.exists()


def test_memory_ends_a_search() -> None:
    model, region = net(5, n=6, hidden=32), ad.Region(-torch.ones(6), torch.ones(6))
    with torch.no_grad():
        low = float(model(2 * torch.rand(20000, 6).double() - 1)[:, 0].amin())
    problem = ad.Y[0] > low - 0.001
    verdict = ad.verify(model, region, problem, 1.5, memory="16MiB", attack=False)
    assert verdict.status == "unknown"


def test_a_point_counts_only_where_the_deployed_twin_agrees() -> None:
    model, region = net(0), ad.Region(-torch.ones(2), torch.ones(2))
    asked = []

    def replay(x: Tensor) -> Tensor:
        asked.append(x)
        return model(x) + 100

    low = least(model, torch.tensor([1.0, 0.0, 0.0]).double(), -torch.ones(2), torch.ones(2))
    verdict = ad.verify(model, region, ad.Y[0] > low + 0.1, 0.5, replay=replay)
    assert verdict.status == "unknown"
    assert len(asked) > 0


def test_what_is_asked_wrongly_is_refused() -> None:
    model, region = net(0), ad.Region(-torch.ones(2), torch.ones(2))
    for wrong, match in [
        (lambda: ad.verify(model, region, ad.Y[7] > 0), "shape"),
        (lambda: ad.verify(model, region, ad.X[2] > 0), "shape"),
        (lambda: ad.verify(model, region, ad.Y[0] >= 0), "write >"),
        (lambda: ad.verify(model, region, ad.Y[0] * ad.Y[1] > 0), "linear"),
        (lambda: ad.verify(model, region, ad.Y[0] > math.nan), "finite"),
        (lambda: ad.verify(model, region, ad.Y[0]), "no statement"),
        (lambda: ad.verify(model, region, ad.Y[0] > 0, timeout=0), "timeout"),
        (lambda: ad.verify(model, region, ad.Y[0] > 0, branch="both"), "branch"),
        (lambda: ad.verify(model, 0.1, ad.Y[0] > 0), "no region"),
        (lambda: ad.verify(model, ad.Region(0.0, 1.0), ad.Y[0] > 0), "shape"),
        (lambda: ad.Region(torch.tensor([math.inf]), torch.tensor([1.0])), "finite"),
        (lambda: ad.verify(model, ad.Region(*region.ends((2,)), ad.Y[0] > 0), ad.Y[0] > 0), "outp"),
        (lambda: bool(ad.Y[0] > 0), "join"),
    ]:
        with pytest.raises(InputError, match=match):
            wrong()
    with pytest.raises(UnsupportedOpError):
        ad.verify(nn.Sequential(model, Summed()), region, ad.Y[0] > 0)


class Summed(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z[:, :2] * torch.linalg.det(z[:, :1, None] + torch.eye(2).to(z))[:, None]


class Jumping(nn.Module):
    def __init__(self, jump: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.before, self.jump, self.after = nn.Linear(3, 8), jump, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.jump(3 * self.before(x)))


@pytest.mark.parametrize("branch", ["inputs", "units"])
@pytest.mark.parametrize("jump", [torch.floor, torch.sign, lambda z: torch.sort(z, 1)[0]])
def test_what_jumps_is_decided_though_only_intervals_bound_it(
    branch: str, jump: Callable[[Tensor], Tensor]
) -> None:
    torch.manual_seed(0)
    model, x, told = Jumping(jump).double().eval(), torch.randn(6, 3).double(), set[str]()
    for one, label in zip(x, model(x).argmax(1).tolist(), strict=True):
        keeps = ad.all_of(*(ad.Y[label] > ad.Y[k] for k in range(3) if k != label))
        verdict = ad.verify(model, (one - 0.1, one + 0.1), keeps, 3, branch=branch)
        points = one + 0.2 * (torch.rand(5_000, 3).double() - 0.5)
        kept = bool((model(points).argmax(1) == label).all())
        assert kept or not verdict.verified
        told.add(verdict.status)
    assert "verified" in told


def test_units_are_cut_before_an_op_that_only_intervals_bound() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), Jumping(torch.round)).eval()
    prop, ends = ad.Y[0] > -1e3, (-torch.ones(2), torch.ones(2))
    assert ad.verify(model, ends, prop, 3, branch="units", attack=False).verified
    tight = ad.Y[0] > float(model(torch.zeros(1, 2))[0, 0].detach()) - 0.01
    assert ad.verify(model, ends, tight, 1, branch="units", attack=False).status == "unknown"


def test_a_negated_statement_fails_where_the_statement_holds() -> None:
    model, region = net(0), ad.Region(-torch.ones(2), torch.ones(2))
    both = ad.all_of(ad.any_of(ad.Y[0] > -100, ad.Y[1] > 100), ad.Y[2] < 100)
    assert ad.verify(model, region, both).verified
    assert ad.verify(model, region, ~both).falsified
    assert ad.verify(model, region, ~~both).verified


def test_properties_and_queries_are_taken_as_well() -> None:
    model, region = net(0), ad.Region(-torch.ones(2), torch.ones(2))
    rows = torch.eye(3)
    assert ad.verify(model, region, ad.All(rows, -100.0)).verified
    assert ad.verify(model, region, ad.AtLeastOne(rows, 100.0)).falsified
    nothing, one = torch.zeros(1, 2).double(), torch.tensor([[1.0, 0.0, 0.0]]).double()
    ends = -torch.ones(2).double(), torch.ones(2).double()
    query = Query((Case(*ends, nothing, one, torch.tensor([-100.0]).double()),), 2, 3)
    assert ad.verify(model, None, query).verified
    everything = Query((Case(*ends, nothing[:0], one[:0], one[:0, 0]),), 2, 3)
    assert ad.verify(model, None, everything).falsified


@pytest.mark.parametrize("branch", BRANCH)
def test_overflow_proves_nothing(branch: str) -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model[0].weight.fill_(1.0)
        model[2].weight.fill_(1e30)
    region = ad.Region(torch.tensor([3e8]), torch.tensor([4e8]))
    verdict = ad.verify(model, region, ad.Y[0] > 3.3e38, 0.5, branch=branch, attack=False)
    assert verdict.status != "verified"


class Of(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("branch", [*BRANCH, "auto"])
def test_outputs_that_are_inputs_keep_their_rows(branch: str) -> None:
    region = ad.Region(-torch.ones(2), torch.ones(2), ad.X[0] + ad.X[1] < 0.5)
    for model in (nn.Identity(), nn.Linear(2, 2)):
        row = ad.Y[0] if isinstance(model, nn.Identity) else ad.Y[0] * 0 + ad.X[0]
        assert ad.verify(model, region, row > -1.1, 5, branch=branch).verified
        assert not ad.verify(model, region, row > -0.5, 0.5, branch=branch, attack=False).verified
        assert ad.verify(model, region, row > -0.5, 5, branch=branch).falsified


@pytest.mark.parametrize("branch", ["inputs", "units"])
def test_regions_without_width_are_points(branch: str) -> None:
    model, x = net(0, act=nn.Softplus), torch.tensor([0.5, -0.3]).double()
    z = float(model(x[None])[0, 0].detach())
    region = ad.Region(x, x)
    assert ad.verify(model, region, ad.Y[0] > z - 0.01, 5, branch=branch).verified
    assert ad.verify(model, region, ad.Y[0] > z + 0.01, 5, branch=branch).falsified


@pytest.mark.parametrize("branch", ["inputs", "units"])
def test_ops_on_inputs_jumps_and_domains_are_no_trouble(branch: str) -> None:
    region = ad.Region(-torch.ones(2), torch.ones(2))
    steps = Of(lambda x: ((x @ x.new_ones(2, 2)) > 1.5).to(x))
    sums = Of(lambda x: torch.relu(x).sum(1, keepdim=True))
    logs = Of(lambda x: torch.log(x).sum(1, keepdim=True))
    assert ad.verify(steps, region, ad.Y[0] > -0.1, 5, branch=branch).verified
    assert not ad.verify(steps, region, ad.Y[0] > 0.5, 0.5, branch=branch).verified
    assert ad.verify(sums, region, ad.Y[0] > -0.1, 5, branch=branch).verified
    assert ad.verify(sums, region, ad.Y[0] > 0.1, 5, branch=branch).falsified
    assert not ad.verify(logs, region, ad.Y[0] > -1e9, 0.3, branch=branch, attack=False).verified


def test_a_witness_lies_in_its_region_to_the_last_digit() -> None:
    ends = torch.tensor([0.7], dtype=torch.float64), torch.tensor([0.8], dtype=torch.float64)
    none = torch.zeros(0, 1).double()
    query = Query((Case(*ends, none, none, none[:, 0]),), 1, 1)
    verdict = ad.verify(nn.Linear(1, 1), None, query)
    assert verdict.falsified
    assert float(verdict.witness.double()) >= 0.7


def test_a_search_that_ends_in_programs_goes_on(tmp_path) -> None:
    torch.manual_seed(0)
    layers = nn.Linear(25, 60), nn.ReLU(), nn.Linear(60, 60), nn.ReLU(), nn.Linear(60, 1)
    model, region = nn.Sequential(*layers), ad.Region(-torch.ones(25), torch.ones(25))
    prop, kept = ad.Y[0] > -0.6, tmp_path / "search.pt"
    for _ in range(2):
        verdict = ad.verify(model, region, prop, 1.6, attack=False, resume=kept)
    assert verdict.status == "unknown"
    for rubbish in (b"junk", kept.read_bytes()[:2000]):
        kept.write_bytes(rubbish)
        with pytest.raises(InputError, match="whole file"):
            ad.verify(model, region, prop, 1.0, attack=False, resume=kept)


@pytest.mark.parametrize("with_forms", [False, True])
@pytest.mark.parametrize("kind", ["dense", "image", "product"])
def test_lines_and_forms_hold_at_every_point(kind: str, with_forms: bool) -> None:
    model, x = MODELS[kind](), torch.rand(3, *SHAPES[kind]).double()
    radius = 0.1 * torch.rand(3, *SHAPES[kind]).double()
    net = ad.certify(model, ad.Box(x - radius, x + radius), bounds="ibp+dual")
    plain = net.relax(x)
    bound = net.with_options(forms=with_forms).relax(x)
    output = net.graph.output
    C = torch.randn(1, 4, output.numel).double()
    slope, offset, _ = lines(bound.travelled, {output: C})
    for _ in range(100):
        point = x + radius * (2 * torch.rand_like(x) - 1)
        with torch.no_grad():
            values = model(point).flatten(1) @ C[0].mT
        below = torch.linalg.vecdot(slope, point.flatten(1).unsqueeze(1)) + offset
        assert bool((below <= values + 1e-9).all())
        env = {**net.admitted(point).env}
        run_nodes(net.graph.nodes, env, 3)
        for value, box in bound.boxes.items():
            z = env[value]
            assert bool(((z >= box.lower - 1e-9) & (z <= box.upper + 1e-9)).all())
    if with_forms:
        width, before = (
            sum(float((b.upper - b.lower).detach().sum()) for b in found.boxes.values())
            for found in (bound, plain)
        )
        assert width < before


def outside(seeds: int) -> float:
    """How far values of small deep nets lie outside of their affine forms, at most."""
    far = -math.inf
    for seed in range(seeds):
        torch.manual_seed(seed)
        acts = (nn.ReLU, nn.Tanh) if seed % 2 else (nn.ReLU, nn.ReLU)
        layers = [m for act in (*acts, nn.ReLU) for m in (nn.Linear(2, 2), act())]
        model = nn.Sequential(*layers, nn.Linear(2, 2)).double()
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(2.5)
        x, radius = torch.randn(32, 2).double(), torch.rand(32, 2).double()
        certified = ad.certify(model, ad.Box(x - radius, x + radius), slopes="equal")
        network = certified.relax(x).travelled
        sums = FormSums(Relaxation(network.plan, network.entry, {}, network.batch))
        boxes = dict[Value, ad.Interval]()
        for layer in network.layers.values():
            sums.extend(network, layer)
            boxes[layer.value] = sums.interval(layer.value)
        for delta in grid(-torch.ones(2), torch.ones(2), 9):
            env = dict(certified.admitted(x + radius * delta).env)
            run_nodes(certified.graph.nodes, env, 32)
            for value, box in boxes.items():
                gap = torch.maximum(box.lower - env[value], env[value] - box.upper)
                far = max(far, float(gap.detach().amax()))
    return far


def test_affine_forms_hold_by_themselves() -> None:
    assert outside(4) <= 1e-9


@pytest.mark.parametrize("broken", ["planes", "affine", "brought"])
def test_canaries_a_broken_form_is_noticed(broken, monkeypatch) -> None:
    pushed, through = forms._pushed, forms._through
    if broken == "planes":
        nothing = lambda layer, given: pushed(layer, [None] * len(given))  # noqa: E731
        only = lambda layer, given: (  # noqa: E731
            nothing if isinstance(layer.relaxed, Planes) else pushed
        )(layer, given)
        monkeypatch.setattr(forms, "_pushed", only)
    elif broken == "affine":
        half = lambda side, known: None if (r := through(side, known)) is None else r / 2  # noqa: E731
        monkeypatch.setattr(forms, "_through", half)
    else:
        monkeypatch.setattr(forms, "_pushed", lambda layer, given: None)
    assert outside(4) > 1e-6


class Squares(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.first(x))
        return torch.relu(self.second(z * torch.relu(self.first(x))))


def image() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 5), nn.ReLU(),
        nn.Linear(5, 2),
    ).double()  # fmt: skip


MODELS = {"dense": lambda: net(0, n=3), "image": image, "product": lambda: Squares().double()}
SHAPES = {"dense": (3,), "image": (1, 6, 6), "product": (3,)}


def test_boxes_are_traced() -> None:
    model, trace = net(0), list[tuple[Tensor, Tensor]]()
    low = least(model, torch.tensor([1.0, 0.0, 0.0]).double(), -torch.ones(2), torch.ones(2))
    region = ad.Region(-torch.ones(2), torch.ones(2))
    verdict = ad.verify(model, region, ad.Y[0] > low - 0.02, trace=trace)
    assert verdict.verified
    assert sum(len(lower) for lower, _ in trace) == verdict.bounded
    assert torch.equal(trace[0][0][0], -torch.ones(2).double())


def test_clipping_keeps_every_point_where_no_row_is_positive() -> None:
    torch.manual_seed(0)
    for _ in range(50):
        lines = Lines(torch.randn(1, 3, 4).double(), torch.randn(1, 3).double())
        lower = -torch.rand(1, 4).double()
        upper = torch.rand(1, 4).double()
        x = lower + (upper - lower) * torch.rand(500, 4).double()
        unsafe = ((x @ lines.A[0].mT + lines.b[0]) <= 0).all(1)
        low, high = lines.clipped(lower, upper)
        assert bool(((x[unsafe] >= low) & (x[unsafe] <= high)).all())
        best = float(lines.together(lower, upper))
        assert best <= float((x @ lines.A[0].mT + lines.b[0]).amax(1).amin()) + 1e-12


def _unclipped(lines: Lines, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    quarter = (upper - lower) / 4
    return lower + quarter, upper - quarter


def _one_half(halves: Nodes) -> Nodes:
    """One half of each, twice: of the first sub-problem the upper one, of others the lower."""
    count = len(halves) // 2
    return halves.select((torch.arange(count) + count * (torch.arange(count) == 0)).repeat(2))


@pytest.mark.parametrize("broken", ["clip", "halves", "bound", "multiplier"])
def test_canaries_a_broken_search_gives_wrong_verdicts(broken, monkeypatch) -> None:
    """Each of these verifies what is false, on one of the nets above."""
    if broken == "clip":
        monkeypatch.setattr(clip.Lines, "clipped", _unclipped)
    elif broken == "halves":
        cut = inputs._cut
        monkeypatch.setattr(inputs, "_cut", lambda *a: _one_half(cut(*a)))
    elif broken == "bound":
        monkeypatch.setattr(
            clip.Lines, "together", lambda self, low, high: self.least(low, high).sum(1) + 1
        )
    else:
        halves = units.UnitSplits._halves
        monkeypatch.setattr(
            units.UnitSplits,
            "_halves",
            lambda self, n, u: _one_half(halves(self, n, u)),
        )
    branch = "units" if broken == "multiplier" else "inputs"
    for seed in range(3):
        model, ends = net(seed), (-torch.ones(2).double(), torch.ones(2).double())
        at_least = least(model, torch.tensor([1.0, -1.0, 0.0]).double(), *ends)
        prop = ad.Y[0] - ad.Y[1] > at_least + 0.01
        if ad.verify(model, ad.Region(*ends), prop, 10, branch=branch, attack=False).verified:
            return
    pytest.fail("all verdicts are right")


def of_quarters(seed: int) -> tuple[nn.Module, int]:
    """A net whose sums are exact at the corners of [0, 1]ⁿ, and n."""
    draw = torch.Generator().manual_seed(seed)
    n, hidden, deep = (
        int(torch.randint(*ends, (), generator=draw)) for ends in ((2, 6), (3, 24), (0, 2))
    )
    sizes = [n, *[hidden] * (1 + deep), 2]
    layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    model = nn.Sequential(*layers[:-1]).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randint(-4, 5, p.shape, generator=draw).double() / 4)
    return model, n


def ties() -> Iterator[Verdict]:
    """Verdicts on properties that fail at a corner, and there by nothing: a tie is a violation."""
    for seed, branch in ((2, "inputs"), (13, "inputs"), (15, "inputs"), (33, "units")):
        model, n = of_quarters(seed)
        corners = torch.tensor(list(itertools.product([0.0, 1.0], repeat=n))).double()
        with torch.no_grad():
            z = model(corners)
        least = z[z[:, 0].argmin()].tolist()
        prop = ad.any_of(ad.Y[0] > least[0], ad.Y[1] > least[1])
        region = torch.zeros(n).double(), torch.ones(n).double()
        yield ad.verify(model, region, prop, 0.5, branch=branch, attack=False)


def test_ties_are_never_verified_away() -> None:
    assert not any(verdict.verified for verdict in ties())


def test_canary_without_room_for_rounding_ties_are_verified(monkeypatch) -> None:
    for place in (clip, ascent, system):
        monkeypatch.setattr(place, "room", lambda dtype: 0.0)
    monkeypatch.setattr(system, "room_inside", lambda *args: {})
    assert any(verdict.verified for verdict in ties())


def ties_inside(branch: str, seconds: float = 0.5) -> Iterator[Verdict]:
    """Verdicts on nets whose last layer undoes what is large before it, at points that just fail.

    The rows of the last layer are orthogonal to what reaches it, but for rounding: on the whole
    box the output is as large as what float32 lost of numbers up to 10⁴.
    """
    for seed in range(12):
        draw = torch.Generator().manual_seed(seed)
        big = 10 ** float(4 * torch.rand((), generator=draw))
        n, m = 1 + seed % 3, 6
        first, last = nn.Linear(n, m), nn.Linear(m, 1, bias=False)
        first.weight.data = torch.randn(m, n, generator=draw) * big
        first.bias.data = torch.randn(m, generator=draw) * big
        columns = torch.cat([first.weight.data, first.bias.data[:, None]], 1).double()
        null = torch.linalg.svd(columns.T).Vh[n + 1 :]
        last.weight.data = (torch.randn(len(null), generator=draw).double() @ null).float()[None]
        model = nn.Sequential(first, last)
        lower = torch.randn(n, generator=draw)
        upper = lower + 1e-2 * torch.rand(n, generator=draw)
        corners = itertools.product(*zip(lower.tolist(), upper.tolist(), strict=True))
        worst = min(evaluate(model, rational(torch.tensor(corner)))[0] for corner in corners)
        at = float(torch.tensor(float(worst)))
        at = at if Fraction(at) >= worst else float(torch.tensor(at).nextafter(torch.tensor(1e9)))
        yield ad.verify(model, (lower, upper), ad.Y[0] > at, seconds, branch=branch, attack=False)


@pytest.mark.parametrize("branch", ["inputs", "units", "programs"])
def test_what_cancels_inside_a_network_is_never_verified_away(branch) -> None:
    assert not any(verdict.verified for verdict in ties_inside(branch, 0.15))


@pytest.mark.parametrize("branch", ["inputs", "units"])
def test_canary_without_room_inside_that_is_verified(branch, monkeypatch) -> None:
    monkeypatch.setattr(system, "room_inside", lambda *args: {})
    assert any(verdict.verified for verdict in ties_inside(branch))


class Signed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.Linear(2, 4), nn.Linear(4, 2)
        self.a.weight.data = torch.tensor([[2, 2], [5, -5], [3, -5], [3, 0.0]]) / 4
        self.a.bias.data = torch.tensor([0, 4, -2, 6.0]) / 4
        self.o.weight.data = torch.tensor([[1, 6, -6, -3], [5, 3, 3, 0.0]]) / 4
        self.o.bias.data = torch.tensor([-3, 1.0]) / 4

    def forward(self, x: Tensor) -> Tensor:
        z = self.a(x)
        return self.o(torch.sign(z) * z.flip(-1))


def verdict_at_a_jump() -> Verdict:
    """At (−2, −1.203125) an entry is 0 and the output −1.48828125, below what is asked."""
    region = torch.tensor([-2.0, -1.25]), torch.tensor([-1.875, -0.875])
    asked = ad.Y[0] > -1.38828125
    return ad.verify(Signed(), region, asked, 2, branch="inputs", attack=False)


def test_an_ulp_before_a_jump_is_not_taken_for_the_jump() -> None:
    assert not verdict_at_a_jump().verified


def test_canary_an_ulp_before_a_jump_is_a_whole_jump(monkeypatch) -> None:
    monkeypatch.setattr(building, "BLUR", 0.0)
    monkeypatch.setattr(system, "room_inside", lambda *args: {})
    assert verdict_at_a_jump().verified


def dead_but_for_rounding() -> Iterator[tuple[nn.Module, Tensor, Tensor, float]]:
    """Units that reach a number just above 0, of which a steep layer makes much."""
    for seed, dtype in itertools.product(range(4), (torch.float32, torch.float64)):
        draw = torch.Generator().manual_seed(seed)
        first, last = nn.Linear(4, 1).to(dtype), nn.Linear(1, 1).to(dtype)
        first.weight.data = 1e3 * torch.randn(1, 4, generator=draw, dtype=dtype)
        lower = torch.randn(4, generator=draw, dtype=dtype)
        upper = lower + 1e-2 * torch.rand(4, generator=draw, dtype=dtype)
        most = rational(first.weight[0]) @ rational(
            torch.where(first.weight.data[0] > 0, upper, lower)
        )
        bias = torch.tensor(-float(most), dtype=dtype)
        while most + Fraction(float(bias)) <= 0:
            bias = bias.nextafter(torch.full_like(bias, torch.inf))
        first.bias.data = bias.reshape(1)
        last.weight.data.fill_(-1e4)
        last.bias.data.fill_(1)
        at = 1 - 5000 * (most + Fraction(float(bias)))
        yield nn.Sequential(first, nn.ReLU(), last), lower, upper, float(at)


class Products(nn.Module):
    """1 − 1000 relu(a·b) for the halves a and b of x."""

    def forward(self, x: Tensor) -> Tensor:
        product = x[:, :8].unsqueeze(1) @ x[:, 8:].unsqueeze(2)
        return 1 - 1e3 * torch.relu(product.flatten(1))


def small_products() -> Iterator[tuple[nn.Module, Tensor, Tensor, float]]:
    """Products that are small above 0, of large numbers."""
    for seed in range(4):
        draw = torch.Generator().manual_seed(seed)
        a, b = 1e3 * torch.randn(8, generator=draw), torch.randn(8, generator=draw)
        b = b - ((a.double() @ b.double()) / (a.double() @ a.double())).float() * a
        exact = rational(a) @ rational(b)
        x = torch.cat([a, b if exact > 0 else -b])
        yield Products(), x, x, float(1 - 500 * abs(exact))


@pytest.mark.parametrize("branch", ["inputs", "units"])
@pytest.mark.parametrize("made", [dead_but_for_rounding, small_products])
def test_no_unit_is_dead_by_rounding(made, branch) -> None:
    for model, lower, upper, at in made():
        asked = model, (lower, upper), ad.Y[0] > at
        assert not ad.verify(*asked, 0.2, branch=branch, attack=False).verified


def test_canary_without_room_units_are_dead_by_rounding(monkeypatch) -> None:
    monkeypatch.setattr(system, "room_inside", lambda *args: {})
    for made in (dead_but_for_rounding, small_products):
        asked = ((model, (low, up), ad.Y[0] > at) for model, low, up, at in made())
        assert any(ad.verify(*q, 0.5, branch="inputs", attack=False).verified for q in asked)


def test_every_case_is_looked_at_for_its_room() -> None:
    model = nn.Linear(1, 1).double()
    near = [(torch.full((1,), i * 1e-3), torch.full((1,), (i + 1) * 1e-3)) for i in range(100)]
    far = (torch.full((1,), 1e4), torch.full((1,), 1.1e4))
    ends = [torch.stack(e).double() for e in zip(*near[:37], far, *near[37:], strict=True)]
    net = ad.certify(model, 0.0).admitted(ends[0])
    found = room_inside(net.program.plan, net.env, *ends)
    terms = 1.1e4 * model.weight.detach().abs().item() + model.bias.detach().abs().item()
    assert float(found[net.graph.output]) == pytest.approx(256 * 2.0**-53 * terms)


class Overflows(nn.Module):
    """1 on one side of an edge, behind what overflows on a box and stays finite on it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        z = torch.exp(100 * x)
        y = torch.where(z > 1, 2.0, 0.5 * z)
        if self.kind == "heaviside":
            return torch.heaviside(y - 1, torch.tensor(0.0))
        return (y > 1).float() if self.kind == "step" else torch.sign(torch.relu(y) - 1.5)


@pytest.mark.parametrize("kind", ["step", "sign", "heaviside"])
def test_what_overflows_before_a_jump_proves_nothing(kind) -> None:
    model, ends = Overflows(kind), (torch.zeros(1), torch.ones(1))
    prop = ad.Y[0] < 0.5  # 1 nearly everywhere
    for branch in ("inputs", "units"):
        assert not ad.verify(model, ends, prop, 0.3, branch=branch, attack=False).verified
    for method in ("ibp", "dual", "ibp+dual", "ibp&dual"):
        box = ad.certify(model, 0.5, bounds=method, intervals=True).bounds(torch.full((1, 1), 0.5))
        assert float(box.upper) >= 1


def test_programs_say_unknown_of_what_has_no_pieces() -> None:
    model, x = Products().double(), torch.linspace(0.1, 1.0, 16).double()
    region, prop = (x - 1e-3, x + 1e-3), ad.Y[0] > -1e9
    assert ad.verify(model, region, prop, 1, branch="programs").status in ("verified", "unknown")


class Beside(nn.Module):
    """A layer's values beside the inputs themselves, which nothing has rounded."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(torch.cat([self.a(x), x], 1)))


@pytest.mark.parametrize("branch", ["inputs", "units", "programs"])
def test_what_is_rounded_may_stand_beside_what_is_not(branch) -> None:
    ends = -torch.ones(3).double(), torch.ones(3).double()
    assert ad.verify(Beside().double(), ends, ad.Y[0] > -100, 10, branch=branch).verified
