"""Errors on a data set: what each counts, cascades, files of rows that go on where they ended."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import autodual as ad
from autodual.errors import InputError, Interrupted, UnsoundError
from autodual.report import evaluate as module

COUNT = 60


@pytest.fixture(scope="module")
def problem():
    """A net that has learned a little, so that every kind of example is there."""
    torch.manual_seed(0)
    x = torch.rand(COUNT, 6)
    y = (x[:, :2].sum(1) > x[:, 2:4].sum(1)).long() + (x[:, 4] > 0.6).long()
    model = nn.Sequential(
        nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval(), x, y


def test_errors_are_counted(problem):
    model, x, y = problem
    net = ad.certify(model, 0.05)
    found = ad.evaluate(net, (x, y), exact=20.0, batch=16)
    verdict = net.exact(x, y)
    wrong = model(x).argmax(1) != y
    assert len(found) == COUNT
    assert [row.index for row in found.rows] == [*range(COUNT)]
    assert [row.label for row in found.rows] == y.tolist()
    assert [row.predicted for row in found.rows] == model(x).argmax(1).tolist()
    assert [row.status == "wrong" for row in found.rows] == wrong.tolist()
    assert [row.status == "verified" for row in found.rows] == verdict.verified.tolist()
    assert [row.status in ("wrong", "broken") for row in found.rows] == verdict.falsified.tolist()
    assert 0 < found.clean < found.attacked == found.certified < 1
    assert found.certified == float(verdict.falsified.double().mean())


def test_a_cascade_asks_dearer_rungs_for_what_is_left(problem):
    model, x, y = problem
    cheap = ad.certify(model, 0.05, bounds="ibp")
    found = ad.evaluate(cheap, (x, y), rungs=[ad.Dual(), ad.LP()], batch=20)
    alone = ad.evaluate(cheap, (x, y), rungs=[])
    by = {row.by for row in found.rows if row.status == "verified"}
    assert {"ibp", "Dual('ibp&dual')"} & by or len(by) >= 2, by
    assert found.certified < alone.certified
    assert alone.attacked == found.attacked
    assert int(cheap(x, y).verified.sum()) == sum(row.by == "ibp" for row in found.rows)
    for row in found.rows:
        assert (row.status == "verified") == (row.margin > 0)


def test_without_an_attack_nothing_is_broken(problem):
    model, x, y = problem
    found = ad.evaluate(model, (x, y), 0.05, rungs=(), attack=0)
    assert found.attacked == found.clean
    assert found.count("broken") == 0


def test_a_loader_gives_the_same(problem):
    model, x, y = problem
    loader = DataLoader(TensorDataset(x, y), 7)
    a, b = (ad.evaluate(model, data, 0.05, rungs=()) for data in ((x, y), loader))
    assert [r.status for r in a.rows] == [r.status for r in b.rows]


def test_it_reads_well(problem):
    model, x, y = problem
    said = str(ad.evaluate(model, (x, y), 0.05))
    assert said.startswith("60 examples within LinfBall(0.05)\nclean ")
    for word in ("attacked", "certified", "95 %", "PGD", "ibp&dual"):
        assert word in said


def test_intervals_are_those_of_clopper_and_pearson():
    rows = [module.Row(i, 0, 0, "wrong" if i < 5 else "verified", "", 0.0, 0.0) for i in range(100)]
    low, high = module.Evaluation(tuple(rows), "").interval("wrong")
    assert low == pytest.approx(0.01643, abs=1e-5)  # in print
    assert high == pytest.approx(0.11283, abs=1e-5)
    none = module.Evaluation(tuple(rows[50:]), "")
    assert none.interval("wrong")[0] == 0.0
    assert none.interval("verified")[1] == 1.0


def test_rows_go_on_where_they_ended(problem, tmp_path, monkeypatch):
    model, x, y = problem
    whole = ad.evaluate(model, (x, y), 0.05, rows=tmp_path / "whole.csv", batch=16)
    path, judged, left = tmp_path / "rows.csv", module._judged, [2]

    def stopping(*arguments):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return judged(*arguments)

    monkeypatch.setattr(module, "_judged", stopping)
    with pytest.raises(Interrupted) as stop:
        ad.evaluate(model, (x, y), 0.05, rows=path, batch=16)
    assert len(stop.value.partial) == 32
    assert "interrupted" in str(stop.value.partial)
    path.write_text(path.read_text() + "32,1,")  # killed in the middle of a line
    left[0] = 9
    found = ad.evaluate(model, (x, y), 0.05, rows=path, batch=16)
    assert left[0] == 7
    assert [r.status for r in found.rows] == [r.status for r in whole.rows]
    again = ad.evaluate(model, (x, y), 0.05, rows=path, batch=25)
    assert left[0] == 7
    assert again.rows == found.rows


def test_rows_of_something_else_are_refused(problem, tmp_path):
    model, x, y = problem
    path = tmp_path / "rows.csv"
    ad.evaluate(model, (x[:8], y[:8]), 0.05, rows=path, rungs=())
    with pytest.raises(InputError, match="rows of something else"):
        ad.evaluate(model, (x[:8], y[:8]), 0.06, rows=path, rungs=())
    with pytest.raises(InputError, match="other labels"):
        ad.evaluate(model, (x[:8], (y[:8] + 1) % 3), 0.05, rows=path, rungs=())
    path.write_text("hello\n")
    with pytest.raises(InputError, match="rows of something else"):
        ad.evaluate(model, (x[:8], y[:8]), 0.05, rows=path, rungs=())


def test_what_cannot_be_evaluated_is_refused(problem):
    model, x, y = problem
    with pytest.raises(InputError, match="eps"):
        ad.evaluate(model, (x, y))
    with pytest.raises(InputError, match="attack"):
        ad.evaluate(model, (x, y), 0.1, attack=-1)
    with pytest.raises(InputError, match="time_limit"):
        ad.evaluate(model, (x, y), 0.1, exact=0)
    with pytest.raises(InputError, match="pair of tensors"):
        ad.evaluate(model, x, 0.1)
    trained = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).train()
    with pytest.raises(UnsoundError):
        ad.evaluate(trained, (x, y), 0.1)
