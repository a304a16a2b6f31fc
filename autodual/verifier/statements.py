"""Linear inequalities over inputs and outputs, joined by and and or: what a user writes in Python.

``X[i]`` is the i-th entry of an example's input, ``Y[k]`` of its output, ``Y[k, 2, 3]`` where the
output has dimensions of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autodual.errors import InputError
from autodual.properties import Property
from autodual.threat import ThreatModel

Index = tuple[int, ...]

Entry = tuple[str, Index]
"""``"X"`` or ``"Y"``, and which entry of it."""

ROUNDING = 8
"""By how many units in the last place the box around a set may be too small."""

MOST_CASES = 100_000
"""How many cases a statement may fall into."""


@dataclass(frozen=True, eq=False)
class Row:
    """Σ a·entry + constant."""

    terms: Mapping[Entry, float]
    constant: float = 0.0

    def __add__(self, other: Row | float) -> Row:
        other = _row(other)
        terms = dict(self.terms)
        for entry, factor in other.terms.items():
            terms[entry] = terms.get(entry, 0.0) + factor
        return Row(terms, self.constant + other.constant)

    __radd__ = __add__

    def __neg__(self) -> Row:
        return -1.0 * self

    def __sub__(self, other: Row | float) -> Row:
        return self + -_row(other)

    def __rsub__(self, other: Row | float) -> Row:
        return _row(other) + -self

    def __mul__(self, factor: object) -> Row:
        if isinstance(factor, Row):
            raise InputError("a row is linear: multiply entries by numbers, not by each other")
        factor = _number(factor)
        terms = {entry: factor * a for entry, a in self.terms.items()}
        return Row(terms, factor * self.constant)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Row:
        return self * (1.0 / _number(divisor))

    def __gt__(self, other: Row | float) -> Statement:
        return Statement(((self - other,),))

    def __lt__(self, other: Row | float) -> Statement:
        return Statement(((_row(other) - self,),))

    def __ge__(self, other: Row | float) -> Statement:
        raise InputError(_STRICT)

    def __le__(self, other: Row | float) -> Statement:
        raise InputError(_STRICT)

    def __str__(self) -> str:
        parts = [f"{a:+g} {name}[{', '.join(map(str, i))}]" for (name, i), a in self.terms.items()]
        return " ".join([*parts, f"{self.constant:+g}"])

    __repr__ = __str__


_STRICT = (
    "write > or <: on the edge itself numbers can neither prove nor refute an inequality, so that "
    "statements are strict, and a tie does not satisfy them"
)


@dataclass(frozen=True, eq=False)
class Statement:
    """What holds at a point if in every clause some row is positive.

    Made by comparing rows, ``Y[0] > Y[1]``, and joined by ``&``, ``|``, ``all_of`` and ``any_of``.
    """

    clauses: tuple[tuple[Row, ...], ...]

    def __and__(self, other: Statement) -> Statement:
        return Statement(self.clauses + _statement(other).clauses)

    def __or__(self, other: Statement) -> Statement:
        other = _statement(other)
        if len(self.clauses) * len(other.clauses) > MOST_CASES:
            raise InputError(f"a statement falls into more than {MOST_CASES} cases")
        pairs = itertools.product(self.clauses, other.clauses)
        return Statement(tuple(a + b for a, b in pairs))

    def __invert__(self) -> Statement:
        """Return what holds, but for ties, where this does not."""
        clauses = [Statement(tuple((-row,) for row in clause)) for clause in self.clauses]
        return any_of(*clauses)

    def __bool__(self) -> bool:
        raise InputError("join statements by & and |, all_of and any_of, not by and, or, a < b < c")

    def __str__(self) -> str:
        clauses = (" or ".join(f"{row} > 0" for row in clause) for clause in self.clauses)
        return " and ".join(f"({clause})" for clause in clauses)

    __repr__ = __str__


@dataclass(frozen=True)
class Symbol:
    """The entries of the input or the output of an example."""

    name: str

    def __getitem__(self, index: int | Index) -> Row:
        index = index if isinstance(index, tuple) else (index,)
        if not all(isinstance(i, int) and not isinstance(i, bool) for i in index):
            raise InputError(f"{self.name}[{index}]: an entry has whole numbers for its place")
        return Row({(self.name, index): 1.0})

    def __iter__(self) -> None:
        raise InputError(f"how many entries {self.name} has is known to the model alone")


X, Y = Symbol("X"), Symbol("Y")
"""An example's input and its output."""


