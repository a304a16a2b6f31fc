"""One question asked of every rung: order, steps, goals, time, interrupts, and all that nets do."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import autodual as ad
from autodual.errors import InputError, Interrupted
from autodual.ladder import Prepared
from autodual.solve import Whole, whole_network

from .nets import random_convnet, random_mlp, random_net
from .questions import DOUBLE, no_random_point_lies_below, rows

RUNGS = [ad.IBP(), ad.Dual(), ad.Optimised(10), ad.LP(5), ad.MILP(5)]
SETS = {
    "linf": lambda: ad.LinfBall(0.2, domain=(0, 1)),
    "l1": lambda: ad.L1Ball(0.6),
    "union": lambda: ad.Union(ad.LinfBall(0.1), ad.L1Ball(0.5)),
}


def make(seed=0):
    model = random_mlp(seed, (4, 9, 8, 3))
    torch.manual_seed(seed)
    return model, torch.rand(3, 4, dtype=DOUBLE)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("seed", range(3))
def test_each_rung_is_no_looser_than_the_one_below_and_sound(seed, name):
    model, shape = random_convnet(seed) if seed else (make()[0], (4,))
    torch.manual_seed(seed)
    x, threat = torch.rand(2, *shape, dtype=DOUBLE), SETS[name]()
    below = None
    for rung in RUNGS:
        solution = ad.certify(model, threat, bounds=rung).solve(x, rows())
        assert set(solution.reasons) == {"finished"}
        assert solution.steps > 0
        slack = 2e-5 * (1 + solution.lower.abs())
        assert below is None or (solution.lower >= below - slack).all(), rung
        no_random_point_lies_below(solution.lower - 1e-9, model, threat, x)
        below = solution.lower


def test_a_rung_is_what_certify_and_its_options_say():
    model, x = make()
    for rung, options in (
        (ad.IBP(), {"bounds": "ibp"}),
        (ad.Dual("dual"), {"bounds": "dual"}),
        (ad.Optimised(4, 2), {"optimize": ad.Steps(4, 2)}),
    ):
        by_rung, plain = ad.certify(model, 0.2, bounds=rung), ad.certify(model, 0.2, **options)
        assert by_rung.solver == plain.solver == rung
        assert torch.equal(by_rung.lower_bound(x, rows()), plain.lower_bound(x, rows()))
        assert torch.allclose(by_rung.solve(x, rows()).lower, plain.lower_bound(x, rows()))
    program = ad.certify(model, 0.2, bounds=ad.LP(None))
    assert torch.allclose(program.lower_bound(x, rows()), ad.certify(model, 0.2).lp(x, rows()))


@pytest.mark.parametrize("rung", [ad.Optimised(6), ad.LP(2), ad.MILP(2)], ids=str)
def test_what_is_best_so_far_holds_after_every_step_and_only_grows(rung):
    model, x = make()
    net = ad.certify(model, 0.3, bounds=rung)
    ready = net.prepare(x)
    search, seen = ready.init(rows()), []
    while not search.done:
        search.step()
        seen.append(search.lower)
    assert len(seen) > 3
    assert all(bool((b >= a).all()) for a, b in itertools.pairwise(seen))
    torch.testing.assert_close(seen[-1], ready.solve(rows()).lower, rtol=1e-7, atol=1e-7)
    no_random_point_lies_below(seen[-1] - 1e-9, model, net.threat, x)


@pytest.mark.parametrize("rung", RUNGS, ids=str)
def test_what_is_prepared_serves_many_questions(rung):
    model, x = make()
    net = ad.certify(model, 0.2, bounds=rung)
    ready = net.prepare(x)
    for C in (rows(), -rows(), rows().expand(3, *rows().shape)):
        fresh = net.solve(x, C).lower
        torch.testing.assert_close(ready.solve(C).lower, fresh, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("rung", [ad.Optimised(8), ad.LP(2), ad.MILP(2)], ids=str)
def test_rows_that_reach_the_goal_take_no_more_work(rung):
    model, x = make()
    net = ad.certify(model, 0.3, bounds=rung)
    full = net.solve(x, rows())
    easy = net.solve(x, rows(), goal=-1e9)
    assert set(easy.reasons) == {"the goal is reached"}
    assert easy.steps < full.steps
    goal = float(full.lower.median())
    some = net.solve(x, rows(), goal=goal)
    assert ((some.lower > goal) == (full.lower > goal)).all()
    no_random_point_lies_below(some.lower - 1e-9, model, net.threat, x)
    missed = some.lower <= goal
    if not isinstance(rung, ad.MILP):  # these rows have had all the work there is
        torch.testing.assert_close(some.lower[missed], full.lower[missed], rtol=1e-6, atol=1e-8)
    met = (full.lower > goal).all(1).tolist()
    assert [why == "the goal is reached" for why in some.reasons] == met


def test_a_batch_in_parts_has_the_same_bounds(monkeypatch):
    model, x = make()
    for rung in RUNGS:
        net = ad.certify(model, 0.2, bounds=rung)
        whole = net.solve(x, rows())
        with monkeypatch.context() as patch:
            patch.setattr("autodual.bound.module.PART", 0.0)
            parts = net.solve(x, rows())
        torch.testing.assert_close(parts.lower, whole.lower, rtol=1e-7, atol=1e-7)
        assert parts.steps >= whole.steps


class Slow(ad.Dual):
    """A solver of one's own: the dual bound example by example."""

    unit = "examples"

    def prepare(self, net, found, threat):
        return Each(self, net, found, threat)


