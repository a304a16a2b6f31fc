"""The largest radius at which all margins are positive, for each example (thesis, equation 3.29).

A margin falls from what it is at radius 0 by about a power of the radius, aεᵖ. Two radii tell a and
p of every class, and so where each margin should vanish: the least of these is tried next, a step
of Newton's in log ε whose slope is read off two values. (The derivative itself would cost a
backward pass, which takes longer than another value.) Each try lies a little beyond what is
expected, on the side where the bracket is wider, so that it closes from both sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autodual import attack
from autodual.attack.closest import MinimumNorm, fits
from autodual.bound.budget import taking_notes
from autodual.calls import check_count
from autodual.errors import InputError, Interrupted
from autodual.labels import NONE, Labels
from autodual.target import Target
from autodual.threat import Ball
from autodual.threat.base import wide
from autodual.working import working

if TYPE_CHECKING:
    from autodual.certified import Certified
    from autodual.inputs import Inputs

FAR = 1e6
"""Where the search for a radius that is too large ends."""

STEP = 1.1, 4.0, 16.0
"""By which factor the radius changes until it has a bracket: at least; at most up, and down."""

POWERS = 0.5, 8.0
"""Between which powers of the radius margins are taken to fall."""

PAST = 0.2
"""How far beyond the expected root a try lies, in parts of what that moved by."""

TRIES = 4
"""How many radii are tried at most for each halving that is asked for."""

WIDER = 4.0
"""How many times the largest certified radius attacks look at, where no domain ends."""


@dataclass(frozen=True, eq=False)
class Radii:
    """Between which radii each example stops to be robust.

    Attributes:
        lower: [N], certified; 0 where none is.
        upper: [N], at which an attack fools the model; ∞ where none was found.
        x: [N, *], the points that fool it.
    """

    lower: Tensor
    upper: Tensor
    x: Tensor


class Search:
    """Brackets that narrow around the radii where the first of several margins vanishes.

    Args:
        nominal: the margins [N, K] at radius 0.
        start: the first radius.
        steps: a bracket is narrow enough at 2^-steps of its upper end; the least radius sought
            is that part of ``start``.

    Attributes:
        radius: the next to be tried, [N].
        found: the largest that held so far, [N].
        open: which examples are still sought, [N].
        tried: how many radii of each were tried, [N].
    """

    def __init__(self, nominal: Tensor, start: float, steps: int) -> None:
        self.nominal, self.tolerance, self.tries = nominal.double(), 2.0**-steps, TRIES * steps
        least = nominal.amin(1)
        self.least, self.radius = start * self.tolerance, torch.full_like(least, start)
        self.found, self.open = torch.zeros_like(least), least > 0
        self.tried = torch.zeros_like(self.open, dtype=torch.long)
        empty = torch.full_like(least, torch.nan, dtype=torch.float64)
        self.low, self.high = empty.fill_(-torch.inf), torch.full_like(empty, torch.inf)
        self.width = torch.full_like(empty, torch.inf)  # of the bracket two tries ago, and one
        self.before = torch.full_like(empty, torch.inf)
        self.at = torch.full_like(empty, torch.nan)  # log of the last radius, and the falls there
        self.fall = torch.full_like(self.nominal, torch.nan)
        self.root = torch.full_like(empty, torch.nan)

    def tell(self, index: Tensor, margins: Tensor) -> None:
        """Hear the margins [R, K] of the open examples ``index`` at ``radius``."""
        a = self.radius[index].double().log()
        margins = margins.double().nan_to_num(nan=-torch.inf)
        holds = margins.amin(1) > 0
        radius = self.radius[index]
        self.found[index] = torch.where(holds, self.found[index].maximum(radius), self.found[index])
        low = torch.where(holds, self.low[index].maximum(a), self.low[index])
        high = torch.where(holds, self.high[index], self.high[index].minimum(a))
        root, error = self._expected(index, a, margins)
        bracketed = low.isfinite() & high.isfinite()
        ahead = torch.where(bracketed, self._within(index, low, high, root, error), 0)
        ahead = torch.where(bracketed, ahead, _beyond(a, root, error, holds))
        self.width[index], self.before[index] = self.before[index], high - low
        self.low[index], self.high[index], self.root[index] = low, high, root
        self.tried[index] += 1
        self.tries -= 1
        sought = torch.where(
            bracketed,
            high - low > self.tolerance,
            torch.where(holds, radius <= FAR, radius > self.least),
        )
        self.open[index] = sought & (self.tries > 0)
        self.radius[index] = torch.where(sought, ahead.exp().to(radius), radius)

    @property
    def done(self) -> float:
        """How many examples are done, parts of them counted."""
        share = (self.high - self.low).log() / math.log(self.tolerance)
        share = share.nan_to_num(0.0, neginf=0.0).clamp(0, 1)
        return float(share.masked_fill(~self.open, 1.0).sum())

    def _expected(self, index: Tensor, a: Tensor, margins: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log radius where a margin should vanish first, and how wrong that may be."""
        nominal = self.nominal[index]
        fall = ((nominal - margins) / nominal).clamp(1e-9, 1e30).log()
        rise = (fall - self.fall[index]) / (a - self.at[index]).unsqueeze(1)
        power = rise.nan_to_num(1.0, 1.0, 1.0).clamp(*POWERS)
        root = (a.unsqueeze(1) - fall / power).amin(1)
        error = (root - self.root[index]).abs().nan_to_num(torch.inf)
        self.at[index], self.fall[index] = a, fall
        return root, error

    def _within(
        self, index: Tensor, low: Tensor, high: Tensor, root: Tensor, error: Tensor
    ) -> Tensor:
        """Return a log radius within the bracket: past the root, towards its farther end."""
        width = high - low
        root = root.maximum(low).minimum(high)
        past = (PAST * error).minimum(width / 4).clamp(min=0.45 * self.tolerance)
        ahead = torch.where(high - root > root - low, root + past, root - past)
        slow = width > self.width[index] / 2
        return torch.where(slow, (low + high) / 2, ahead)


