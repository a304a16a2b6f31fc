"""What a bound says about a batch: a certificate if it is sound, an estimate if it is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import torch
from torch import Tensor

from autodual.brief import brief
from autodual.errors import InputError, NoGuaranteeError, UnsoundError
from autodual.labels import NONE
from autodual.margins import Margins

if TYPE_CHECKING:
    from autodual.proof import Origin


@dataclass(frozen=True, eq=False, repr=False)
class Certificate(Margins):
    """Guaranteed margins over the whole perturbation set.

    Attributes:
        margins: of labels, [N, K, *]: lower bounds on z_y − z_k over the set, 0 at k = y. Of a
            tolerance, [N, K]: what each of an example's K outputs leaves of it at worst. Of a
            property, [N, clauses]: lower bounds on the largest C z − d of each.
        labels: [N, *], the class y that each example, or each of its pixels, is certified for;
            −100 where there is none. None for a tolerance or a property.
        threat, bounds: the set and the method, in words.
        eps: [N], the radius of each example's ball, if each was given its own; else None.
        over_budget: the nodes where interval arithmetic serves some examples, because their rows
            did not fit into ``certify(budget=)``.
        remarks: what should be known beside the margins, in words.
        delta: the chance, for each example, that its margins do not hold, at most; 0 for a bound
            that always does.
        rounding: as ``certify`` was told.

    Sound: in exact arithmetic; the bound is computed in the model's dtype. With ``rounding``
    whatever that rounds: ``"outward"`` for the network in real arithmetic, ``"deployed"`` for the
    values that it computes itself in floats.
    """

    delta: float = 0.0
    rounding: str | None = None
    _origin: ClassVar[Origin | None] = None  # of a certificate of its own, if it can be saved

    def of(self, origin: Origin) -> Certificate:
        """Return the certificate, which remembers how it was made."""
        object.__setattr__(self, "_origin", origin)
        return self

    def save(
        self, path: str | Path, tight: bool = False, timeout: float = 600.0, most: int = 100_000
    ) -> None:
        """Write a proof of the margins that ``autodual-check path`` checks without this library.

        The checker derives margins anew, in whole numbers, and these are what the file claims.
        Each example goes the cheapest way that verifies it, so that its margins may be smaller
        than these; where slopes must be sought, and units cut by their signs, they are 0. Nothing
        is written unless all that is verified here is verified there, too.

        Args:
            path: the file, which is replaced.
            tight: derive margins as large as the checker can, which takes it longer.
            timeout: seconds, after which to give up.
            most: parts, after which to give up.

        Raises:
            InputError: the certificate is none of labels, or joined from others, or holds with a
                probability only; the model has changed since; the set is neither a box nor an ℓ∞,
                ℓ1 or ℓ2 ball; a verified example is not proved.
            UnsupportedOpError: ops that proofs do not know, all of them.
        """
        if self.delta or self._origin is None:
            raise InputError(
                "there are proofs of what net(x, y) returns, or of some of its examples, where "
                "sums are exact"
            )
        if self.rounding not in (None, "outward"):
            raise InputError(
                'proofs are of networks in real arithmetic: save what rounding="outward" certifies'
            )
        self._origin.save(path, self.verified, tight, timeout, most)

    def __getitem__(self, index: Any) -> Certificate:
        part = super().__getitem__(index)
        if self._origin is None:
            return part
        return part.of(self._origin.select(torch.arange(len(self))[index].reshape(-1)))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_origin"}

    @property
    def verified(self) -> Tensor:
        """[N, *] bool: every margin is positive, but that of y itself. NaN verifies nothing.

        Then no point of the set is given another class than y there, or leaves the tolerance. What
        has no label is not verified.
        """
        safe = (self.margins > 0) & torch.isfinite(self.margins)
        if self.labels is None:
            return safe.all(1)
        y = self.labels.clamp(min=0).unsqueeze(1)
        return safe.scatter(1, y, True).all(1) & (self.labels != NONE)

    @property
    def error(self) -> float:
        """The share of all labels that are not verified: an upper bound on the robust error."""
        return float((~self.verified[self._labelled]).to(torch.float64).mean())

    def __str__(self) -> str:
        verified, count = int(self.verified.sum()), str(int(self._labelled.sum()))
        if self.verified.dim() > 1:
            count += f" in {len(self)} examples"
        chance = f", each with probability {1 - self.delta:g}" if self.delta else ""
        rounding = "" if self.rounding is None else f", rounding={self.rounding!r}"
        how = f"(bounds={self.bounds!r}{rounding}){chance}"
        each = "" if self.eps is None else f" with ε {brief(self.eps)}"
        said = f"{verified} of {count} verified within {self.threat}{each} {how}"
        return "\n".join([said, *self.remarks])

    @classmethod
    def _joined(cls, parts: Sequence[Certificate]) -> dict[str, Any]:
        kinds = list(dict.fromkeys(part.rounding for part in parts))
        if len(kinds) > 1:
            raise InputError(
                f"results for rounding={kinds[0]!r} and {kinds[1]!r} do not say the same: join "
                "them apart"
            )
        return {"delta": max(part.delta for part in parts)}

    @property
    def _labelled(self) -> Tensor:
        """Where there is something to verify."""
        return torch.ones_like(self.verified) if self.labels is None else self.labels != NONE


@dataclass(frozen=True, eq=False, repr=False)
class Estimate(Margins):
    """Margins that guarantee nothing, and why. It trains and reports; it verifies nothing.

    Attributes:
        margins, labels, threat, bounds, eps, over_budget, remarks: as for ``Certificate``, but
            without its guarantee.
        caveats: the reasons.
    """

    caveats: tuple[str, ...] = ()

    def __str__(self) -> str:
        said = f"estimate for {len(self)} examples, no guarantee: {'; '.join(self.caveats)}"
        return "\n".join([said, *self.remarks])

    @classmethod
    def _joined(cls, parts: Sequence[Estimate]) -> dict[str, Any]:
        return {"caveats": tuple(dict.fromkeys(c for part in parts for c in part.caveats))}

    if not TYPE_CHECKING:  # a type checker finds no such attribute either

        def __getattr__(self, name: str) -> NoReturn:
            if name not in ("verified", "error", "delta"):
                raise AttributeError(f"'Estimate' object has no attribute {name!r}")
            raise NoGuaranteeError(
                f"an Estimate has no {name}, since it guarantees nothing: "
                f"{'; '.join(self.caveats)}. For a Certificate use estimator=ad.Exact() or "
                "ad.Geometric(...), without estimators in choose=, and call model.eval() first."
            )


def guaranteed(found: Certificate | Estimate) -> Certificate:
    """Return a certificate as it is.

    Raises:
        UnsoundError: it is an estimate.
    """
    if isinstance(found, Estimate):
        raise unsound(found.caveats)
    return found


def unsound(caveats: Sequence[str]) -> UnsoundError:
    """Return what is said where a guarantee is asked of a bound that has caveats."""
    return UnsoundError(f"no guarantee can be given: {'; '.join(caveats)}")