class Each(Prepared):
    def work(self, search):
        bound = self.relaxed(0, 0).lower({self.output: search.C})
        for i in range(len(bound)):
            index = torch.tensor([i])
            search.tell(0, index, bound[index])
            search.finished(index)
            yield 1


def test_a_solver_of_ones_own_and_what_stops_it(monkeypatch):
    model, x = make()
    net = ad.certify(model, 0.2).by(Slow())
    net = net.by_last(Slow())
    ready = net.prepare(x)
    whole = ready.solve(rows())
    assert str(whole).startswith("Slow(): 3 examples in")
    assert torch.equal(whole.lower, ad.certify(model, 0.2).lower_bound(x, rows()))
    search = ready.init(rows(), time_limit=3600)
    search.step()
    search.end = -math.inf
    late = ready.run(search)
    assert late.reasons == ("finished", "time is over", "time is over")
    assert torch.equal(late.lower[0], whole.lower[0])
    assert (late.lower[1:] == -math.inf).all()
    tell = type(search).tell

    def stop(self, member, examples, *rest):
        if int(examples[0]) == 2:
            raise KeyboardInterrupt
        return tell(self, member, examples, *rest)

    monkeypatch.setattr(type(search), "tell", stop)
    with pytest.raises(Interrupted, match="2 of 3 examples are finished") as caught:
        ready.solve(rows())
    assert torch.equal(caught.value.partial.lower[:2], whole.lower[:2])
    with pytest.raises(Interrupted) as caught:
        net(x)
    assert (caught.value.partial.verified[:2] == net.by(ad.Dual())(x).verified[:2]).all()


def test_programs_stop_in_time_and_say_so():
    model, shape = random_mlp(1, (6, 30, 30, 30, 3)), (6,)
    torch.manual_seed(0)
    x = torch.rand(2, *shape, dtype=DOUBLE)
    net = ad.certify(model, 1.5, bounds=ad.MILP(None))
    solution = net.solve(x, rows(), time_limit=0.5)
    assert "time is over" in solution.reasons
    assert (solution.lower >= ad.certify(model, 1.5).lower_bound(x, rows()) - 1e-9).all()


@pytest.mark.parametrize("rung", [ad.LP(2), ad.MILP(2)], ids=str)
def test_a_net_answers_all_its_questions_by_its_rung(rung):
    model, x = make()
    y = model(x).argmax(1)
    dual, net = ad.certify(model, 0.1), ad.certify(model, 0.1, bounds=rung)
    assert repr(net).count(str(rung))
    slack = 1e-4
    certificate = net(x, y)
    assert certificate.bounds == str(rung)
    assert (certificate.margins >= dual(x, y).margins - slack).all()
    assert any("tolerance" in remark for remark in certificate.remarks) == (rung == ad.MILP(2))
    a, b = net.bounds(x), dual.bounds(x)
    assert (a.lower >= b.lower - slack).all()
    assert (a.upper <= b.upper + slack).all()
    assert (net.within(x, 0.5).margins >= dual.within(x, 0.5).margins - slack).all()
    question = ad.AtLeastOne(rows()) & ad.All(rows(), -5.0)
    assert (net.holds(x, question).margins >= dual.holds(x, question).margins - slack).all()
    radius, below = net.radius(x, y, steps=8), dual.radius(x, y, steps=8)
    assert (radius >= below * 0.98).all()
    assert net.at(radius)(x, y).verified[radius > 0].all()
    assert (net.detect(x) >= dual.detect(x)).all()
    assert net.at(0.05).solver == rung


