"""What rows may take: the budget, what falls back, and what is said of it."""

import math
import warnings

import pytest
import torch
from torch import nn

import autodual as ad
from autodual.bound.budget import BUDGET
from autodual.bound.cost import total
from autodual.bound.estimators import ExactSums
from autodual.errors import BudgetWarning, InputError


@pytest.fixture(autouse=True)
def one_side_after_the_other(monkeypatch):
    """Few rows are asked for at once if they need not be counted; here they are counted."""
    monkeypatch.setattr("autodual.bound.estimators.exact.FEW", 0)


class Skip(nn.Module):
    """Convolutions, a skip connection and linear layers on pictures [1, 6, 6]."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x):
        z = torch.relu(self.first(x))
        return self.last(torch.relu(z + self.second(z)))


def make():
    torch.manual_seed(0)
    return Skip().double(), torch.rand(4, 1, 6, 6, dtype=torch.float64)


def prices(model, eps, x):
    """Return the work of each node's rows for each example when all have theirs, by name."""
    found = {}
    for i in range(len(x)):
        net = ad.certify(model, eps)
        record = net.admitted(x[i : i + 1]).program.run(net.admitted(x[i : i + 1]).env, net.threat)
        for value, cost in record.costs.items():
            if value != net.graph.output:
                found.setdefault(value.name, []).append(record.rows[value] * cost.work)
    return found


def test_a_small_net_is_bounded_in_full():
    model, x = make()
    full, default = ad.certify(model, 0.05, budget=None)(x), ad.certify(model, 0.05)(x)
    assert torch.equal(full.margins, default.margins)
    assert default.over_budget == ()
    assert default.remarks == ()
    assert "\n" not in str(default)
    assert sum(max(price) for price in prices(model, 0.05, x).values()) < BUDGET / 1000


def test_what_does_not_fit_gets_interval_arithmetic_and_the_certificate_says_so():
    model, x = make()
    x = x[:1]
    price = prices(model, 0.05, x)
    first, middle = price
    tight = ad.certify(model, 0.05, budget=price[first][0] + 0.5 * price[middle][0])(x)
    assert middle in tight.over_budget
    assert first not in tight.over_budget
    chosen = dict.fromkeys(tight.over_budget, "ibp")
    same = ad.certify(model, 0.05, budget=None, choose=chosen)(x)
    assert torch.equal(tight.margins, same.margins)
    assert (tight.margins < ad.certify(model, 0.05)(x).margins - 1e-9).any()
    assert middle in str(tight)
    assert "budget=None" in str(tight)


def test_rows_of_the_second_side_are_paid_for_when_they_are_asked_for():
    model, x = make()
    x = x[:1]
    first = next(iter(prices(model, 0.3, x)))
    whole = ad.certify(model, 0.3)
    record = whole.admitted(x).program.run(whole.admitted(x).env, whole.threat)
    work = {value.name: (record.rows[value], cost.work) for value, cost in record.costs.items()}
    rows, price = work[first]
    ones = ad.certify(model, 0.3, budget=(rows - 1) * price)(x)
    assert first in ones.over_budget  # the rows of the first side fit
    none = ad.certify(model, 0.3, budget=0)(x)
    assert (ones.margins > none.margins).any()
    assert (ones.margins >= none.margins - 1e-12).all()
    assert (ones.margins <= whole(x).margins + 1e-12).all()


def test_none_fits_into_nothing_and_everything_into_no_limit():
    model, x = make()
    nothing = ad.certify(model, 0.05, budget=0)(x)
    inside = ad.certify(model, 0.05, bounds="ibp+dual")(x).margins
    assert (nothing.margins >= inside - 1e-12).all()
    assert len(nothing.over_budget) == 2
    endless = ad.certify(model, 0.05, budget=math.inf)(x)
    assert endless.over_budget == ()


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_an_examples_bound_is_its_own_and_the_same_each_time(share):
    model, x = make()
    eps = torch.tensor([0.01, 0.05, 0.1, 0.3], dtype=torch.float64)
    total = sum(max(price) for price in prices(model, 0.3, x).values())
    net = ad.certify(model, eps, budget=share * total)
    whole = net(x)
    assert torch.equal(net(x).margins, whole.margins)
    assert net(x).over_budget == whole.over_budget
    over = set()
    for i in range(len(x)):
        alone = ad.certify(model, eps[i : i + 1], budget=share * total)(x[i : i + 1])
        torch.testing.assert_close(alone.margins[0], whole.margins[i])
        over |= set(alone.over_budget)
    assert over == set(whole.over_budget)


