"""Break every dual layer in every way there is, and count what ``autodual.testing`` notices.

    python benchmarks/mutants.py [--examples 6] [--op relu]

Prints, for each kind of mutant, how many there are and how many are caught, then each survivor.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from autodual.duals import REGISTRY, DualLayer
from autodual.testing import Case, check_dual_layer, mutants
from tests.cases.rules import CASES, name


def caught(mutant: DualLayer, cases: list[Case], examples: int) -> bool:
    """Return whether a case of the op shows the mutant to be broken."""
    for case in cases:
        try:
            check_dual_layer(mutant, case, examples=examples, shrink=False)
        except (AssertionError, RuntimeError):
            return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=6, help="examples for each case")
    parser.add_argument("--op", default="", help="only ops whose name holds this")
    options = parser.parse_args()
    made, found, survivors = Counter[str](), Counter[str](), []
    for op, rule in REGISTRY.items():
        if options.op not in op:
            continue
        cases = [case for case in CASES if name(case) == op]
        for kind, mutant in mutants(rule).items():
            made[kind] += 1
            if caught(mutant, cases, options.examples):
                found[kind] += 1
            else:
                survivors.append(f"{op}: {kind}")
    for kind, count in made.items():
        print(f"{found[kind]:4d} of {count:4d}  {kind}")
    print(f"{sum(found.values()):4d} of {sum(made.values()):4d}  together")
    print("\n".join(["survivors:", *survivors]))


if __name__ == "__main__":
    main()
