"""What an output may have to satisfy besides a label: linear inequalities, joined by and and or."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from autodual.errors import InputError


@dataclass(frozen=True, eq=False)
class HalfSpaces:
    """{z : C z ≤ d}: C [S, *] with * the shape of one example's output, d [S]."""

    C: Tensor
    d: Tensor

    def excess(self, z: Tensor) -> Tensor:
        """Return C z − d for outputs [N, *], [N, S]; no row is positive in the half spaces."""
        C, d = self.C.to(z), self.d.to(z)
        return z.reshape(len(z), -1) @ C.reshape(len(C), -1).mT - d


class Property:
    """A safe set of outputs z, {z : in every clause, C z > d in at least one row}.

    Made of ``AtLeastOne`` and ``All``, which ``&`` and ``|`` join. Any statement that joins linear
    inequalities by and and or can be written so.

    Attributes:
        clauses: C and d of each.
    """

    def __init__(self, clauses: tuple[HalfSpaces, ...]) -> None:
        self.clauses = clauses

    @property
    def unsafe(self) -> tuple[HalfSpaces, ...]:
        """The sets whose union is the unsafe set, its complement: intersections of half spaces."""
        return self.clauses

    def __and__(self, other: Property) -> Property:
        return Property(self.clauses + _clauses(other))

    def __or__(self, other: Property) -> Property:
        pairs = itertools.product(self.clauses, _clauses(other))
        return Property(
            tuple(HalfSpaces(torch.cat([a.C, b.C]), torch.cat([a.d, b.d])) for a, b in pairs)
        )

    def __bool__(self) -> bool:
        raise InputError("join properties by & and |, not by and and or")

    def __repr__(self) -> str:
        rows = ", ".join(str(len(clause.d)) for clause in self.clauses)
        return f"{type(self).__name__}({len(self.clauses)} clauses of {rows} rows)"

    def margins(self, z: Tensor) -> Tensor:
        """Return by how much outputs [N, *] satisfy each clause, max C z − d, [N, clauses]."""
        return torch.stack([clause.excess(z).amax(1) for clause in self.clauses], 1)

    def loss(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return how near outputs are to being unsafe, [N]; not negative where they are."""
        return -self.margins(z).amin(1)

    def violated(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return which outputs are unsafe, [N] bool; NaN is."""
        return ~(self.margins(z) > 0).all(1)


class AtLeastOne(Property):
    """C z > d in at least one row: z never lies in all of the half spaces c·z ≤ d at once.

    Args:
        C: rows [S, *], with * the shape of one example's output.
        d: a number, or a tensor [S].

    Raises:
        InputError: C or d has no such shape, or is not finite.
    """

    def __init__(self, C: Tensor, d: float | Tensor = 0.0) -> None:
        super().__init__((_read(C, d),))


class All(Property):
    """C z > d in every row. The arguments are those of ``AtLeastOne``."""

    def __init__(self, C: Tensor, d: float | Tensor = 0.0) -> None:
        rows = _read(C, d)
        pairs = zip(rows.C.split(1), rows.d.split(1), strict=True)
        super().__init__(tuple(HalfSpaces(c, d) for c, d in pairs))


def _read(C: Tensor, d: float | Tensor) -> HalfSpaces:
    if not isinstance(C, Tensor) or C.dim() == 0 or C.numel() == 0 or not C.is_floating_point():
        kind = f"{C.dtype} {list(C.shape)}" if isinstance(C, Tensor) else type(C).__name__
        raise InputError(f"C must be a tensor of rows [S, *], not {kind}")
    try:
        d = torch.as_tensor(d, dtype=C.dtype, device=C.device).expand(len(C))
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"d must be a number or a tensor [{len(C)}], not {d!r}") from None
    if not bool(C.isfinite().all() & d.isfinite().all()):
        raise InputError("C or d holds NaN or infinity")
    return HalfSpaces(C, d)


def _clauses(other: object) -> tuple[HalfSpaces, ...]:
    if not isinstance(other, Property):
        raise InputError(f"a property is joined with another, not with {type(other).__name__}")
    return other.clauses
