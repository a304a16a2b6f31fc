"""Verdicts on ONNX and VNN-LIB files, from Python and from the shell."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import autodual as ad
from autodual import cli
from autodual.errors import InputError

EXAMPLE = Path(__file__).parent.parent / "examples" / "collision.py"


def adviser() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3)).double()


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return runpy.run_path(str(EXAMPLE))["write"](adviser(), tmp_path)


@pytest.fixture
def run(monkeypatch, capsys):
    """Run ``autodual verify``; return its exit code, stdout, stderr."""

    def command(*arguments: object):
        monkeypatch.setattr(sys, "argv", ["autodual", "verify", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, *capsys.readouterr()

    return command


def spec(folder: Path, *unsafe: str, ends: str = "0.25") -> Path:
    names = "".join(f"(declare-const {n} Real)\n" for n in ("X_0", "X_1", "Y_0", "Y_1", "Y_2"))
    box = "".join(f"(assert (>= {x} -{ends}))(assert (<= {x} {ends}))\n" for x in ("X_0", "X_1"))
    path = folder / "spec.vnnlib"
    path.write_text(names + box + "\n".join(f"(assert {u})" for u in unsafe))
    return path


def scores(folder: Path) -> torch.Tensor:
    model = ad.load_onnx(folder / "adviser.onnx")
    points = torch.rand(2000, 2).double() / 2 - 0.25
    with torch.no_grad():
        return model(points)


def test_both_ends_of_an_output_are_found_from_files(files, run, tmp_path) -> None:
    least = float(scores(tmp_path)[:, 0].amin())
    code, out, _ = run(files[0], spec(tmp_path, f"(<= Y_0 {least - 0.1})"), "--format", "vnncomp")
    assert (code, out.strip()) == (0, "unsat")
    unsafe = spec(tmp_path, f"(<= Y_0 {least + 0.05})")
    code, out, _ = run(files[0], unsafe, "--format", "vnncomp")
    first, *rest = out.splitlines()
    assert (code, first) == (cli.CROSSED, "sat")
    values = dict(re.findall(r"\((\w_\d) (\S+?)\)", "\n".join(rest)))
    x = torch.tensor([[float(values["X_0"]), float(values["X_1"])]]).double()
    z = ad.load_onnx(files[0]).replay(x)[0]
    assert bool((x.abs() <= 0.25).all())
    assert float(values["Y_0"]) == pytest.approx(float(z[0]), abs=1e-6)
    assert float(z[0]) <= least + 0.05


def test_disjunctions_and_mixed_rows_are_decided(files, run, tmp_path) -> None:
    z = scores(tmp_path)
    high, low = float(z[:, 1].amax()), float(z[:, 2].amin())
    either = f"(or (and (>= Y_1 {high + 0.1}) (<= X_0 0.1)) (<= (+ Y_2 X_1) {low - 0.4}))"
    code, out, _ = run(files[0], spec(tmp_path, either), "--format", "json")
    said = json.loads(out)
    assert (code, said["status"], said["witness"]) == (0, "verified", None)
    both = f"(or (>= Y_1 {high + 0.1}) (<= Y_2 {low + 0.05}))"
    code, out, _ = run(files[0], spec(tmp_path, both), "--format", "json")
    assert (code, json.loads(out)["status"]) == (cli.CROSSED, "falsified")


def test_time_is_over_and_a_search_is_kept(files, run, tmp_path) -> None:
    least = float(scores(tmp_path)[:, 0].amin())
    unsafe, kept = spec(tmp_path, f"(<= Y_0 {least + 0.05})"), tmp_path / "search.pt"
    options = ["--no-attack", "--timeout", "0.3", "--resume", kept]
    code, out, _ = run(files[0], unsafe, *options, "--format", "vnncomp")
    assert (code, out.strip()) in [(cli.UNDECIDED, "timeout"), (cli.UNDECIDED, "unknown")]


def test_mistakes_get_one_line(files, run, tmp_path) -> None:
    good, other = spec(tmp_path, "(<= Y_0 0)"), tmp_path / "other.vnnlib"
    other.write_text(
        "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= Y_0 (* X_0 X_0)))"
    )
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"\x00garbage" * 20)
    for arguments, shown in [
        ([files[0], tmp_path / "none.vnnlib"], "none.vnnlib"),
        ([tmp_path / "none.onnx", good], "none.onnx"),
        ([garbage, good], "garbage.onnx"),
        ([files[0], other], ""),
        ([files[0], good, "--format", "xml"], "xml"),
        ([files[0], good, "--branch", "all"], "all"),
        ([files[0], good, "--dtype", "int8"], "int8"),
        ([files[0], good, "--memory", "much"], "much"),
    ]:
        code, _, said = run(*arguments)
        assert (code, shown in said, said.count("\n")) == (cli.USAGE, True, 1), said


def test_a_file_without_bounds_on_an_input_is_refused(files, tmp_path) -> None:
    path = tmp_path / "open.vnnlib"
    path.write_text(
        "(declare-const X_0 Real)(declare-const X_1 Real)(declare-const Y_0 Real)"
        "(declare-const Y_1 Real)(declare-const Y_2 Real)(assert (<= X_0 1))(assert (<= Y_0 0))"
    )
    with pytest.raises(InputError, match="no lower or no upper bound"):
        ad.verify(ad.load_onnx(files[0]), None, ad.read_vnnlib(path))


def test_the_example_writes_what_it_verifies(tmp_path, capsys, monkeypatch) -> None:
    out = tmp_path / "collision.png"
    monkeypatch.setattr(sys, "argv", ["collision.py", "--out", str(out)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    said = capsys.readouterr().out
    assert "close by it turns: verified" in said
    assert "from files: verified" in said
    assert out.exists()


def test_a_small_question_loads_neither_compiler_nor_solver(files) -> None:
    """Each takes longer to load than such a question to decide."""
    program = (
        "import sys, torch, autodual as ad\n"
        f"net = ad.load_onnx({str(files[0])!r})\n"
        "region = ad.Region(-torch.ones(2), torch.ones(2))\n"
        "assert ad.verify(net, region, ad.Y[0] < 100).verified\n"
        "print(*sorted({'torch._dynamo', 'sympy', 'scipy'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
