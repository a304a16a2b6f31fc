"""Examples of whole jobs, in small: attacks find nothing beyond what is certified."""

import gzip
import re
import runpy
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import autodual as ad

EXAMPLES = Path(__file__).parent.parent / "examples"


def job(name):
    """Return what an example defines."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="read")


def write_idx(folder, counts):
    """Write images as MNIST's files hold them: a bright half each, left or right."""
    generator = torch.Generator().manual_seed(0)
    for part, count in counts.items():
        y = torch.arange(count) % 2
        x = torch.randint(100, (count, 8, 8), generator=generator)
        for i, label in enumerate(y.tolist()):
            x[i, :, 4 * label : 4 * label + 4] += 150
        for kind, dims, array in (("images", 3, x), ("labels", 1, y)):
            head = bytes((0, 0, 8, dims)) + struct.pack(f">{dims}I", *array.shape)
            raw = gzip.compress(head + bytes(array.flatten().tolist()))
            (folder / f"{part}-{kind}-idx{dims}-ubyte.gz").write_bytes(raw)


def test_a_training_from_files_goes_on_after_a_kill(tmp_path, monkeypatch, capsys):
    write_idx(tmp_path, {"train": 80, "t10k": 10})
    main = job("train_from_files")["main"]
    told = [str(tmp_path), "--epochs", "4", "--batch", "10", "--out"]
    whole = main([*told, str(tmp_path / "whole")])
    evaluate, left = ad.evaluate, [3]

    def killed(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(ad, "evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        main([*told, str(tmp_path / "parts")])
    capsys.readouterr()
    parts = main([*told, str(tmp_path / "parts")])
    assert "epoch 1," not in capsys.readouterr().out
    assert [row.margin for row in parts.rows] == [row.margin for row in whole.rows]
    assert whole.clean <= whole.attacked <= whole.certified < 0.5
    best = [torch.load(tmp_path / out / "best.pt")["model"] for out in ("whole", "parts")]
    assert all(torch.equal(best[0][key], best[1][key]) for key in best[0])


def test_a_transformer_is_certified_below_what_attacks_leave():
    found = job("transformer")["main"](epochs=3, robust=10, images=4)
    plain, robust = found["plain"], found["against the bound"]
    assert plain.clean <= plain.attacked <= plain.certified < 1
    assert robust.clean <= robust.attacked <= robust.certified
    assert all(row.margin > 0 for row in plain.rows if row.status == "verified")


def test_a_regression_keeps_its_tolerance_where_that_is_certified():
    found = job("regression")["main"](epochs=30, count=40)
    for margins, attack in found.values():
        assert (0.25 - attack.score >= margins - 1e-5).all()  # no error beyond what is left of it
        assert not (attack.success & (margins > 0)).any()
    assert (found["robust"][0] > 0).sum() > 50


def test_pixels_that_are_certified_withstand_the_attack():
    found = job("segmentation")["main"](epochs=12, count=60)
    for labels, certificate, attack in found.values():
        known = labels != -100
        assert not (certificate.verified & ~known).any()
        assert not (certificate.verified & attack.success).any()
        assert 0.3 < certificate.verified[known].float().mean() < 1


def test_a_closed_loop_stays_in_its_ranges_and_limits():
    loop = job("controller")
    model, ranges, counts = loop["main"](steps=5, training=100, grid=2, nearest=0.0)
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] == 4
    lower, upper = loop["cells"](2)
    s = lower + (upper - lower) * torch.rand(200, 4, 2)
    paths = model(s.reshape(-1, 2)).reshape(200, 4, 5, 3)
    assert (paths >= ranges.lower - 1e-5).all()
    assert (paths <= ranges.upper + 1e-5).all()
    assert (loop["limits"](5, 0.6, 0.0).margins(paths.reshape(-1, 5, 3)) > 0).all()


def test_digits_certified_within_a_wasserstein_ball_withstand_the_attack():
    found = job("wasserstein")["main"](epochs=2, count=60, images=12)
    ball, x = ad.Wasserstein(0.05), ad.train.digits(0).x_test[:12]
    for certificate, attack in found.values():
        assert not (certificate.verified & attack.success).any()
        assert (attack.margins >= certificate.margins - 1e-4).all()
        assert ball.contains(x, attack.x, 1e-4).all()


def ranks_of(command, tries=3):
    """Return what two processes under torchrun print; torch's gloo may abort one as it ends."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*run, *command], capture_output=True, text=True, timeout=200)
    if tries > 1 and "terminate called without an active exception" in done.stderr:
        return ranks_of(command, tries - 1)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
def test_two_processes_train_and_certify_as_one(tmp_path, monkeypatch, capsys):
    script, told = str(EXAMPLES / "many_machines.py"), ["--images", "100", "--epochs", "2", "--out"]
    monkeypatch.setattr(sys, "argv", [script, *told, str(tmp_path / "one")])
    runpy.run_path(script, run_name="__main__")
    two = ranks_of([script, *told, str(tmp_path / "two")])
    said = [re.findall(r"\d+", out) for out in (capsys.readouterr().out, two)]
    (ranks, *one), (others, *both) = [[int(number) for number in line] for line in said]
    assert (ranks, others, one[1], both[1]) == (1, 2, 100, 100)
    assert all(verified + broken <= count for verified, count, broken in (one, both))
    assert abs(one[0] - both[0]) <= 3  # the same training, but for rounding
    ends = [torch.load(tmp_path / name / "last.pt")["model"] for name in ("one", "two")]
    for key, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][key], rtol=1e-3, atol=1e-4)
