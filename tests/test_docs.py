"""What the documents show runs: README blocks, examples, the command line, the demo's promises."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent


def test_readme_blocks_run(capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) >= 4
    torch.manual_seed(0)
    exec("\n".join(blocks), {"__name__": "readme"})
    assert "verified within LinfBall(0.02)" in capsys.readouterr().out


JOBS = "".join((ROOT / "tests" / f"test_{n}.py").read_text() for n in ("jobs", "verify_files"))
EXAMPLES = [p for p in sorted((ROOT / "examples").glob("*.py")) if p.stem not in JOBS]
"""Those that no test of their own runs."""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_examples_run(path, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [path.name])
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.name)
def test_benchmarks_find_what_they_use(path, monkeypatch):
    monkeypatch.syspath_prepend(str(path.parent))
    assert runpy.run_path(str(path), run_name="read")["__doc__"]


def test_the_command_line_says_what_it_can_do():
    result = subprocess.run(
        [sys.executable, "-m", "autodual.cli", "--help"], capture_output=True, text=True, check=True
    )
    assert "demo" in result.stdout


@pytest.mark.filterwarnings("ignore")
def test_demo_in_short(tmp_path):
    """Two epochs of the demo: it writes its picture, and PGD error ≤ certified error throughout."""
    from autodual.report.demo import run

    rows = run(tmp_path / "demo.png", epochs=2, eps=0.05, seed=0)
    assert (tmp_path / "demo.png").stat().st_size > 10_000
    assert len(rows) == 8
    assert all(row.clean <= row.attacked <= row.certified for row in rows)


def test_importing_is_free_of_side_effects():
    """No warning filters, no logging, no torch flags, and no optional package imported."""
    code = (
        "import sys, warnings, logging, torch; f = list(warnings.filters); "
        "t = (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()); "
        "import autodual; assert f == warnings.filters; "
        "assert not logging.getLogger().handlers; "
        "assert t == (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype());"
        "assert not {'rich', 'typer', 'sklearn', 'matplotlib', 'hypothesis'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
