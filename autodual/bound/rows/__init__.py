"""The linear forms ν that travel back through the network, in the forms they can take.

* ``Dense``: every row written out in full.
* ``Patches``: rows that touch a window of an image each, as those of convolutions do.

Either form may hold its rows as picks from a small ``bank`` that they share: the unit rows of a
layer all come from one weight matrix until the first elementwise op tells examples apart.
"""

from __future__ import annotations

from autodual.bound.layer import Side
from autodual.bound.rows.dense import Dense
from autodual.bound.rows.memo import Memo
from autodual.bound.rows.patches import Patches
from autodual.bound.rows.seeds import Margins, Seeds, Specs, Units

Rows = Dense | Patches


def pull_affine(rows: Rows, side: Side, memo: Memo) -> list[Rows]:
    """Return Aᵀν for each perturbed argument, as patches if they are and can remain."""
    if isinstance(rows, Patches):
        pulled = rows.pull_affine(side, memo)
        if pulled is not None:
            return list(pulled)
        rows = rows.dense()
    return list(rows.pull_affine(side))


def add(a: Rows, b: Rows) -> Rows:
    """Return the sum of two forms of the same rows."""
    if isinstance(a, Patches) and isinstance(b, Patches):
        total = a.add(b)
        if total is not None:
            return total
    return to_dense(a).add(to_dense(b))


def to_dense(rows: Rows) -> Dense:
    """Write rows out in full."""
    return rows.dense() if isinstance(rows, Patches) else rows


__all__ = [
    "Dense",
    "Margins",
    "Memo",
    "Patches",
    "Rows",
    "Seeds",
    "Specs",
    "Units",
    "add",
    "pull_affine",
    "to_dense",
]
