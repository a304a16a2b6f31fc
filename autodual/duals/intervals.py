"""Ops of which only intervals are kept: steps, which have no slope, and sorting.

Each entry of each is nondecreasing in each entry of z, so the ends of a box map to the ends.
"""

from __future__ import annotations

from autodual.duals.base import IntervalRule

MONOTONE = IntervalRule()

TABLE = {
    "aten.round.default": MONOTONE,
    "aten.round.decimals": MONOTONE,
    "aten.floor.default": MONOTONE,
    "aten.ceil.default": MONOTONE,
    "aten.trunc.default": MONOTONE,
    "aten.sign.default": MONOTONE,
    "aten.sort.default": MONOTONE,
    "aten.topk.default": MONOTONE,
}
