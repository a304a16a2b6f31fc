"""The command line: what it answers, what it says of mistakes, and with which exit code."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

import autodual as ad
from autodual import __version__, cli
from autodual.cli.bars import Bars
from autodual.working import track

MINE = """
import torch
from torch import nn
import autodual as ad

net = nn.Sequential(nn.Linear(4, 3), nn.ReLU())

def both():
    return net, torch.rand(2, 4)

class Odd(nn.Module):
    def forward(self, x):
        return x.lgamma()

def good():
    torch.manual_seed(0)
    return ad.certify(nn.Linear(3, 2), 0.1), torch.rand(2, 3), None

def bad():
    net, x, y = good()
    lower = net._lower
    net._lower = lambda *args: lower(*args) + 1e-2
    return net, x, y

def number():
    return 3

def raises():
    return inner()

def inner():
    raise KeyError("no weights here")

def sized(size):
    return net
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command in a folder with a few modules; return its exit code, stdout, stderr."""
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "broken.py").write_text("import no_such_module_anywhere\n")
    (tmp_path / "unfinished.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def command(*arguments):
        sys.modules.pop("mine", None)
        monkeypatch.setattr(sys, "argv", ["autodual", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, *capsys.readouterr()

    return command


def test_a_fault_of_our_own_is_no_verdict(run, monkeypatch):
    def fails(*_, **__):
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(ad, "certify", fails)
    code, _, said = run("explain", "mine:net", "--data", "digits")
    assert code == cli.BROKEN
    assert "ZeroDivisionError: a fault" in said


@pytest.mark.parametrize(
    ("arguments", "code", "shown"),
    [
        ("coverage mine:both", 0, "2 ops: 1 exact, 1 free-slope"),
        ("coverage mine:net --shape 4", 0, "aten.relu.default"),
        ("coverage mine:Odd --shape 2,3", cli.REFUSED, "missing: aten.lgamma.default"),
        ("check mine:good --steps 2", 0, "no attack crosses"),
        ("--version", 0, __version__),
        ("--help", 0, "Exit codes"),
    ],
)
def test_answers(run, arguments, code, shown):
    found, out, _ = run(*arguments.split())
    assert (found, shown in out) == (code, True), out


@pytest.mark.parametrize(
    ("arguments", "code", "shown"),
    [
        ("coverage mine", cli.USAGE, "no module:name"),
        ("coverage yours:net", cli.USAGE, "no module 'yours'"),
        ("coverage mine.models:net", cli.USAGE, "'mine' is not a package"),
        ("coverage mine:nets", cli.USAGE, "has no 'nets'; it has net"),
        ("coverage mine:net", cli.USAGE, "say --shape"),
        ("coverage mine:net --shape x", cli.USAGE, "no list of sizes"),
        ("coverage mine:net --shape 4,-1", cli.USAGE, "no list of sizes"),
        ("coverage mine:number", cli.USAGE, "it returns int"),
        ("coverage mine:sized", cli.USAGE, "missing 1 required positional argument"),
        ("coverage mine:net --shape 5", cli.RAISED, "the model itself fails on this input"),
        ("check mine:net", cli.USAGE, "mine:net is a Sequential, not a function"),
        ("check mine:both", cli.USAGE, "must return (net, x, y)"),
    ],
)
def test_a_mistake_gets_one_line(run, arguments, code, shown):
    found, _, said = run(*arguments.split())
    assert (found, shown in said, said.count("\n")) == (code, True, 1), said


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ("coverage mine:raises", ["in raises", "in inner", "KeyError: 'no weights here'"]),
        ("check mine:raises", ["in raises", "in inner", "KeyError: 'no weights here'"]),
        ("coverage broken:net", ["import no_such_module_anywhere", "ModuleNotFoundError"]),
        ("coverage unfinished:f", ["unfinished.py", "SyntaxError"]),
    ],
)
def test_what_the_users_code_raises_is_shown_from_there_on(run, arguments, shown):
    code, _, said = run(*arguments.split())
    assert code == cli.RAISED
    assert all(part in said for part in shown), said
    assert "cli.py" not in said


def test_a_crossed_bound_fails(run):
    code, _, said = run("check", "mine:bad", "--steps", "2")
    assert (code, "IS WRONG" in said) == (cli.CROSSED, True), said


def test_it_runs_in_the_users_folder(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    command = [sys.executable, "-m", "autodual.cli", "coverage", "mine:both"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "affine" in result.stdout


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "autodual", "--version"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stdout == f"autodual {__version__}\n", result.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a short training of the command's own, and what it printed."""
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("trained")
    arguments = "train --loss fused --eps 0.05 --epochs 4 --out out/run --first 400 --json"
    command = [sys.executable, "-m", "autodual", *arguments.split()]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return folder, json.loads(result.stdout)


