"""autodual beside α,β-CROWN: instances one after the other, a process each, taking turns.

    python benchmarks/crown.py FOLDER [FOLDER ...] --crown "python PATH/abcrown.py" [--first 20]

A folder has instances.csv and the files that it names, as for ``verify.py``; ``instances.py`` makes
one of MNIST images. α,β-CROWN runs on the CPU with 50 restarts of its attack and batches of 2,048,
a second time (``--after``) with its attack after its bounds; with ``--inputs`` it cuts boxes, by
the settings that it has for ACAS Xu. Times are those from the shell, the start of Python and torch
with them, all on ``--threads``. A rerun goes on after the last instance.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

CONFIG = """\
general: {device: cpu}
attack: {pgd_restarts: 50%s}
solver: {batch_size: 2048}
"""

INPUTS = """\
general: {device: cpu}
attack: {pgd_restarts: 50, pgd_restart_when_stuck: True, pgd_order: after}
solver: {batch_size: 2048, bound_prop_method: crown}
bab:
  branching: {method: naive, input_split: {enable: True, reorder_bab: True}}
  clip_n_verify: {clip_input_domain: {enabled: True}}
"""

SAID = {"unsat": "verified", "safe": "verified", "sat": "falsified", "unsafe": "falsified"}


def plain(folder: Path, name: str, kept: Path) -> Path:
    """A file that a list names, unpacked if it is gzipped."""
    path = folder / name
    if path.exists():
        return path
    unpacked = kept / folder.name / name
    unpacked.parent.mkdir(parents=True, exist_ok=True)
    unpacked.write_bytes(gzip.decompress(path.with_name(path.name + ".gz").read_bytes()))
    return unpacked


def commands(args: argparse.Namespace) -> dict[str, list[str]]:
    """What starts each tool."""
    found = {"autodual": [sys.executable, "-m", "autodual", "verify", "--format", "vnncomp"]}
    for name, when in {"crown": "", "crown after": ", pgd_order: after"}.items():
        if name == "crown" or args.after:
            config = args.out / f"{name.replace(' ', '_')}.yaml"
            config.write_text(INPUTS if args.inputs else CONFIG % when)
            found[name] = [*shlex.split(args.crown), "--config", str(config)]
    return found


def timed(
    name: str, command: list[str], net: Path, spec: Path, seconds: float, env: Mapping[str, str]
) -> tuple[str, float]:
    """The verdict of a tool and its time from the shell."""
    files = [str(net), str(spec)]
    if name != "autodual":
        files = ["--onnx_path", files[0], "--vnnlib_path", files[1]]
    given = [*command, *files, "--timeout", str(seconds)]
    where = (
        None
        if name == "autodual"
        else Path(next(p for p in command if p.endswith("abcrown.py"))).parent
    )
    start = time.perf_counter()
    try:
        done = subprocess.run(
            given, capture_output=True, text=True, env=env, cwd=where, timeout=3 * seconds + 60
        )
        text = done.stdout
    except subprocess.TimeoutExpired:
        text = ""
    took = time.perf_counter() - start
    if name == "autodual":
        words = text.split()
        return SAID.get(words[0] if words else "", "unknown"), took
    said = re.findall(r"^Result: (\w+)", text, re.MULTILINE)
    return SAID.get(said[-1].split("-")[0] if said else "", "unknown"), took


def run(folder: Path, args: argparse.Namespace) -> None:
    """All instances of a folder, and what came of them."""
    with (folder / "instances.csv").open() as file:
        rows = [row for row in csv.reader(file) if row]
    rows = rows[:: max(1, len(rows) // args.first)][: args.first] if args.first else rows
    out = args.out / f"{folder.name}.jsonl"
    known = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {(r["net"], r["spec"]): r["found"] for r in known}
    env = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "MKL_NUM_THREADS": str(args.threads)}
    tools = commands(args)
    for net, spec, *_ in rows:
        if (net, spec) in done:
            continue
        paths = plain(folder, net, args.out), plain(folder, spec, args.out)
        found = {n: timed(n, c, *paths, args.timeout, env) for n, c in tools.items()}
        done[net, spec] = found
        with out.open("a") as file:
            file.write(json.dumps({"net": net, "spec": spec, "found": found}) + "\n")
        print(net, spec, *(f"{n} {s} {t:.1f}" for n, (s, t) in found.items()), flush=True)
    told = [done[net, spec] for net, spec, *_ in rows]
    for name in tools:
        times = [found[name][1] for found in told]
        decided = sum(found[name][0] != "unknown" for found in told)
        ratios = [found[name][1] / found["autodual"][1] for found in told]
        middle, ratio = statistics.median(times), statistics.median(ratios)
        print(
            f"{folder.name}, {name}: {decided} of {len(told)} decided in {sum(times):.0f} s, "
            f"median {middle:.1f}; {ratio:.2f} × autodual's time, at least {min(ratios):.2f}"
        )
    wrong = [k for k, f in done.items() if len({s for s, _ in f.values()} - {"unknown"}) > 1]
    print(f"{folder.name}: {len(wrong)} contradictions {wrong}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--crown", required=True, help="what starts α,β-CROWN")
    parser.add_argument("--after", action="store_true", help="it with attacks after bounds, too")
    parser.add_argument("--inputs", action="store_true", help="it cuts inputs, as for ACAS Xu")
    parser.add_argument("--first", type=int, default=None, help="so many, evenly chosen")
    parser.add_argument("--timeout", type=float, default=116.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/crown"))
    args = parser.parse_args()
    if args.inputs and args.after:
        parser.error("with --inputs its attack comes after its bounds anyway")
    args.out = args.out.resolve()  # one of them runs in a folder of its own
    args.out.mkdir(parents=True, exist_ok=True)
    for folder in args.folders:
        run(folder, args)


if __name__ == "__main__":
    main()
