"""What a verifier answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from autodual.brief import brief
from autodual.errors import InputError

if TYPE_CHECKING:
    from autodual.proof import QueryOrigin

VERIFIED, FALSIFIED, UNKNOWN = "verified", "falsified", "unknown"


@dataclass(frozen=True)
class Moment:
    """How far a search was at some time.

    Attributes:
        seconds: since it began.
        bound: what is proved: somewhere in every open sub-problem the least of the rows that a
            violation needs may lie this far below 0, and nowhere farther. ∞ when none is open.
        open, bounded: how many sub-problems are open, and how many were bounded so far.
    """

    seconds: float
    bound: float
    open: int
    bounded: int

    def __str__(self) -> str:
        return (
            f"{self.bounded} sub-problems bounded, {self.open} open, bound {self.bound:.4g}, "
            f"{self.seconds:.1f} s"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Verdict:
    """What is known of a property over a region; print it.

    Attributes:
        status: "verified": it holds at every point. "falsified": it does not at ``witness``.
            "unknown".
        reason: how it was decided, or why not: "time", "memory", "interrupted" and the like.
        witness: of the shape of one example's input, where the model itself violates the property.
        output: the model's output there.
        bound: for an unknown one how far below 0 the rows may lie, the gap; see ``Moment``.
        open: how many sub-problems are left.
        bounded: how many were bounded.
        seconds: how long all of it took.
        how: what decided, or was at work at last.
        curve: how the search went.
    """

    status: str
    reason: str
    witness: Tensor | None
    output: Tensor | None
    bound: float
    open: int
    bounded: int
    seconds: float
    how: str
    curve: tuple[Moment, ...] = ()
    _origin: ClassVar[QueryOrigin | None] = None

    def of(self, origin: QueryOrigin) -> Verdict:
        """Return the verdict, which remembers what it is of."""
        object.__setattr__(self, "_origin", origin)
        return self

    def save(self, path: str | Path, timeout: float = math.inf, most: int = 1_000_000) -> int:
        """Write a proof that ``autodual-check path`` checks without this library.

        Parts are cut, by inputs where few vary and else by signs of units, until what the checker
        derives proves each, which is not how the verdict was found: this can take longer, and more
        parts.

        Args:
            path: the file, which is replaced when all is proved.
            timeout: seconds, after which to give up.
            most: parts, after which to give up.

        Returns:
            How many parts there are.

        Raises:
            InputError: nothing is verified; the model has changed; no proof within what is allowed.
            UnsupportedOpError: ops that proofs do not know, all of them.
        """
        if not self.verified or self._origin is None:
            raise InputError(
                "there are proofs of what is verified over boxes, as verify returns it"
            )
        return self._origin.save(path, timeout, most)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_origin"}

    @property
    def verified(self) -> bool:
        """Whether the property holds at every point of the region."""
        return self.status == VERIFIED

    @property
    def falsified(self) -> bool:
        """Whether it is violated at ``witness``."""
        return self.status == FALSIFIED

    def __bool__(self) -> bool:
        raise TypeError("a verdict is verified, falsified or unknown: ask .verified or .status")

    def __str__(self) -> str:
        said = f"{self.status} in {self.seconds:.3g} s: {self.reason}"
        if self.witness is not None:
            said += f"\nwitness {brief(self.witness)}, output {brief(self.output)}"
        if self.status == UNKNOWN:
            said += f"\nbound {self.bound:.4g}, {self.open} sub-problems left of {self.bounded}"
        return said

    __repr__ = __str__