def _beyond(a: Tensor, root: Tensor, error: Tensor, holds: Tensor) -> Tensor:
    """Return a log radius at which the margin should have the other sign."""
    least, up, down = map(math.log, STEP)
    past = error.nan_to_num(0, 0, 0)
    higher, lower = (root + past - a).clamp(least, up), (root - past - a).clamp(-down, -least)
    return a + torch.where(holds, higher, lower)


def largest(
    margins: Callable[[Tensor, Tensor], Tensor], nominal: Tensor, start: float, steps: int
) -> Tensor:
    """Return the largest radius [N] found at which margins are positive; 0 where none is.

    Each that is returned was tried, so the result is right whatever ``steps``.

    Args:
        margins: (radii [N], which examples [R]) → their margins [R, K].
        nominal, start, steps: as for ``Search``.

    Raises:
        Interrupted: Ctrl-C; ``partial`` [N] holds what was found until then.
    """
    search = Search(nominal, start, steps)
    with working("radius", len(nominal), each=0) as bar:
        try:
            while bool(search.open.any()):
                index = search.open.nonzero().squeeze(1)
                search.tell(index, margins(search.radius, index))
                bar.reach(search.done)
        except KeyboardInterrupt:
            said = f"{search.done:.0f} of {len(nominal)} radii are found"
            raise Interrupted(search.found, said) from None
    return search.found


def radius(net: Certified, x: Tensor | Inputs, y: Labels | None, steps: int) -> Tensor:
    """Return the largest ε [N] that a net certifies; see ``Certified.radius``."""
    if net.options.estimator.delta:
        raise InputError("radius tries many ε; a δ for each does not add up. Use Exact().")
    if not isinstance(net.threat, Ball):
        raise InputError(f"{net.threat} has no radius; certify with a ball instead")
    steps, ball, found = check_count("steps", steps), net.threat, net.admitted(x, sound=True)
    labels = net.labels(found, y)
    every, lost = torch.arange(len(labels), device=found.x.device), found.undefined()

    def margins(eps: Tensor, index: Tensor) -> Tensor:
        part, around = net.at(ball.with_eps(eps)).part(found, index)
        margins = net.margins_of(part, labels[index], around, goal=0)
        own = labels[index].unsqueeze(1)
        unasked = torch.zeros_like(margins, dtype=torch.bool)
        unasked = unasked.scatter(1, own.clamp(min=0), True) | (own == NONE)
        return margins.masked_fill(unasked, 1e30).flatten(1)

    try:
        nominal = margins(found.x.new_zeros(len(labels)), every)
    except Interrupted:
        raise KeyboardInterrupt from None  # which says of no ε that it is certified
    if lost is not None:
        nominal = nominal.masked_fill(wide(lost, nominal), -torch.inf)
    start = float(torch.as_tensor(ball.eps).max()) or 1e-3
    with taking_notes() as notes:
        found_radius = largest(margins, nominal, start, steps)
    notes.warn()
    return found_radius


def attacked(net: Certified, x: Tensor | Inputs, y: Labels | None, radius: Tensor) -> Radii:
    """Return radii with those at which an attack fools the model; see ``Certified.radius``."""
    if not fits(net.threat):
        raise InputError(f"attacks find no radius of {net.threat}: leave attack=True out")
    found = net.admitted(x)
    target, labels = Target(net, found.inputs), net.labels(found, y)
    ball = net.threat
    assert isinstance(ball, Ball)
    most = WIDER * float(radius.max()) or WIDER * float(torch.as_tensor(ball.eps).max())
    near = target.attack(attack.minimum_norm, labels, ball.with_eps(most))
    assert isinstance(near, MinimumNorm)
    return Radii(radius, near.eps, near.x)