def test_programs_give_no_gradients_and_no_lines():
    model, x = make()
    net = ad.certify(model, 0.1, bounds=ad.LP())
    with pytest.raises(InputError, match="gives no gradients"):
        ad.robust_loss(net, x, torch.tensor([0, 1, 2]))
    with pytest.raises(InputError, match="without steps"):
        net.emit(x)
    pixels = ad.certify(nn.Conv2d(1, 2, 1).double(), 0.1, bounds=ad.LP())
    with pytest.raises(InputError, match="one label for each example"):
        pixels(torch.rand(1, 1, 2, 2, dtype=DOUBLE))


def test_what_a_rung_cannot_take_is_named():
    smooth = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    x = torch.rand(2, 4, dtype=DOUBLE)
    with pytest.raises(InputError, match=r"tanh.*net\.lp"):
        ad.certify(smooth, 0.1, bounds=ad.MILP()).solve(x, rows())
    assert len(ad.certify(smooth, 0.1, bounds=ad.LP()).solve(x, rows())) == 2
    with pytest.raises(InputError, match="no solver"):
        ad.certify(smooth, 0.1).by("lp")
    with pytest.raises(InputError, match="leave"):
        ad.certify(smooth, 0.1, bounds=ad.LP(), optimize=3)
    with pytest.raises(InputError, match="has no dual network"):
        ad.certify(smooth, 0.1, bounds=ad.Dual("ibp"))
    with pytest.raises(InputError, match="time_limit"):
        ad.certify(smooth, 0.1).solve(x, rows(), time_limit=0)
    with pytest.raises(InputError, match="estimator"):
        ad.certify(smooth, 0.1, estimator=ad.Cauchy(3)).prepare(x)


def test_other_shapes_of_output_and_smooth_ops_climb_too():
    for seed in range(3):
        model, shape = random_net(seed)
        torch.manual_seed(seed)
        x = torch.rand(2, *shape, dtype=DOUBLE)
        for rung in (ad.Dual(), ad.Optimised(5), ad.LP(3)):
            lower = ad.certify(model, 0.1, bounds=rung).solve(x, rows()).lower
            no_random_point_lies_below(lower - 1e-9, model, ad.LinfBall(0.1), x)
    pixels = nn.Conv2d(1, 2, 3, padding=1).double()
    x = torch.rand(2, 1, 3, 3, dtype=DOUBLE)
    C = torch.randn(3, 2, 3, 3, dtype=DOUBLE)
    for rung in RUNGS:
        found = ad.certify(pixels, 0.1, bounds=rung).solve(x, C).lower
        expected = ad.certify(pixels, 0.1).lower_bound(x, C)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_steps_start_where_those_in_another_set_ended():
    torch.manual_seed(0)
    model = random_mlp(3, (6, 30, 30, 3))
    x = torch.rand(4, 6, dtype=DOUBLE)
    few, many = ad.Optimised(2, 2), ad.Optimised(30, 2)
    ready = ad.certify(model, ad.LinfBall(0.3), bounds=few).prepare(x)
    ready.solve(rows())
    for eps in (0.3, 0.31, 0.32):
        ready = ready.at(eps)
        warm = ready.solve(rows())
        net = ad.certify(model, ad.LinfBall(eps), bounds=few)
        assert str(net.threat) == warm.threat
        no_random_point_lies_below(warm.lower - 1e-9, model, net.threat, x)
        cold, best = net.solve(x, rows()).lower, net.by(many).solve(x, rows()).lower
        assert (warm.lower <= best + 0.02).all()
    assert (best - warm.lower).sum() < 0.7 * (best - cold).sum()
    with pytest.raises(InputError, match="certify the model anew"):
        ready.at({"x": 0.1})


@pytest.mark.parametrize("rung", RUNGS, ids=str)
def test_what_is_prepared_keeps_the_parameters_as_they_were(rung):
    model, x = make()
    ready = ad.certify(model, 0.2, bounds=rung).prepare(x)
    before = ready.solve(rows()).lower
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-1.3).add_(0.1)
    torch.testing.assert_close(ready.solve(rows()).lower, before, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("size", [1e-9, 1e9])
@pytest.mark.parametrize("inside", [False, True])
def test_whole_programs_hold_at_any_magnitude(size, inside):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 10), nn.ReLU(), nn.Linear(10, 2)).double()
    x, eps = torch.rand(1, 2, dtype=DOUBLE), 0.5
    with torch.no_grad():
        if inside:
            model[0].weight.mul_(size)
            model[0].bias.mul_(size)
            model[2].weight.div_(size)
        else:
            x, eps = x * size, eps * size
            model[0].weight.div_(size)
        point = x + eps * (2 * torch.rand(20000, 2, dtype=DOUBLE) - 1)
        z = model(point)
    C, least = torch.tensor([[1.0, -1.0]], dtype=DOUBLE), float((z[:, 0] - z[:, 1]).min())
    ready = ad.certify(model, eps, bounds=ad.MILP(None)).prepare(x)
    for goal in (math.inf, least + 0.02):
        assert float(ready.solve(C, goal=goal).lower) <= least + 1e-9
    assert float(ready.solve(C).lower) >= least - 0.05