def test_parts_of_a_batch_count_together(monkeypatch):
    model, x = make()
    whole = ad.certify(model, 0.05, budget=0)(x)
    monkeypatch.setattr("autodual.bound.module.HELD", 2**62)
    parts = ad.certify(model, 0.05, budget=0)(x)
    assert parts.over_budget == whole.over_budget
    joined = ad.Certificate.cat([parts[:2], ad.certify(model, 0.05)(x[2:])])
    assert joined.over_budget == whole.over_budget
    assert joined.remarks == whole.remarks
    torch.testing.assert_close(parts.margins, whole.margins)


def test_what_the_user_chose_is_done_at_any_price():
    model, x = make()
    first = next(iter(prices(model, 0.05, x)))
    chosen = ad.certify(model, 0.05, budget=0, choose={first: "backward"})(x)
    assert first not in chosen.over_budget
    assert len(chosen.over_budget) == 1
    dual = ad.certify(model, 0.05, budget=0, bounds="dual")(x)
    assert torch.equal(dual.margins, ad.certify(model, 0.05, bounds="dual")(x).margins)
    assert dual.over_budget == ()


def test_training_has_the_same_budget():
    model, x = make()
    net = ad.certify(model, 0.05, budget=0)
    y = model(x).argmax(1)
    torch.testing.assert_close(net.margins(x, y), net(x, y).margins)
    ad.robust_loss(net, x, y).backward()
    assert model.first.weight.grad is not None


def test_where_there_is_no_certificate_a_warning_tells():
    model, x = make()
    net, y = ad.certify(model, 0.05, budget=0), model(x).argmax(1)
    rows = torch.eye(3, dtype=torch.float64)
    for ask in (lambda: net.lower_bound(x, rows), lambda: net.bounds(x), lambda: net.radius(x, y)):
        with pytest.warns(BudgetWarning, match="interval arithmetic at 2 nodes") as said:
            ask()
        assert said[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net(x)
        ad.certify(model, 0.05).bounds(x)
    assert net.within(x, 1.0).over_budget


@pytest.mark.parametrize("budget", [-1, math.nan, True, "1e9"])
def test_a_budget_is_a_positive_number(budget):
    with pytest.raises(InputError, match="budget="):
        ad.certify(nn.Linear(1, 1), 0.1, budget=budget)


@pytest.mark.parametrize("bounds", ["dual", "ibp&dual", "ibp+dual", "ibp"])
def test_a_forecast_computes_no_row_and_names_as_much_work_as_is_done(bounds, monkeypatch):
    model, x = make()
    net = ad.certify(model, 0.02, bounds=bounds)
    program, env = net.admitted(x).program, net.admitted(x).env
    with monkeypatch.context() as patch:
        patch.setattr(ExactSums, "deviations", None)
        forecast = program.forecast(env, net.threat)
        shown = str(net.explain(x))
    done = program.run(env, net.threat)
    assert "at most" in shown
    assert set(done.rows) <= set(forecast.rows)
    assert all(forecast.rows[value] >= rows for value, rows in done.rows.items())
    most, least = total(program.plan, forecast), total(program.plan, done)
    assert least <= most <= 3 * least


def test_a_forecast_says_what_will_not_fit():
    model, x = make()
    net = ad.certify(model, 0.05, budget=0)
    assert str(net.explain(x)).count("ibp, over budget") == 2
    assert "over budget" not in str(ad.certify(model, 0.05).explain(x))


def test_a_long_bound_says_how_far_it_is(monkeypatch):
    for name in ("autodual.working.PATIENCE", "autodual.bound.module.PATIENCE"):
        monkeypatch.setattr(name, 0.0)
    monkeypatch.setattr("autodual.working.EVERY", 0.0)
    monkeypatch.setattr("autodual.bound.estimators.exact.CACHE_BYTES", 5000)
    model, x = make()
    said = []
    with ad.progress(said.append):
        ad.certify(model, 0.05)(x)
    shares = [report.share for report in said]
    assert {report.what for report in said} == {"bounds"}
    assert shares == sorted(shares)
    assert len(set(shares)) > 10
    assert 0.3 < shares[-1] <= 1
    assert said[0].left is not None
