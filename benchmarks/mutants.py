"""Break every dual layer in every way there is, and count what ``autodual.testing`` notices.

    python benchmarks/mutants.py [--examples 6] [--op relu]

Prints, for each kind of mutant, how many there are and how many are caught, then each survivor.
Mutants that say the same as the rule on a thousand random boxes are counted apart.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from torch import Tensor

from autodual.duals import REGISTRY, Affine, DualLayer, Either, Elementwise
from autodual.interval import Interval
from autodual.testing import Case, check_dual_layer, mutants
from tests.cases.rules import CASES, name, serving


def caught(mutant: DualLayer, cases: list[Case], examples: int) -> bool:
    """Return whether a case of the op shows the mutant to be broken."""
    for case in cases:
        try:
            check_dual_layer(mutant, case, examples=examples, shrink=False)
        except (AssertionError, RuntimeError):
            return True
    return False


def answers(rule: DualLayer, case: Case, seed: int) -> list[Tensor]:
    """Return all that a rule says of a case with random constants on random boxes."""
    generator = torch.Generator().manual_seed(seed)
    call, shapes = case.build(generator, torch.float64)
    boxes = []
    for shape in shapes:
        center, radius = (torch.randn(shape, generator=generator) for _ in range(2))
        boxes.append(Interval((center - radius.abs()).double(), (center + radius.abs()).double()))
    image = rule.interval(call, *boxes)
    said = [image.lower, image.upper]
    nu = torch.randn(2, *call(*(box.lower for box in boxes)).shape, generator=generator).double()
    if isinstance(rule, Affine):
        linear, constant = rule.linear_part(call)
        rows = rule.transpose(call, nu, [box.lower.shape for box in boxes])
        return [*said, *rows, linear(*(box.lower for box in boxes)), torch.tensor(constant)]
    shapes = [box.lower.shape for box in boxes]
    pulled, h = rule.relax(call, *boxes).dual(nu, shapes)
    if isinstance(rule, Elementwise):
        slopes = tuple(torch.randn(box.lower.shape, generator=generator).double() for box in boxes)
        given = slopes if len(slopes) > 1 else slopes[0]
        for found in (
            rule.relax(call, *boxes),
            rule.relax(call, *boxes, slopes=given),
            rule.relax(call, *boxes, at=[box.center for box in boxes]),
        ):
            said += [*found.lower_slopes, found.lower_intercept]
            said += [*found.upper_slopes, found.upper_intercept]
    return [*said, *pulled, h]


def alike(rule: DualLayer, mutant: DualLayer, cases: list[Case]) -> bool:
    """Return whether a mutant says the same as the rule, up to rounding."""
    for case, seed in itertools.product(cases, range(1000 // len(cases))):
        pair = [answers(r, case, seed) for r in (rule, mutant)]
        for a, b in zip(*pair, strict=True):
            if not torch.allclose(a.double(), b.double(), 1e-8, 1e-8, equal_nan=True):
                return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=6, help="examples for each case")
    parser.add_argument("--op", default="", help="only ops whose name holds this")
    options = parser.parse_args()
    made, found, none, survivors = Counter[str](), Counter[str](), Counter[str](), []
    for op, entry in REGISTRY.items():
        if options.op not in op:
            continue
        every = [case for case in CASES if name(case) == op]
        for rule in entry.rules if isinstance(entry, Either) else (entry,):
            cases = [case for case in every if serving(entry, case) is rule]
            for kind, mutant in mutants(rule).items():
                made[kind] += 1
                if caught(mutant, cases, options.examples):
                    found[kind] += 1
                elif alike(rule, mutant, cases):
                    none[kind] += 1
                else:
                    survivors.append(f"{op}: {kind}")
    for kind, count in made.items():
        print(f"{found[kind]:4d} of {count - none[kind]:4d}  {kind}, {none[kind]} change nothing")
    caught_, all_, same = (sum(c.values()) for c in (found, made, none))
    print(f"{caught_:4d} of {all_ - same:4d}  together, {same} change nothing")
    print("\n".join(["survivors:", *survivors]))


if __name__ == "__main__":
    main()
