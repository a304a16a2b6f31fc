"""Which dual layer serves which op: every ATen overload by its full name, nothing inferred."""

from __future__ import annotations

from collections.abc import Mapping

from autodual.duals import (
    activations,
    arithmetic,
    clamps,
    conv,
    functions,
    intervals,
    linear,
    maximum,
    norm,
    pool,
    relu,
    shape,
    steps,
)
from autodual.duals.base import DualLayer, Either

Registry = Mapping[str, DualLayer | Either]

REGISTRY: Registry = {
    **linear.TABLE,
    **conv.TABLE,
    **arithmetic.TABLE,
    **shape.TABLE,
    **pool.TABLE,
    **norm.TABLE,
    **relu.TABLE,
    **clamps.TABLE,
    **steps.TABLE,
    **maximum.TABLE,
    **activations.TABLE,
    **functions.TABLE,
    **intervals.TABLE,
}
