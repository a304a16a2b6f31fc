"""Comparisons as rows, and what and, or and not make of them: a disjunctive normal form."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeAlias

from autodual.errors import InputError
from autodual.formats.vnnlib.linear import Arithmetic, Linear, Term, above, nearest

Group: TypeAlias = Sequence[int]
"""Rows that hold together, by their numbers; several cases may share one."""

Alternative: TypeAlias = "tuple[Group, ...]"
"""One way to be unsafe: the rows of all its groups."""

CASES = 100_000

PARTS = 2**23

OPPOSITE = {"<=": ">=", ">=": "<=", "<": ">=", ">": "<=", "=": "!=", "==": "!=", "!=": "="}


class Rows:
    """Inequalities Σ c v ≤ d, one after the other in flat arrays.

    Attributes:
        variables, coefficients: of all terms, row by row.
        ends: [R], where each row's terms end.
        d: [R].
    """

    def __init__(self) -> None:
        self.variables, self.coefficients = array("q"), array("d")
        self.ends, self.d = array("q"), array("d")
        self.arithmetic = Arithmetic()

    def compare(self, head: str, left: Term, right: Term, negated: bool) -> list[Group]:
        """Return the alternatives of a comparison, closed: none if it is false, [()] if true."""
        head = OPPOSITE[head] if negated else head
        if head in ("<=", "<"):
            return self._at_most(left, right)
        if head in (">=", ">"):
            return self._at_most(right, left)
        rest = self.arithmetic.difference(left, right)
        below = Linear({v: -c for v, c in rest.terms.items()}, -rest.constant)
        one, other = self._not_positive(rest), self._not_positive(below)
        if head == "!=":
            return one + other
        return [(*a, *b) for a in one for b in other]

    def _at_most(self, left: Term, right: Term) -> list[Group]:
        if isinstance(left, int) and isinstance(right, float):
            return self._add((left,), (1.0,), right)
        if isinstance(left, float) and isinstance(right, int):
            return self._add((right,), (-1.0,), -left)
        if isinstance(left, int) and isinstance(right, int) and left != right:
            return self._add((left, right), (1.0, -1.0), 0.0)
        return self._not_positive(self.arithmetic.difference(left, right))

    def _not_positive(self, rest: Linear) -> list[Group]:
        if not rest.terms:
            return [()] if rest.constant <= 0 else []
        terms, d = rest.terms, -rest.constant
        if len(terms) == 1 and min(terms) >= 0:  # a bound of one input, by itself
            size = abs(*terms.values())
            terms, d = {v: Fraction(1 if c > 0 else -1) for v, c in terms.items()}, d / size
        return self._add(terms, map(nearest, terms.values()), above(d))

    def _add(
        self, variables: Iterable[int], coefficients: Iterable[float], d: float
    ) -> list[Group]:
        self.variables.extend(variables)
        self.coefficients.extend(coefficients)
        self.ends.append(len(self.variables))
        self.d.append(d)
        return [(len(self.d) - 1,)]


@dataclass
class Disjunction:
    """At least one of some alternatives."""

    alternatives: list[Alternative] = field(default_factory=list)

    def add(self, groups: list[Group]) -> None:
        """Join a comparison."""
        self.alternatives += [(group,) for group in groups]


@dataclass
class Conjunction:
    """All of some rows, and one alternative of each of some choices."""

    rows: list[int] = field(default_factory=list)
    choices: list[list[Alternative]] = field(default_factory=list)

    def add(self, groups: list[Group]) -> None:
        """Join a comparison."""
        if len(groups) == 1:
            self.rows += groups[0]
        else:
            self.choices.append([(group,) for group in groups])


class Expansion:
    """Multiplies formulas out, with a bound on how large that gets."""

    def __init__(self) -> None:
        self.parts = 0

    def into(self, outer: Conjunction | Disjunction, inner: Conjunction | Disjunction) -> None:
        """Join a formula to one of the other kind."""
        if isinstance(outer, Disjunction) and isinstance(inner, Conjunction):
            outer.alternatives += self.alternatives(inner)
        elif isinstance(outer, Conjunction) and isinstance(inner, Disjunction):
            if len(inner.alternatives) == 1:
                for group in inner.alternatives[0]:
                    outer.rows += group
            else:
                outer.choices.append(inner.alternatives)

    def alternatives(self, formula: Conjunction) -> list[Alternative]:
        """Return a conjunction's alternatives; they share its rows.

        Raises:
            InputError: there are more than 100,000, or they consist of too many parts.
        """
        found: list[Alternative] = [(formula.rows,) if formula.rows else ()]
        for choice in formula.choices:
            if len(found) * len(choice) > CASES:
                raise InputError(f"the asserts make more than {CASES:,} cases when multiplied out")
            self.parts += sum(map(len, choice)) * len(found) + sum(map(len, found)) * len(choice)
            if self.parts > PARTS:
                raise InputError(f"the asserts make more than {PARTS:,} parts of cases; flatten it")
            found = [a + b for a in found for b in choice]
        return found
