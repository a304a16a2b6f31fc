"""What a verifier is asked: is there a point of a few boxes at which some rows all hold?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from autodual.errors import InputError


@dataclass(frozen=True, eq=False)
class Case:
    """One way to be unsafe: {x in a box : A x + C z ≤ d in every row}, with z the output at x.

    Inputs and outputs are flat, n and K numbers. Without rows every point of the box is unsafe.

    Attributes:
        lower, upper: [n], the box; it may be empty.
        A: [S, n].
        C: [S, K].
        d: [S].
    """

    lower: Tensor
    upper: Tensor
    A: Tensor
    C: Tensor
    d: Tensor

    def __post_init__(self) -> None:
        rows, n = len(self.d), len(self.lower)
        sizes = self.lower.shape == self.upper.shape == (n,)
        if not sizes or self.A.shape != (rows, n) or self.C.shape[:-1] != (rows,):
            shapes = (list(t.shape) for t in (self.lower, self.upper, self.A, self.C, self.d))
            raise InputError(
                "a case has a box [n], [n] and rows A [S, n], C [S, K], d [S], not "
                + ", ".join(map(str, shapes))
            )
        if any(bool(t.isnan().any()) for t in (self.lower, self.upper, self.A, self.C, self.d)):
            raise InputError("a case holds NaN")

    @property
    def empty(self) -> bool:
        """Whether the box is."""
        return bool((self.lower > self.upper).any())

    def excess(self, x: Tensor, z: Tensor) -> Tensor:
        """Return A x + C z − d for points [N, n] and outputs [N, K], [N, S]: unsafe where ≤ 0."""
        return x @ self.A.mT + z @ self.C.mT - self.d

    def to(self, like: Tensor) -> Case:
        """Return the case in another dtype, on another device; the box is not made smaller."""
        lower, upper = self.lower.to(like), self.upper.to(like)
        if lower.dtype != self.lower.dtype:
            down, up = lower.to(self.lower) > self.lower, upper.to(self.upper) < self.upper
            lower = torch.where(down, torch.nextafter(lower, lower - torch.inf), lower)
            upper = torch.where(up, torch.nextafter(upper, upper + torch.inf), upper)
        return Case(lower, upper, *(t.to(like) for t in (self.A, self.C, self.d)))

    def within(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the ends of the box in another dtype, not outside of it.

        Where no number of that dtype lies in it, as between the ends of an input that is fixed, the
        nearest one stands for both.
        """
        low, high = self.lower.to(like), self.upper.to(like)
        low = torch.where(
            low.to(self.lower) < self.lower, torch.nextafter(low, low + torch.inf), low
        )
        high = torch.where(
            high.to(self.upper) > self.upper, torch.nextafter(high, high - torch.inf), high
        )
        none, nearest = low > high, self.lower.to(like)
        return torch.where(none, nearest, low), torch.where(none, nearest, high)


@dataclass(frozen=True, eq=False, repr=False)
class Query:
    """Several cases; the property holds if none of them has a point.

    Attributes:
        cases: each of the same n and K; none at all where a file says that nothing is unsafe.
        inputs, outputs: n and K.
    """

    cases: tuple[Case, ...]
    inputs: int
    outputs: int

    def __post_init__(self) -> None:
        for case in self.cases:
            if len(case.lower) != self.inputs or case.C.shape[1] != self.outputs:
                raise InputError(
                    f"a case of {len(case.lower)} inputs and {case.C.shape[1]} outputs in a query "
                    f"of {self.inputs} and {self.outputs}"
                )

    def __repr__(self) -> str:
        rows = ", ".join(str(len(case.d)) for case in self.cases[:8])
        more = ", …" if len(self.cases) > 8 else ""
        return (
            f"Query({self.inputs} inputs, {self.outputs} outputs, {len(self.cases)} cases of "
            f"{rows or 'no'}{more} rows)"
        )
