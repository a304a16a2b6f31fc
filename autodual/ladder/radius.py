"""The largest radius at which a margin is positive, for each example (thesis, equation 3.29).

The thesis takes steps of Newton's method, with the bound's own derivative. Here a step reads the
slope off the values that are known: a backward pass takes longer than a value or two, and where
another class or another plane takes over, derivatives lead astray.
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
from autodual.working import working

if TYPE_CHECKING:
    from autodual.certified import Certified
    from autodual.inputs import Inputs

FAR = 1e6
"""Where the search for a radius that is too large ends."""

STEP = 1.1, 2.0, 16.0
"""By which factor the radius changes until it has a bracket: at least; at most up, and down."""

TRIES = 4
"""How many radii are tried at most for each halving that is asked for."""

WIDER = 4.0
"""How many times the largest certified radius attacks look at."""


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


class Brackets:
    """Brackets that narrow around the radii where margins vanish.

    A margin falls from what it is at radius 0 by about a power of the radius, so the search is for
    log fall = log margin, nearly straight in log radius. Until there is a bracket, the power is
    taken for 1, which goes a little too far each way. Then Chandrupatla's method (1997) narrows
    the bracket: it interpolates three points by an inverse parabola where that is safe, and
    halves elsewhere. An example is not asked about again when its bracket is narrow enough.

    Args:
        nominal: the margins [N] at radius 0.
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
        self.least = start * self.tolerance
        self.radius, self.found = torch.full_like(nominal, start), torch.zeros_like(nominal)
        self.open, self.tried = nominal > 0, torch.zeros_like(nominal, dtype=torch.long)
        self.bracketed = torch.zeros_like(self.open)
        empty = torch.full_like(self.nominal, torch.nan)
        self.a, self.b, self.c = empty, empty, empty  # log radius: the last tried, the other end
        self.fa, self.fb, self.fc = empty, empty, empty  # log (fall / nominal)

    def tell(self, index: Tensor, margins: Tensor) -> None:
        """Hear the margins [R] of the open examples ``index`` at ``radius``."""
        asked = torch.zeros_like(self.open).index_fill(0, index, True)
        margin = self.nominal.index_copy(0, index, margins.double()).nan_to_num(nan=-torch.inf)
        holds, first = margin > 0, self.fa.isnan()
        self.found = torch.where(asked & holds, self.found.maximum(self.radius), self.found)
        other = ~first & (holds != (self.fa < 0))  # a bracket, of the last two
        a, b, c = self.radius.double().log(), *_swapped(other | ~self.bracketed, self.b, self.a)
        fa, fb, fc = self._fall(margin), *_swapped(other | ~self.bracketed, self.fb, self.fa)
        for name, new in {"a": a, "b": b, "c": c, "fa": fa, "fb": fb, "fc": fc}.items():
            setattr(self, name, torch.where(asked, new, getattr(self, name)))
        self.bracketed = self.bracketed | (asked & other)
        self.tries, self.tried = self.tries - 1, self.tried + asked
        sought = torch.where(
            self.bracketed,
            (self.a - self.b).abs() > self.tolerance,
            torch.where(holds, self.radius <= FAR, self.radius > self.least),
        )
        self.open = self.open & (sought | ~asked) & (self.tries > 0)
        following = torch.where(self.bracketed, self._within(), self._beyond()).exp()
        self.radius = torch.where(self.open, following.to(self.radius), self.radius)

    @property
    def done(self) -> float:
        """How many examples are done, parts of them counted."""
        share = (self.a - self.b).abs().log() / math.log(self.tolerance)
        share = share.nan_to_num(0.0).clamp(0, 1).masked_fill(~self.bracketed, 0.0)
        return float(share.masked_fill(~self.open, 1.0).sum())

    def _fall(self, margin: Tensor) -> Tensor:
        """Return log (fall / nominal), within what can be calculated with."""
        return ((self.nominal - margin) / self.nominal).clamp(1e-6, 1e30).log()

    def _beyond(self) -> Tensor:
        """Return a log radius at which the margin should have the other sign."""
        least, up, down = map(math.log, STEP)
        return self.a + torch.where(
            self.fa < 0, (-self.fa).clamp(least, up), -self.fa.clamp(least, down)
        )

    def _within(self) -> Tensor:
        """Return a log radius within the bracket."""
        a, b, c, fa, fb, fc = self.a, self.b, self.c, self.fa, self.fb, self.fc
        xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
        safe = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
        parabola = fa / (fb - fa) * fc / (fb - fc)
        parabola = parabola + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
        line = fa / (fa - fb)
        share = torch.where(safe, parabola, torch.where(c.isnan(), line, 0.5))
        least = 0.5 * self.tolerance / (b - a).abs()
        return a + share.maximum(least).minimum(1 - least) * (b - a)


def largest(
    margins: Callable[[Tensor, Tensor], Tensor], nominal: Tensor, start: float, steps: int
) -> Tensor:
    """Return the largest radius [N] found at which margins are positive; 0 where none is.

    Each that is returned was tried, so the result is right whatever ``steps``.

    Args:
        margins: (radii [N], which examples [R]) → their margins [R].
        nominal, start, steps: as for ``Brackets``.

    Raises:
        Interrupted: Ctrl-C; ``partial`` [N] holds what was found until then.
    """
    search = Brackets(nominal, start, steps)
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

    def least(eps: Tensor, index: Tensor) -> Tensor:
        part, around = net.at(ball.with_eps(eps)).part(found, index)
        margins = net.margins_of(part, labels[index], around, goal=0)
        own = labels[index].unsqueeze(1)
        unasked = torch.zeros_like(margins, dtype=torch.bool)
        unasked = unasked.scatter(1, own.clamp(min=0), True) | (own == NONE)
        return margins.masked_fill(unasked, 1e30).flatten(1).amin(1)

    try:
        nominal = least(found.x.new_zeros(len(labels)), every)
    except Interrupted:
        raise KeyboardInterrupt from None  # which says of no ε that it is certified
    unlabelled = (labels.reshape(len(labels), -1) == NONE).all(1)
    closed = unlabelled if lost is None else unlabelled | lost
    nominal = nominal.masked_fill(closed, -torch.inf)
    start = float(torch.as_tensor(ball.eps).max()) or 1e-3
    with taking_notes() as notes:
        found_radius = largest(least, nominal, start, steps)
    notes.warn()
    return found_radius.masked_fill(unlabelled, torch.inf)


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


def _swapped(swap: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return x and y, and y and x where they are to be swapped."""
    return torch.where(swap, y, x), torch.where(swap, x, y)