def test_questions_in_turn_and_what_is_no_goal():
    model, x = make()
    ready = ad.certify(model, 0.3, bounds=ad.LP()).prepare(x)
    searches = [ready.init(rows()) for _ in range(2)]
    while not all(search.done for search in searches):
        for search in searches:
            search.step()
    for search in searches:
        torch.testing.assert_close(search.lower, ready.solve(rows()).lower, rtol=1e-7, atol=1e-7)
    for goal in (math.nan, torch.zeros(3), "0"):
        with pytest.raises(InputError, match="goal is a number"):
            ready.solve(rows(), goal=goal)
    with pytest.raises(InputError, match="estimator"):
        ad.certify(model, 0.3, estimator=ad.Cauchy(3)).by(ad.LP())


def test_what_is_interrupted_says_so(monkeypatch):
    model, x = make()
    ready = ad.certify(model, 0.3, bounds=ad.LP()).prepare(x)
    monkeypatch.setattr(type(ready), "ask_all", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(Interrupted) as caught:
        ready.solve(rows())
    assert set(caught.value.partial.reasons) == {"interrupted"}


def test_a_point_lies_in_the_set_and_lateness_claims_nothing():
    model, x = make()
    net = ad.certify(model, 0.2)
    network = net.relax(x[:1]).travelled
    whole, output = Whole(whole_network(network), None), net.graph.output
    (cost,), (value,) = whole.polytope.question(network, {output: rows()[:1]})
    least = whole.sought(cost, value, math.inf, math.inf)
    found = whole.sought(cost, value, least.lower + 0.05, math.inf)
    for outcome, most in ((least, least.lower + 1e-4), (found, least.lower + 0.051)):
        point = x[:1] + torch.tensor(outcome.point)
        assert (point - x[:1]).abs().max() <= 0.2 + 1e-9
        assert (rows()[:1] @ model(point)[0]).item() <= most
    for goal in (math.inf, least.lower + 0.05, least.lower - 0.05):
        late = whole.sought(cost, value, goal, -math.inf)
        assert late.lower == -math.inf
        assert not late.nothing
    none = whole.sought(cost, value, least.lower - 0.05, math.inf)
    assert none.nothing
    assert least.lower - 0.05 < none.lower <= least.lower + 1e-4


class PerExample(nn.Module):
    """Each example has a matrix of its own."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(5, 3)

    def forward(self, x, weight):
        return self.last((weight @ x.unsqueeze(2)).squeeze(2).relu())


@pytest.mark.parametrize("rung", [ad.LP(2), ad.MILP(2)], ids=str)
def test_matrices_of_an_example_are_its_own(rung):
    torch.manual_seed(0)
    net = ad.certify(PerExample().double(), 0.3, bounds=rung)
    x, weight = torch.rand(3, 4, dtype=DOUBLE), torch.randn(3, 5, 4, dtype=DOUBLE)
    together = net.solve(ad.Inputs(x, weight), rows()).lower
    alone = [net.solve(ad.Inputs(x[i : i + 1], weight[i : i + 1]), rows()).lower for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-6, atol=1e-6)


def test_what_a_stopped_program_had_found_is_what_is_claimed(monkeypatch):
    model, x = make()
    net = ad.certify(model, 0.2)
    network = net.relax(x[:1]).travelled
    whole, output = Whole(whole_network(network), None), net.graph.output
    (cost,), (value,) = whole.polytope.question(network, {output: rows()[:1]})
    for bound in (-1.5, 1e9, None):
        stopped = SimpleNamespace(status=1, x=None, mip_dual_bound=bound, message="")
        monkeypatch.setattr("autodual.solve.branching.milp", lambda *_, end=stopped, **__: end)
        found = whole.sought(cost, value, 0.0, math.inf)
        assert not found.nothing
        assert found.lower <= (-math.inf if bound is None else min(value + bound, 1e-3))
