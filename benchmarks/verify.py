"""Instances of a VNN-COMP benchmark: verdicts and times, one after the other in one process.

    python benchmarks/verify.py FOLDER [FOLDER ...] --timeout 116 --out out/verify

A folder has instances.csv (network, property, seconds) and the files that it names, plain or
gzipped. Verdicts are written down as they come, and a rerun goes on after the last. With
``--no-attack`` no point is tried, so that nothing that is violated may come out verified: what a
run with attacks falsified is compared. ``--published NAME`` is a file in each folder with verdicts
of others (onnx, vnnlib, verdict: sat or unsat), which ours are compared with.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import statistics
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch

import autodual as ad
from autodual.errors import AutodualError
from autodual.formats.vnnlib import read_vnnlib

Key = tuple[str, str]
"""A network and a property."""


def found(folder: Path, name: str) -> Path:
    """The file that a list names, which may be gzipped."""
    path = folder / name
    return path if path.exists() else path.with_name(path.name + ".gz")


def decide(folder: Path, onnx: str, spec: str, args: argparse.Namespace) -> dict[str, object]:
    """One instance."""
    start = time.perf_counter()
    row: dict[str, object] = {"net": onnx, "spec": spec}
    try:
        net = ad.load_onnx(found(folder, onnx), getattr(torch, args.dtype))
        query = read_vnnlib(found(folder, spec))
        read = time.perf_counter() - start
        left = max(0.01, args.timeout - read)
        verdict = ad.verify(net, None, query, left, attack=args.attack, branch=args.branch)
        row |= {"status": verdict.status, "reason": verdict.reason, "how": verdict.how}
        row |= {"bounded": verdict.bounded, "open": verdict.open, "read": read}
    except AutodualError as error:
        row |= {"status": "error", "reason": str(error).splitlines()[0][:200]}
    return {**row, "seconds": time.perf_counter() - start}


def run(folder: Path, args: argparse.Namespace) -> None:
    """All instances of a folder."""
    with (folder / "instances.csv").open() as file:
        rows = [row for row in csv.reader(file) if row][: args.first]
    out = args.out / f"{folder.name}{'' if args.attack else '_no_attack'}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    known = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {(r["net"], r["spec"]): r for r in known}
    for net, spec, *_ in rows:
        if (net, spec) not in done:
            row = done[net, spec] = decide(folder, net, spec, args)
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            if args.verbose:
                print(net, spec, row["status"], f"{row['seconds']:.2f}", row["reason"], flush=True)
            gc.collect()
    results = [done[net, spec] for net, spec, *_ in rows]
    times = [float(r["seconds"]) for r in results]
    counts = Counter(r["status"] for r in results)
    print(
        f"{folder.name}: {len(results)} instances, {dict(counts)}, median "
        f"{statistics.median(times):.2f} s, longest {max(times):.1f} s, all {sum(times):.0f} s",
        flush=True,
    )
    compare(folder, args)
    if args.published is not None:
        compare_with_others(folder, {key: str(row["status"]) for key, row in done.items()}, args)


def contradictions(some: dict[Key, str], others: Mapping[Key, str | None]) -> list[Key]:
    """The instances of which one says that they hold and the other that they do not."""
    decided = {"verified", "falsified"}
    return [key for key, status in some.items() if {status, others.get(key)} == decided]


def compare_with_others(
    folder: Path, ours: dict[tuple[str, str], str], args: argparse.Namespace
) -> None:
    """Where verdicts of others contradict ours, and what they decide that we do not."""
    said = {"sat": "falsified", "unsat": "verified"}
    with (folder / args.published).open() as file:
        theirs = {(r["onnx"], r["vnnlib"]): said.get(r["verdict"]) for r in csv.DictReader(file)}
    both = {key: (status, theirs.get(key)) for key, status in ours.items()}
    agree, wrong = sum(a == b for a, b in both.values()), contradictions(ours, theirs)
    ahead = Counter(b for a, b in both.values() if b is not None and a not in said.values())
    more = Counter(a for a, b in both.values() if b is None and a in said.values())
    print(
        f"{folder.name}: {agree} verdicts agree with {args.published}, {len(wrong)} contradict it "
        f"{wrong}; it alone decides {dict(ahead)}, we alone {dict(more)}"
    )


def compare(folder: Path, args: argparse.Namespace) -> None:
    """Whether proofs and points of two runs contradict each other."""
    runs = [args.out / f"{folder.name}{end}.jsonl" for end in ("", "_no_attack")]
    if all(path.exists() for path in runs):
        both = [
            {
                (r["net"], r["spec"]): r["status"]
                for r in map(json.loads, p.read_text().splitlines())
            }
            for p in runs
        ]
        wrong = contradictions(*both)
        print(f"{folder.name}: {len(wrong)} contradict each other with and without attacks {wrong}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--timeout", type=float, default=116.0)
    parser.add_argument("--first", type=int, default=None, help="only so many of each")
    parser.add_argument("--out", type=Path, default=Path("out/verify"))
    parser.add_argument("--dtype", default="float64")
    parser.add_argument("--branch", default="auto")
    parser.add_argument("--no-attack", dest="attack", action="store_false")
    parser.add_argument("--published", default=None, help="a file of verdicts in each folder")
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    for folder in args.folders:
        run(folder, args)


if __name__ == "__main__":
    main()
