"""Linear expressions with exact coefficients."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeAlias

from autodual.errors import InputError
from autodual.formats.vnnlib.symbols import shown

NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)

BITS = 8192

STEPS = 2**22


@dataclass
class Linear:
    """Σ terms[v] v + constant."""

    terms: dict[int, Fraction] = field(default_factory=dict)
    constant: Fraction = Fraction(0)


Term: TypeAlias = "int | float | Linear"
"""A variable by its number, a number, or a linear expression."""


def number(token: str) -> float:
    """Return the float64 nearest to a number.

    Raises:
        InputError: the token is none, or a number beyond those of float64.
    """
    if not NUMBER.fullmatch(token):
        raise InputError(f"{shown(token)} is neither declared nor a number")
    value = float(token)
    if math.isinf(value) or (value == 0 and token.lower().partition("e")[0].strip("+-.0")):
        raise InputError(f"{shown(token)} is beyond float64's numbers")
    return value


class Arithmetic:
    """Applies + − * and / to terms, exactly, with a bound on how much work that is."""

    def __init__(self) -> None:
        self.steps = 0

    def apply(self, head: str, operands: list[Term]) -> Term:
        """Return the value of (head operands…).

        Raises:
            InputError: a product or quotient of variables, a division by zero, or no operand.
        """
        if not operands:
            raise InputError(f"({head}) has no operand")
        if head in "+-":
            return self._sum(operands, head)
        return self._product(operands, head)

    def difference(self, left: Term, right: Term) -> Linear:
        """Return left − right, without the terms that are zero."""
        both = self._sum([left, right], "-")
        return Linear({v: c for v, c in both.terms.items() if c}, both.constant)

    def _sum(self, operands: list[Term], head: str) -> Linear:
        """Add into the longest operand, so that nested sums take no more time than flat ones."""
        self._spend(len(operands))
        sizes = [len(part.terms) if isinstance(part, Linear) else 0 for part in operands]
        longest = sizes.index(max(sizes))
        first_alone = head == "-" and len(operands) > 1
        signs = [1 if head == "+" else -1] * len(operands)
        signs[0] = 1 if first_alone else signs[0]
        total = linear(operands[longest])
        if signs[longest] < 0:
            total = self._scaled(total, Fraction(-1))
        for i, part in enumerate(map(linear, operands)):
            if i == longest:
                continue
            self._spend(1 + len(part.terms))
            total.constant = exact(total.constant + signs[i] * part.constant)
            for v, c in part.terms.items():
                total.terms[v] = exact(total.terms.get(v, 0) + signs[i] * c)
        return total

    def _product(self, operands: list[Term], head: str) -> Linear:
        self._spend(4 * len(operands))
        parts = [linear(part) for part in operands]
        moving = [part for part in parts if any(part.terms.values())]
        if len(moving) > 1 or (head == "/" and moving and moving[0] is not parts[0]):
            raise InputError(f"({head} …) of variables is not linear")
        if head == "/" and (len(parts) < 2 or not all(part.constant for part in parts[1:])):
            raise InputError("(/ …) divides by zero, or by nothing")
        base = moving[0] if moving else parts[0]
        factor = Fraction(1)
        for part in parts:
            if part is not base:
                self._spend(1)
                by = part.constant
                factor = exact(factor / by if head == "/" else factor * by)
        return self._scaled(base, factor)

    def _scaled(self, part: Linear, factor: Fraction) -> Linear:
        self._spend(1 + len(part.terms))
        terms = {v: exact(c * factor) for v, c in part.terms.items()}
        return Linear(terms, exact(part.constant * factor))

    def _spend(self, steps: int) -> None:
        self.steps += steps
        if self.steps > STEPS:
            raise InputError(f"the file's arithmetic takes more than {STEPS} steps; flatten it")


def linear(term: Term) -> Linear:
    """Return a term as an expression of its own, or the one that it is."""
    if isinstance(term, Linear):
        return term
    if isinstance(term, float):
        return Linear({}, Fraction(term))
    return Linear({term: Fraction(1)})


def exact(value: Fraction) -> Fraction:
    """Return a number; raise if it has become so long that arithmetic with it would be slow."""
    if value.numerator.bit_length() + value.denominator.bit_length() > BITS:
        raise InputError("the arithmetic's numbers go far beyond those of float64")
    return value


def nearest(value: Fraction) -> float:
    """Return the float64 nearest to a coefficient; raise if that is 0 or infinite."""
    try:
        found = float(value)
    except OverflowError:
        found = 0.0
    if value and not found:
        raise InputError("a coefficient is beyond float64's numbers")
    return found


def above(value: Fraction) -> float:
    """Return the smallest float64 that is not below a right-hand side."""
    try:
        found = float(value)
    except OverflowError:
        raise InputError("a right-hand side is beyond float64's numbers") from None
    found = found if Fraction(found) >= value else math.nextafter(found, math.inf)
    if math.isinf(found):
        raise InputError("a right-hand side is beyond float64's numbers")
    return found
