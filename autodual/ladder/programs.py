"""The rungs that HiGHS climbs: linear programs over the relaxed network, and over the whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autodual.bound.options import Steps
from autodual.ladder.base import Prepared, Solver
from autodual.ladder.bounds import dual_method
from autodual.threat import ThreatModel

if TYPE_CHECKING:
    from autodual.certified import Certified, Compiled


@dataclass(frozen=True)
class Program(Solver):
    """A solver that asks HiGHS.

    Args:
        inside: the steps in which intervals inside the network are tightened before, as for
            ``Optimised``; None for the net's own intervals.
    """

    inside: int | None = 10

    unit = "programs"

    def __post_init__(self) -> None:
        Steps(0, self.inside)

    def options(self, net: Certified) -> dict[str, Any]:
        """Tighten intervals."""
        steps = {} if self.inside is None else {"optimize": Steps(0, self.inside)}
        return {"method": dual_method(net), **steps}


@dataclass(frozen=True)
class LP(Program):
    """Linear programs over the convex outer polytope (thesis, 3.1.1); see ``Certified.lp``.

    Args:
        inside: as for ``Program``.
    """

    rounded = True

    def prepare(self, net: Certified, found: Compiled, threat: ThreatModel) -> Prepared:
        """Return the programs; raises unless they can say the set."""
        from autodual.ladder.highs import Linears  # scipy.optimize takes a while to import

        return Linears(self, net, found, threat)


@dataclass(frozen=True)
class MILP(Program):
    """Mixed-integer programs over the network itself, exact as far as HiGHS's tolerance goes.

    For affine ops, ops made of linear pieces, and maxima; over the sets that ``LP`` takes. Bounds
    are taken down by the tolerance, 1e-5 of 1 + |C·z| at the center.

    Args:
        inside: as for ``Program``.
    """

    unrounded = "HiGHS gives no proof of what it finds that could be evaluated anew."
    remarks = ("by mixed-integer programs, as far as HiGHS's tolerance of 1e-6 goes",)

    def prepare(self, net: Certified, found: Compiled, threat: ThreatModel) -> Prepared:
        """Return the programs; raises unless all ops have pieces and they can say the set."""
        from autodual.ladder.highs import Wholes  # scipy.optimize takes a while to import

        return Wholes(self, net, found, threat)