def all_of(*statements: Statement) -> Statement:
    """Return what holds where all of some statements do."""
    return Statement(tuple(c for s in statements for c in _statement(s).clauses))


def any_of(*statements: Statement) -> Statement:
    """Return what holds where any of some statements does."""
    if not statements:
        raise InputError("any_of takes a statement or more")
    found = _statement(statements[0])
    for other in statements[1:]:
        found = found | other
    return found


def as_statement(given: object) -> Statement:
    """Return a statement that may be given as a ``Property`` of flat outputs."""
    if isinstance(given, Property):
        return Statement(tuple(_of_half_spaces(c.C, c.d) for c in given.clauses))
    return _statement(given)


def _of_half_spaces(C: Tensor, d: Tensor) -> tuple[Row, ...]:
    """Return the rows C z − d."""
    rows = []
    for c, offset in zip(C.double(), d.double().tolist(), strict=True):
        places = c.nonzero().tolist()
        terms = {("Y", tuple(place)): float(c[tuple(place)]) for place in places}
        rows.append(Row(terms, -offset))
    return tuple(rows)


def _statement(given: object) -> Statement:
    if not isinstance(given, Statement):
        raise InputError(
            f"{given!r} is no statement: compare entries, ad.Y[0] > ad.Y[1], and join by & and |"
        )
    return given


def _row(given: Row | float) -> Row:
    return given if isinstance(given, Row) else Row({}, _number(given))


def _number(given: object) -> float:
    try:
        number = float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise InputError(f"{given!r} is no number") from None
    if number != number or number in (float("inf"), float("-inf")):
        raise InputError(f"{given!r} is no finite number")
    return number


@dataclass(frozen=True, eq=False)
class Region:
    """{x in a box : a statement about x holds, or does up to a tie}; ``around`` makes others.

    Args:
        lower, upper: tensors of the shape of one example's input, or numbers for all entries.
        where: a statement about ``X`` alone, such as ``X[0] + X[1] < 1``.
        ball: a threat model that is no box and the x [1, *] that it is around; the box contains it.

    Raises:
        InputError: ends that are not finite, or of different shapes.
    """

    lower: Tensor | float
    upper: Tensor | float
    where: Statement | None = None
    ball: tuple[ThreatModel, Tensor] | None = None

    def __post_init__(self) -> None:
        for name in ("lower", "upper"):
            end = torch.as_tensor(getattr(self, name))
            if not bool(end.isfinite().all()):
                raise InputError(f"a Region has finite ends, and {name} is not")
            object.__setattr__(self, name, end)
        if self.where is not None:
            _statement(self.where)

    @classmethod
    def around(cls, x: Tensor, eps: float | ThreatModel, where: Statement | None = None) -> Region:
        """Return a set around one example's input x.

        Args:
            x: of the shape of one example's input.
            eps: a threat model, or a number for all points within ± eps of x in every entry.
            where: as for all regions.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise InputError(
                f"a region is around a tensor of floating-point numbers, not {x!r:.60}"
            )
        if not isinstance(eps, ThreatModel):
            if not _number(eps) >= 0:
                raise InputError(f"eps={eps!r}: give a number of 0 or more, or a threat model")
            return cls(x - eps, x + eps, where)
        eps.check(x[None])
        box, boxlike = eps.interval(x[None]), eps.weights(x[None]) is not None
        if boxlike:
            return cls(box.lower[0], box.upper[0], where)
        room = ROUNDING * torch.finfo(x.dtype).eps * box.magnitude
        return cls((box.lower - room)[0], (box.upper + room)[0], where, (eps, x[None]))

    @property
    def members(self) -> tuple[Region, ...]:
        """The regions whose union this is: itself alone, unless around it is a ``Union``."""
        if self.ball is None or len(self.ball[0].members) == 1:
            return (self,)
        threat, x = self.ball
        return tuple(Region.around(x[0], member, self.where) for member in threat.members)

    def ends(self, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the box's ends, for one example's input of some shape."""
        ends = []
        for end in (self.lower, self.upper):
            tensor = torch.as_tensor(end).detach()
            if tensor.dim() > 0 and tensor.shape != torch.Size(shape):
                raise InputError(
                    f"the region has ends of shape {list(tensor.shape)}, one example's input is "
                    f"{list(shape)}: leave the batch dimension out"
                )
            ends.append(tensor.double().expand(tuple(shape)))
        return ends[0], ends[1]
