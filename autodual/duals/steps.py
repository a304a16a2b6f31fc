"""Steps and choices on one side of an edge and the other: ``passes/conditions.py`` writes them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from autodual.duals.base import Call
from autodual.duals.piecewise import pieces
from autodual.interval import Interval


def sizes(call: Call, box: Interval) -> Tensor:
    """Return |slope|·|z| + |shift|, of the function where it is larger."""
    z = box.magnitude
    each = [[torch.as_tensor(call[name]).to(z).abs() for name in names] for names in BOTH]
    return torch.maximum(*(slope * z + shift for slope, shift in each))


BOTH = ("slope", "shift"), ("other_slope", "other_shift")

TABLE = {
    "autodual.step": pieces("edge", jumps=True, argument="input", errors=0),
    "autodual.split": replace(pieces("edge", jumps=True, argument="input", errors=3), sizes=sizes),
}
