"""What ``autodual verify`` does: files in, a verdict out, in our words or the competition's."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autodual.errors import InputError
from autodual.formats.onnx import load_onnx
from autodual.formats.vnnlib import read_vnnlib
from autodual.verifier import Verdict, verify

DTYPES = {"float32": torch.float32, "float64": torch.float64}
"""In which numbers may be computed, by name."""

FORMATS = "text", "json", "vnncomp"
"""How a verdict may be printed."""


def verified(
    model: Path,
    spec: Path,
    timeout: float,
    start: float,
    *,
    branch: str,
    dtype: str,
    memory: str | None,
    attack: bool,
    resume: Path | None,
) -> Verdict:
    """Read both files and decide; ``timeout`` counts from ``start``, by ``time.perf_counter``."""
    if dtype not in DTYPES:
        raise InputError(f"--dtype {dtype} is none of {', '.join(DTYPES)}")
    net = load_onnx(model, DTYPES[dtype])
    query = read_vnnlib(spec, math.prod(net.input_shape), math.prod(net.output_shape))
    left = max(1e-3, timeout - (time.perf_counter() - start))
    return verify(
        net,
        None,
        query,
        left,
        branch=branch,
        memory=memory,
        attack=attack,
        resume=resume,
    )


def check_format(how: str) -> None:
    """Raise unless a verdict can be printed so."""
    if how not in FORMATS:
        raise InputError(f"--format {how} is none of {', '.join(FORMATS)}")


def in_format(verdict: Verdict, how: str) -> str | dict[str, Any]:
    """Return a verdict as it is printed."""
    if how == "vnncomp":
        return vnncomp(verdict)
    return str(verdict) if how == "text" else plain(verdict)


def plain(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as plain values."""
    points = {
        name: None if point is None else point.flatten().tolist()
        for name, point in (("witness", verdict.witness), ("output", verdict.output))
    }
    names = "status", "reason", "open", "bounded", "seconds", "how"
    bound = verdict.bound if math.isfinite(verdict.bound) else None
    return {**{name: getattr(verdict, name) for name in names}, "bound": bound, **points}


def vnncomp(verdict: Verdict) -> str:
    """Return a verdict as VNN-COMP wants it: unsat, sat with the point, unknown or timeout."""
    if verdict.verified:
        return "unsat"
    if not verdict.falsified:
        return "timeout" if verdict.reason == "time" else "unknown"
    assert verdict.witness is not None
    assert verdict.output is not None
    lines = [*_assigned("X", verdict.witness), *_assigned("Y", verdict.output)]
    return "sat\n(" + "\n".join(lines) + ")"


def _assigned(name: str, values: Tensor) -> list[str]:
    return [f"({name}_{i} {float(v)!r})" for i, v in enumerate(values.flatten().tolist())]
