"""Bounds from the loosest to the tightest, as pictures compare them: each a rung of a ladder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from autodual.certified import Certified
from autodual.certify import certify
from autodual.ladder import LP
from autodual.threat import Eps

STEPS = 20
"""In how many steps planes are optimised."""


@dataclass(frozen=True)
class Rung:
    """One way to bound a net.

    Attributes:
        name, colour: how a picture tells it.
        options: those of ``certify``.
        program: whether the linear program is solved over what these options relax.
    """

    name: str
    colour: str
    options: Mapping[str, Any] = field(default_factory=dict)
    program: bool = False

    def net(self, model: nn.Module, eps: Eps) -> Certified:
        """Return the model with this rung's bound."""
        net = certify(model, eps, **self.options)
        return net.by(LP(inside=None)) if self.program else net

    def lower(self, model: nn.Module, eps: Eps, x: Tensor, C: Tensor) -> Tensor:
        """Return lower bounds [N, S] on C z over the set, for rows C [S, K] or [N, S, K]."""
        with torch.no_grad():
            return self.net(model, eps).lower_bound(x, C)


THESIS: Mapping[str, Any] = {"bounds": "dual", "slopes": "equal"}

EQUAL = Rung("dual, equal slopes", "#2f7d3f", THESIS)
"""The thesis's own bound, equation 3.8 with the slopes u/(u − ℓ)."""

EQUAL_PROGRAM = Rung("linear program, same intervals", "#8fbc6f", THESIS, program=True)
"""The thesis's linear program 3.4, on the intervals of its own bound."""

FREE = Rung("dual, free slopes", "#4c72b0")
"""The default: for each line the best of a few slopes, and interval arithmetic beside."""

OPTIMISED = Rung("dual, optimised", "#8172b3", {"optimize": STEPS})
"""Theorem 1's maximum over the dual variables, in some steps, inside the net as well."""

PROGRAM = Rung("linear program", "#dd8452", {"optimize": STEPS}, program=True)
"""The linear program on the intervals of the optimised bound: never looser than that."""

INTERVALS = Rung("interval arithmetic", "#937860", {"bounds": "ibp"})
"""Layer by layer (thesis, 3.2.3)."""

LADDER = (EQUAL, FREE, OPTIMISED, PROGRAM)
"""From the thesis's bound up. Each is at least as tight as the one before, but for the first two:
free slopes are each the best of a few, and now and then equal ones are better together."""
