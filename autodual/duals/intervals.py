"""Ops of which only intervals are kept: steps, which have no slope, and sorting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from autodual.duals.base import Call, DualLayer, by_endpoints
from autodual.duals.relaxed import Choice, Planes
from autodual.interval import Interval


@dataclass(frozen=True)
class IntervalRule(DualLayer):
    """The dual layer of any op ℓ ≤ f(z) ≤ u of which only these ends are known.

    They are two planes of slope 0: ν_in = 0, h = u[ν_out]₊ + ℓ[ν_out]₋. No row passes, and what
    the entries of f(z) have in common is lost: used only where the user allows it.

    Args:
        interval: interval arithmetic for f; endpoints map to endpoints if f is nondecreasing.
        arguments: the schema names of the arguments that may be perturbed.
        errors, jumps: as for any dual layer.
    """

    interval: Callable[..., Interval] = by_endpoints
    arguments: tuple[str, ...] = ("self",)
    errors: float | None = None
    jumps: bool = True
    rough: ClassVar[bool] = True
    kind: ClassVar[str] = "interval"

    def covers(self, names: Sequence[str], args: Mapping[str, Any]) -> bool:
        """Return whether only these arguments are perturbed."""
        return set(names) <= set(self.arguments)

    def relax(
        self,
        call: Call,
        *boxes: Interval,
        slopes: Choice | None = None,
        at: Sequence[Tensor] | None = None,
    ) -> Planes:
        """Return two planes of slope 0."""
        return Planes.flat(self.interval(call, *boxes))

    def formula(self, out: str, variables: Sequence[str]) -> str:
        """Return ν_in and h."""
        return f"{', '.join(variables)} += 0, h = u[{out}]₊ + ℓ[{out}]₋, ℓ and u by intervals"


MONOTONE = IntervalRule(errors=0)
"""Each entry of these is nondecreasing in each entry of z: the ends of a box map to the ends."""


def heaviside_interval(call: Call, box: Interval) -> Interval:
    """Bound the step by its values at the ends and at the jump, where it may lie anywhere."""
    jump = box.nearest(torch.zeros_like(box.lower))
    values = torch.stack([call(z) for z in (box.lower, jump, box.upper)])
    return Interval(values.amin(0), values.amax(0))


TABLE = {
    "aten.heaviside.default": IntervalRule(heaviside_interval, errors=0),
    "aten.round.default": MONOTONE,
    "aten.round.decimals": IntervalRule(),
    "aten.floor.default": MONOTONE,
    "aten.ceil.default": MONOTONE,
    "aten.trunc.default": MONOTONE,
    "aten.sign.default": MONOTONE,
    "aten.sort.default": MONOTONE,
    "aten.topk.default": MONOTONE,
}
