"""The Wasserstein ball: mass moves between nearby pixels, at a price by distance."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from autodual.brief import brief
from autodual.errors import InputError
from autodual.interval import Interval
from autodual.rounding import gamma, least
from autodual.threat.ball import Ball
from autodual.threat.base import ROUNDING, Domain, wide
from autodual.threat.cheapest import least_cost
from autodual.threat.cut import Local
from autodual.threat.freight import Freight
from autodual.threat.nearest import nearest as nearest_point
from autodual.threat.polyhedron import Polyhedron
from autodual.threat.sinkhorn import ENTROPY, ITERATIONS, projected_sinkhorn
from autodual.threat.support import Problem, best_plan
from autodual.threat.transport import Moves

NEAREST = 30
"""Atoms of a projection."""

CLOSE = 5
"""Atoms of one that starts close by."""

FAR = 1e6
"""How far a point may lie, in units of the largest pixel, and be told from one even farther."""

PRICES = 15
"""How many plans a maximizer within a domain is the mean of."""

RATE = 0.5
"""How fast prices of pixels rise, in units of the direction's range."""

TINY = 1e-30


class Wasserstein(Ball):
    """{x′ : x′ = Πᵀ1 for a plan Π ≥ 0 with Π1 = x and ⟨Π, C⟩ ≤ ε·Σx} ∩ domain.

    ε is the cost per unit of mass, that of images of mass 1 (thesis, section 5.1): 0.5 moves half
    of all mass by one pixel. Mass stays within its channel; all channels share one budget. Inputs
    are [N, C, H, W], [N, C, L] or [N, D] and at least 0.

    The support is exact without a domain. A domain cuts what attacks may reach; the support then
    is an upper bound: the ball's, less what prices on overfull pixels save (``threat.prices``), or
    that of the box around the set, whichever is smaller.

    Args:
        eps: the radius, a number or a tensor [N] with one per example; finite, ≥ 0.
        kernel: mass moves within kernel × kernel pixels around its own; odd.
        p: moving by an offset costs ‖offset‖₂ᵖ per unit of mass.
        domain: (lo, hi), the smallest and largest value an input can take.
        cost: [n, n], what it costs to move mass from pixel i to pixel j of a channel with n
            pixels, instead of ``kernel`` and ``p``; at least 0, 0 on the diagonal, infinite where
            mass cannot move.

    Raises:
        InputError: an argument is not as said.
    """

    def __init__(
        self,
        eps: float | Tensor,
        kernel: int = 5,
        p: float = 1.0,
        domain: Domain | None = None,
        cost: Tensor | None = None,
    ) -> None:
        super().__init__(eps, domain)
        if kernel < 1 or kernel % 2 == 0:
            raise InputError(f"kernel={kernel}: give an odd number of pixels, at least 1")
        if not 0 < p < float("inf"):
            raise InputError(f"p={p}: give a finite number above 0")
        if cost is not None:
            cost = _checked_cost(cost)
        self.kernel, self.p, self.cost = kernel, p, cost
        self.symmetric, self.rounded = False, False

    def said(self, word: Callable[[object], str]) -> str:
        """Return the ball's name with ε, the domain and the cost."""
        costs = f"kernel={self.kernel}, p={self.p:g}"
        how = costs if self.cost is None else f"cost={brief(self.cost)}"
        return f"{super().said(word)[:-1]}, {how})"

    def with_eps(self, eps: float | Tensor) -> Wasserstein:
        """Return the same kind of ball with another radius."""
        return Wasserstein(eps, self.kernel, self.p, self.domain, self.cost)

    def reversed(self) -> Wasserstein:
        """Return the ball with the cost transposed: plans lead back, and mass stays the same."""
        if self.cost is None or torch.equal(self.cost, self.cost.mT):
            return self
        return Wasserstein(self.eps, self.kernel, self.p, self.domain, self.cost.mT)

    def check(self, x: Tensor) -> None:
        """Raise unless the set is well defined around every x [N, *]."""
        super().check(x)
        if not 2 <= x.dim() <= 4:
            raise InputError(
                f"x has shape {list(x.shape)}: a Wasserstein ball needs [N, C, H, W], [N, C, L] "
                "or [N, D]"
            )
        pixels = x[0].numel() if x.dim() == 2 else x[0, 0].numel()
        if self.cost is not None and len(self.cost) != pixels:
            raise InputError(
                f"cost has shape {list(self.cost.shape)} and a channel {pixels} pixels: give "
                f"[{pixels}, {pixels}]"
            )
        if bool((x < -ROUNDING * x.flatten(1).abs().amax().clamp(min=1e-3)).any()):
            raise InputError(
                f"x has entries below 0, down to {float(x.min()):.4g}, and mass cannot be "
                "negative. Put the input's normalisation inside the model."
            )

    def center(self, x: Tensor) -> Tensor:
        """Return x itself, moved into the domain and up to 0."""
        return self.clamp(x).clamp(min=0)

    def moves(self, x: Tensor) -> Moves:
        """Return where the mass of an example may move, and at what cost."""
        if self.cost is not None:
            return Moves.matrix(self.cost, x.shape[1:], x)
        return Moves.windows(x.shape[1:], self.kernel, self.p, x)

    def budget(self, x: Tensor, moves: Moves) -> Tensor:
        """Return ε·Σx [N], or what moves all mass as far as possible if that is less."""
        mass = self.center(x).flatten(1).sum(1)
        if self.rounded:
            count = x[0].numel() + 8 * len(moves.target) + 16 * math.ceil(self.p)
            mass = mass * (1 + gamma(count, x.dtype))
        return mass * self.radius(x).flatten().clamp(max=2 * float(moves.cost.max()) + 1)

    def deviation(self, x: Tensor, nu: Tensor) -> Tensor:
        """Return sup νᵀ(x′ − x), or with a domain a bound on it (``threat.support``)."""
        return self._freight(x).deviation(nu)

    def local(self, x: Tensor) -> Local | None:
        """Return the ball as rows see it, if mass moves within windows."""
        return self._freight(x) if self.cost is None else None

    def polyhedron(self, x: Tensor) -> Polyhedron:
        """Return the plan: how much mass takes each move, at ε·Σx in all."""
        moves = self.moves(x)
        return moves.polyhedron(self.center(x).flatten(), self.budget(x, moves))

    def _freight(self, x: Tensor) -> Freight:
        moves, mass = self.moves(x), self.center(x)
        alive, budget = torch.ones_like(x[:1]), self.budget(x, moves).expand(len(x))
        if self.domain is None:
            return Freight(moves, x.shape[1:], mass, alive, budget)
        box, high = self.interval(x), self.domain_of(x)[1].expand_as(x)
        down, up = mass - box.lower, box.upper - mass
        return Freight(moves, x.shape[1:], mass, alive, budget, high, down, up, self.rounded)

    def _best_plan(self, x: Tensor, moves: Moves, nu: Tensor) -> Tensor:
        """Return the plan [N, J, D] that is best for nu [N, D] where no domain is."""
        lanes = moves.lanes(x.shape[1:])
        images = nu.reshape(x.shape), self.center(x), torch.ones_like(x)
        cells, mass, alive = (lanes.flat(t.unsqueeze(1), 0.0) for t in images)
        budget = self.budget(x, moves).expand(len(x)).unsqueeze(1)
        return best_plan(Problem.of(lanes, cells, mass, alive, budget, False))

    def outward(self, x: Tensor) -> Ball:
        """Return the ball with a larger budget, by more than rounding does.

        For a price ψ, mass that gains ν at a cost C is worth ν − ψC. What is computed of that is
        worth it exactly for gains and costs that are off by a few u of their own size, and such
        change the support by as small a part of it, however much cancels. What a domain saves of
        it is counted in ``threat.prices``.
        """
        twin = self.rounded_up(x)
        assert isinstance(twin, Wasserstein)
        twin.rounded = True
        return twin

    def interval(self, x: Tensor) -> Interval:
        """Return the smallest box around the set: each pixel drained, or filled from around it."""
        moves, center = self.moves(x), self.center(x)
        mass, budget = center.flatten(1), self.budget(x, moves).expand(len(x))
        around, price = moves.arrivals(mass)
        price, order = price.sort(dim=0)
        around = around.gather(1, order.expand_as(around))
        left, upper = budget[:, None].expand_as(mass), torch.zeros_like(mass)
        for amount, cost in zip(around.unbind(1), price.unbind(0), strict=True):
            paid = left / torch.where(cost > 0, cost, 1)
            got = torch.where(cost > 0, torch.minimum(amount, paid), amount)
            left, upper = left - got * cost, upper + got
        there = moves.target[1:] < mass.shape[1]
        exits = moves.cost[1:].expand_as(there).masked_fill(~there, torch.inf)
        nearest = exits.amin(0) if len(exits) else torch.full_like(mass[0], torch.inf)
        free = nearest <= 0
        gone = (budget[:, None] / torch.where(free, 1, nearest)).masked_fill(free, torch.inf)
        lower = (mass - gone).clamp(min=0)
        if self.rounded:
            lower = (lower - gamma(1, x.dtype) * mass).clamp(min=0)
            upper = upper * (1 + gamma(2 * len(moves.target), x.dtype)) + least(x.dtype)
        return Interval(lower, upper).map(lambda end: self.clamp(end.reshape(x.shape)))

    def maximizer(self, x: Tensor, direction: Tensor, prices: int = PRICES) -> Tensor:
        """Return the point of the ball at which directionᵀx′ is largest (thesis, section 5.1.6).

        With a domain the point is only close to that: pixels that would overflow get a price,
        which rises and falls over so many plans, and mass that finds no room on the way of their
        mean stays where it is.
        """
        moves = self.moves(x)
        nu, mass = direction.flatten(1), self.center(x).flatten(1)
        if self.domain is None:
            return self._land(x, moves, self._best_plan(x, moves, nu))
        high = self.domain_of(x)[1].expand_as(x).flatten(1)
        price, mean = torch.zeros_like(nu), torch.zeros_like(mass[:, None])
        unit = nu.amax(1, keepdim=True) - nu.amin(1, keepdim=True)
        for t in range(prices):
            plan = self._best_plan(x, moves, nu - price)
            over = (moves.land(plan) - high) / mass.amax(1, keepdim=True).clamp(min=TINY)
            price = (price + RATE / (t + 1) ** 0.5 * unit * over.clamp(-1, 1)).clamp(min=0)
            mean = mean + (plan - mean) * (2 / (t + 2))
        return self._land(x, moves, mean)

    def project(
        self, x: Tensor, point: Tensor, steps: int = NEAREST, start: Tensor | None = None
    ) -> Tensor:
        """Return the nearest point of the ball (``threat.nearest``); points inside are kept.

        With a domain the maximizer is not exact, and the result a point near ``point``.

        Args:
            x, point: [N, *].
            steps: atoms to find: many make it exact, few leave it inside and close.
            start: points of the ball to search from, the closer the better; x if not given.
        """
        outside = (~self.contains(x, point)).nonzero().squeeze(1)
        if len(outside) == 0:
            return point
        ball = self.with_eps(self.radius(x).flatten().expand(len(x))[outside])
        images, start = x[outside], self.center(x) if start is None else start
        far = FAR * (1 + x.abs().max())

        def best(direction: Tensor) -> Tensor:
            return ball.maximizer(images, direction.reshape(images.shape), prices=4).flatten(1)

        aim = point[outside].clamp(-far, far).flatten(1)
        near = nearest_point(aim, start[outside].flatten(1), best, steps).reshape(images.shape)
        return point.index_copy(0, outside, self.clamp(near))

    def steepest(
        self,
        x: Tensor,
        gradient: Tensor,
        generator: torch.Generator | None = None,
        point: Tensor | None = None,
    ) -> Tensor:
        """Return the step from ``point`` to the maximizer: any part of it stays in the ball."""
        return self.maximizer(x, gradient) - (x if point is None else point)

    def advance(
        self,
        x: Tensor,
        point: Tensor,
        gradient: Tensor,
        rate: float | Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return a point on the way to the maximizer, or that itself for a ``rate`` from 1 on.

        The set is convex: nothing has to be projected.
        """
        rate = torch.as_tensor(rate, dtype=x.dtype, device=x.device).clamp(max=1)
        return point.lerp(self.maximizer(x, gradient), rate)

    def extend(self, x: Tensor, point: Tensor, step: Tensor) -> Tensor:
        """Return a point between ``point`` and the projection of ``point + step``, after few atoms.

        Most steps of an attack end inside, and the others not far from ``point``.
        """
        return self.project(x, point + step, CLOSE, start=point)

    def random_start(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return a random point between x and the maximizer of a random function."""
        noise = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        share = torch.rand(len(x), dtype=x.dtype, device=x.device, generator=generator)
        center = self.center(x)
        return center + wide(share, x) * (self.maximizer(x, noise) - center)

    def distance(self, x: Tensor, point: Tensor) -> Tensor:
        """Return the cost of the cheapest plan from x to x′, per unit of mass: a linear program.

        Exact, by scipy on the CPU, one example at a time. Infinite if no plan leads there.
        """
        moves = self.moves(x)
        costs = [
            least_cost(moves, *pair)
            for pair in zip(self.center(x).flatten(1), point.flatten(1), strict=True)
        ]
        return x.new_tensor(costs)

    def contains(self, x: Tensor, point: Tensor, tolerance: float = 1e-5) -> Tensor:
        """Return [N] bool: whether each point lies in the ball and the domain."""
        eps = self.radius(x).flatten()
        lo, hi = self.domain_of(x)
        slack = tolerance * x.abs().amax().clamp(min=torch.finfo(x.dtype).tiny)
        inside = ((point >= lo - slack) & (point <= hi + slack)).flatten(1).all(1)
        return inside & (self.distance(x, point) <= eps + tolerance * (1 + eps))

    def sinkhorn(
        self, x: Tensor, point: Tensor, lam: float = ENTROPY, iterations: int = ITERATIONS
    ) -> Tensor:
        """Return a point of the ball near ``point`` by the thesis's Algorithm 8.

        Blurred by entropy: points inside are moved, the less the larger λ is.

        Args:
            x, point: [N, *].
            lam: λ of equation 5.4, for images of mass 1.
            iterations: rounds of steps.
        """
        moves = self.moves(x)
        mass, budget = self.center(x).flatten(1), self.budget(x, moves).expand(len(x))
        plan = projected_sinkhorn(moves, mass, point.flatten(1), budget, lam, iterations)
        return self._land(x, moves, plan)

    def _land(self, x: Tensor, moves: Moves, plan: Tensor) -> Tensor:
        """Return where a plan [N, J, D] leads, kept within the domain."""
        mass = self.center(x).flatten(1)
        if self.domain is None:
            end = moves.land(plan).clamp(min=0)
        else:
            lo, hi = (end.expand_as(x).flatten(1) for end in self.domain_of(x))
            end = moves.land_within(plan, mass, lo, hi)
        return self.clamp(end.reshape(x.shape))


def _checked_cost(cost: Tensor) -> Tensor:
    cost = torch.as_tensor(cost)
    if cost.dim() != 2 or cost.shape[0] != cost.shape[1]:
        raise InputError(f"cost has shape {list(cost.shape)}: give [n, n] for n pixels a channel")
    if bool(cost.isnan().any() | (cost < 0).any() | (cost.diagonal() != 0).any()):
        raise InputError("cost must be at least 0, with 0 on the diagonal: mass may stay")
    return cost
