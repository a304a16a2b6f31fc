"""What bounds answer, as certificates: margins with what must be said beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from autodual.bound.budget import Notes, taking_notes
from autodual.bound.widening import widened
from autodual.certificate import Certificate, Estimate
from autodual.errors import Interrupted
from autodual.front.arguments import one_sided
from autodual.interrupts import finish
from autodual.threat import ThreatModel

if TYPE_CHECKING:
    from autodual.certified import Certified, Compiled

Found = TypeVar("Found")

VACUOUS = 1e6
"""How many times the size of the outputs at x margins may lie below zero and still tell something:
beyond, ε would have to be about a millionth for a net that is linear."""


def answered(
    net: Certified,
    found: Compiled,
    ask: Callable[[], Found],
    margins: Callable[[Found], Tensor],
    y: Tensor | None,
    looks: int = 1,
) -> Certificate | Estimate:
    """Say what bounds answer, as margins, and where those are vacuous why."""
    with taking_notes() as notes:
        answer = finish(ask, lambda a: _answer(net, found, margins(a), y, notes, looks))
    try:
        remarks = () if y is None else one_sided(found.graph)
        remarks += _vacuous(answer.margins, found, net.around(found))
    except KeyboardInterrupt:
        raise Interrupted(answer, "every example is finished") from None
    return replace(answer, remarks=(*answer.remarks, *remarks)) if remarks else answer


def _answer(
    net: Certified,
    found: Compiled,
    margins: Tensor,
    y: Tensor | None,
    notes: Notes,
    looks: int = 1,
) -> Certificate | Estimate:
    """Say what margins are: made by bounds that ``looks`` times had a chance to be wrong."""
    said = (found.known(margins), y, str(net.threat), net.method)
    caveats = found.program.caveats
    beside: Any = {
        "remarks": (*notes.remarks(), *net.solver.remarks),
        "over_budget": tuple(notes.over),
        "eps": net.threat.own_eps(found.x),
    }
    if caveats:
        return Estimate(*said, caveats, **beside)
    chances = looks * len(net.threat.members)
    delta, rounding = net.options.estimator.delta * chances, net.options.rounding
    return Certificate(*said, delta, rounding, **beside)


def _vacuous(margins: Tensor, found: Compiled, threat: ThreatModel) -> tuple[str, ...]:
    """Say for how many examples margins are so low that they tell nothing, and from where on."""
    z = found.graph.output.per_example(found.output(), len(found.x)).flatten(1)
    scale = z.abs().amax(1).clamp(min=torch.finfo(z.dtype).tiny)
    fall = -margins.flatten(1).amin(1) / scale  # NaN where z is not finite
    low = z.isfinite().all(1) & (fall > VACUOUS)
    count = int(low.sum())
    if not count:
        return ()
    worst = fall.masked_fill(~low, 0).argmax().reshape(1)
    infinite = bool(margins[worst].isneginf().any())
    where = widened(found.program, found.env, threat, worst, VACUOUS, infinite)
    where = where and f"; in example {int(worst)} {where}"
    return (
        f"vacuous for {count} of {len(z)} examples: margins are −∞, or lie below zero by more than "
        f"{VACUOUS:g} times the outputs at x{where}; take a smaller ε or another net, or look at "
        "the intervals, relax(x).boxes",
    )