def test_a_training_leaves_files_that_say_what_they_are(trained, run, monkeypatch):
    folder, found = trained
    assert found["examples"] == 360
    assert found["clean"] <= found["attacked"] <= found["certified"] < 0.9
    assert found["intervals"]["clean"][0] < found["clean"] < found["intervals"]["clean"][1]
    names = {path.name for path in (folder / "out/run").iterdir()}
    assert names == {"last.pt", "best.pt", "log.csv", "curves.png"}
    monkeypatch.chdir(folder)
    code, out, _ = run("certify", "out/run/best.pt", "--eps", "0.05", "--json")
    assert code == cli.CROSSED
    again = json.loads(out)
    assert again["certified"] == found["certified"]


@pytest.mark.parametrize(
    ("arguments", "code", "shown"),
    [
        ("certify {} --eps 0.05 --first 20 --rows out/rows.csv", 1, "20 examples within"),
        ("certify {} --eps 0.01 --norm l2 --first 3 --exact 20", None, "certified"),
        ("attack {} --eps 0.3 --first 10", 1, "of 10 broken within LinfBall(0.3"),
        ("attack {} --eps 0.0 --first 3 --json", None, '"examples": 3'),
        ("radius {} --first 5 --picture out/c.png", 0, "half of 5 examples are certified up to ε"),
        ("radius {} --first 5 --norm l1 --json", 0, '"attacked": ['),
        ("explain {} --batch 3", 0, "affine, exact"),
        ("explain medium", 0, "MFLOP"),
    ],
)
def test_a_net_is_asked(trained, run, monkeypatch, arguments, code, shown):
    monkeypatch.chdir(trained[0])
    found, out, said = run(*arguments.format("out/run/best.pt").split())
    assert code is None or found == code, said
    assert shown in out, (out, said)


def test_work_is_shown_as_a_bar(monkeypatch):
    text = io.StringIO()
    monkeypatch.setattr("autodual.working.PATIENCE", 0.0)
    monkeypatch.setattr("autodual.working.EVERY", 0.0)
    bars = Bars(Console(file=text, force_terminal=True, width=80))
    with ad.progress(bars):
        for _ in range(2):  # one bar after the other
            list(track([1, 2, 3, 4], "epoch 3, loss 0.2"))
    assert text.getvalue().count("\x1b[?25h") == 2  # each has given the cursor back
    assert "epoch 3, loss 0.2" in text.getvalue()
    assert "100%" in text.getvalue()


def test_torchrun_shares_the_work(tmp_path):
    train = "train --epochs 1 --first 60 --batch 20 --eps 0.01 --out run --json"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    # gloo now and then aborts at exit: then the finished training is asked again
    shared = ["--nproc-per-node=2", "--max-restarts=3", "-m", "autodual"]
    result = subprocess.run(
        [*torchrun, *shared, *train.split()],
        cwd=tmp_path,
        env=os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    said = result.stdout.splitlines()
    assert [json.loads(line)["examples"] for line in said[:1]] == [60]
    assert len(set(said)) == 1
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"last.pt", "best.pt"}


def test_all_proved_is_exit_code_0(trained, run, monkeypatch):
    monkeypatch.chdir(trained[0])
    model, x, y = best(trained[0])
    right = model(x).argmax(1) == y
    some = {"x": 255 * x[right][:20], "y": y[right][:20]}
    arrays = {
        f"{k}_{part}": v.byte().numpy() for k, v in some.items() for part in ("train", "test")
    }
    np.savez("some.npz", **arrays)
    code, out, _ = run(
        "certify", "out/run/best.pt", "--data", "some.npz", "--eps", "1e-5", "--json"
    )
    assert (code, json.loads(out)["certified"]) == (0, 0.0)


def best(folder):
    """The model of a training, and the test examples."""
    from autodual.cli.loading import model_of
    from autodual.train import digits

    data = digits()
    return model_of(str(folder / "out/run/best.pt"), data).eval(), data.x_test, data.y_test


@pytest.mark.parametrize(
    ("arguments", "code", "shown"),
    [
        ("certify big", cli.USAGE, "there is no model 'big': give small, medium"),
        ("certify none.pt", cli.USAGE, "there is no file none.pt"),
        ("certify mine.py.pt", cli.USAGE, "there is no file"),
        ("certify small --norm l3", cli.USAGE, "--norm l3 is none of linf, l2, l1"),
        ("certify small --data nowhere", cli.USAGE, "nowhere is no folder"),
        ("train --loss best", cli.USAGE, "--loss best is none of standard, pgd"),
        ("certify mine:number", cli.USAGE, "it returns int"),
        ("certify mine:net --first 3", cli.RAISED, "the model itself fails on this input"),
    ],
)
def test_mistakes_with_nets_and_data_get_one_line(run, arguments, code, shown):
    pytest.importorskip("sklearn")
    found, _, said = run(*arguments.split())
    assert (found, shown in said) == (code, True), said
