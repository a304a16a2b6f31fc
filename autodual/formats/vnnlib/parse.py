"""A file's text, read once, from left to right, without recursion."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autodual.errors import InputError
from autodual.formats.vnnlib.formula import Conjunction, Disjunction, Expansion, Rows
from autodual.formats.vnnlib.linear import Term, number
from autodual.formats.vnnlib.symbols import Symbols, shown

SIGN = r"""[^\s()\[\]";]"""

WORD = rf"{SIGN}{{1,1000}}(?!{SIGN})"  # bounded, for no word is tried at many lengths

ITEM = rf"{WORD}(?:\s*\[[\d,\s]*\])?"

TOKEN = re.compile(
    rf"(?:\(\s*(<=|>=)\s+({ITEM})\s+({ITEM})\s*\)"  # most of a file is (<= X_0 1.5)
    rf"|\(\s*((?:{WORD})?)"
    r"|(\))"
    rf"|({ITEM})"
    r"|(;[^\n]*)"
    r'|("[^"\n]*")'
    r"|(\S))\s*",
    re.ASCII,
)

COMPARISON, OPEN, CLOSE, LEAF, COMMENT, STRING = 3, 4, 5, 6, 7, 8

COMPARISONS = "<=", ">=", "<", ">", "=", "==", "!="

DEPTH, TOKENS = 100_000, 2**24

HEADS = {
    **dict.fromkeys(COMPARISONS, ("formula", "term")),
    **dict.fromkeys("+-*/", ("term", "term")),
    **dict.fromkeys(("and", "or", "not"), ("formula", "formula")),
    **dict.fromkeys(("declare-const", "vnnlib-version"), ("command", "name")),
    **dict.fromkeys(("declare-input", "declare-output"), ("declaration", "name")),
    **dict.fromkeys(("declare-hidden", "equal-to", "isomorphic-to"), ("declaration", "name")),
    "assert": ("command", "formula"),
    "declare-network": ("command", "declaration"),
}
"""What each form is, and what it consists of."""


@dataclass
class Frame:
    """A form that is open.

    Attributes:
        head: its first word.
        at: where it begins.
        holds: what it consists of.
        count: how many formulas it has.
        operands: its terms or names.
        formula: what its comparisons join; also its parent's, if both are of one kind.
        negated: whether it is under an odd number of nots.
    """

    __slots__ = ("at", "count", "formula", "head", "holds", "negated", "operands")

    head: str
    at: int
    holds: str
    formula: Conjunction | Disjunction
    negated: bool
    operands: list[Any]
    count: int


class Parser:
    """Reads a text.

    Attributes:
        formula: what all asserts say together, of ``rows``.
        symbols: what is declared.
        line: where reading is, for what goes wrong; None once it is over.
    """

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.symbols, self.rows, self.expansion = Symbols(), Rows(), Expansion()
        self.numbers, self.formula = self.symbols.numbers, Conjunction()
        self.stack = [Frame("", 0, "command", self.formula, False, [], 0)]
        self.ended = False
        self.steps: dict[int, Callable[[str], None]] = {
            OPEN: self._open,
            LEAF: self._leaf,
            STRING: self._string,
        }

    @property
    def line(self) -> int | None:
        """The line that is being read."""
        return None if self.ended else self.text.count("\n", 0, self.at) + 1

    def run(self) -> None:
        """Read it all.

        Raises:
            InputError: it is no VNN-LIB; ``line`` says where.
        """
        for count, match in enumerate(TOKEN.finditer(self.text)):
            self.at = match.start()
            kind = match.lastindex
            if kind == COMPARISON:
                head, left, right = match.group(1, 2, 3)
                self._compare(head, self._term(left), self._term(right))
            elif kind == CLOSE:
                self._close()
            elif kind in self.steps:
                self.steps[kind](match[kind])
            elif kind != COMMENT:
                raise InputError(f"{shown(match[0].strip())} is unexpected")
            if count > TOKENS:
                raise InputError(f"the file has more than {TOKENS:,} words, the most that is read")
        if len(self.stack) > 1:
            self.at = self.stack[1].at
            raise InputError(f"({self.stack[1].head} is never closed")
        self.ended = True

    def _open(self, head: str) -> None:
        parent = self.stack[-1]
        if head not in HEADS:
            raise InputError(f"there is no ({shown(head)[1:-1]} …); {_expected(parent)}")
        kind, holds = HEADS[head]
        if kind != parent.holds:
            raise InputError(f"({head} …) cannot stand here; {_expected(parent)}")
        if len(self.stack) > DEPTH:
            raise InputError(f"forms are nested more than {DEPTH:,} deep")
        if head == "declare-network":
            self.symbols.open_network()
        negated = parent.negated != (head == "not")
        formula = parent.formula
        if head in ("and", "or"):
            joined = Conjunction if (head == "and") != negated else Disjunction
            formula = formula if isinstance(formula, joined) else joined()
        self.stack.append(Frame(head, self.at, holds, formula, negated, [], 0))

    def _close(self) -> None:
        if len(self.stack) == 1:
            raise InputError("there is a ) without a (")
        frame, parent = self.stack.pop(), self.stack[-1]
        self.at = frame.at
        head, operands = frame.head, frame.operands
        if head in COMPARISONS:
            if len(operands) != 2:
                raise InputError(f"({head} …) compares two terms, not {len(operands)}")
            self._compare(head, *operands)
        elif frame.holds == "term":
            parent.operands.append(self.rows.arithmetic.apply(head, operands))
        elif frame.holds == "formula":
            if frame.count == 0 or (frame.count > 1 and head in ("assert", "not")):
                raise InputError(f"({head} …) has {frame.count} formulas in it")
            parent.count += 1
            if frame.formula is not parent.formula:
                self.expansion.into(parent.formula, frame.formula)
        else:
            self._declare(head, operands)

    def _compare(self, head: str, left: Term, right: Term) -> None:
        frame = self.stack[-1]
        if frame.holds != "formula":
            raise InputError(f"({head} …) cannot stand here; {_expected(frame)}")
        frame.count += 1
        frame.formula.add(self.rows.compare(head, left, right, frame.negated))

    def _declare(self, head: str, operands: list[str]) -> None:
        if head == "declare-const":
            self.symbols.declare_const(operands)
        elif head == "vnnlib-version":
            self.symbols.declare_version(operands)
        elif head == "declare-network":
            self.symbols.declare_network(operands)
        else:
            self.symbols.declare_tensor(head, operands)

    def _term(self, word: str) -> Term:
        found = self.numbers.get(word)
        found = self.symbols.find(word) if found is None else found
        return number(word) if found is None else found

    def _leaf(self, word: str) -> None:
        frame = self.stack[-1]
        if frame.holds == "term":
            frame.operands.append(self._term(word))
        elif frame.holds in ("name", "declaration"):
            self._name(word)
        else:
            raise InputError(f"{shown(word)} cannot stand here; {_expected(frame)}")

    def _name(self, word: str) -> None:
        operands = self.stack[-1].operands
        if len(operands) > 4:
            raise InputError(f"({self.stack[-1].head} …) has too many words")
        operands.append(word)

    def _string(self, word: str) -> None:
        if self.stack[-1].head != "declare-hidden":
            raise InputError(f"{shown(word)} cannot stand here; {_expected(self.stack[-1])}")
        self._name(word)


def _expected(frame: Frame) -> str:
    """Say what a form consists of."""
    where = f"in ({frame.head} …)" if frame.head else "at the top"
    what = {
        "command": "declarations and asserts",
        "formula": "comparisons, and, or and not",
        "term": "numbers, variables, +, -, * and /",
        "name": "names",
        "declaration": "a name and declarations",
    }
    return f"{where} there are {what[frame.holds]}"
