"""Sub-problems seek their best bound: planes, multipliers of intervals, and a mean of their rows.

At every point of a sub-problem ℓ ≤ z ≤ u for the values z inside, so that for any μ

    Σ λₛ gₛ  ≥  min over the relaxation of  Σ λₛ gₛ + Σ μ z − μ₊ u − μ₋ ℓ,

with λ ≥ 0, Σ λ = 1 the weights of a case's rows g: Theorem 1's dual with one more term for each
interval that is narrower than the relaxation knows, those of units that were split (β-CROWN). All
of it is improved by steps along the signs of the gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from autodual.bound.estimators.optimised import Mixture
from autodual.bound.layer import Layer
from autodual.bound.reading import known
from autodual.bound.relaxation import Relaxation
from autodual.bound.rows import Memo, Rows, Specs, to_dense
from autodual.bound.travel import at_entry, journey
from autodual.duals.relaxed import Product
from autodual.front.ir import Value
from autodual.interval import Interval
from autodual.threat.base import wide
from autodual.verifier.around import Around
from autodual.verifier.rounding import room
from autodual.working import check_time

RATE, END = 0.3, 0.02
"""How far shares move in the first step, and in the last; multipliers, as parts of their rows."""


@dataclass(eq=False)
class Point:
    """Where some sub-problems are on their way, M of them.

    Attributes:
        shares: of the other planes around each op, [M, *] each, by the value that it computes.
        multipliers: μ, [M, *] by the value whose interval it is.
        weights: log λ, [M, S].
        losses: what each entry of an op took from the bound at last, [M, *].
        corner: where the relaxation was least at last, [M, *]; None where it is level.
    """

    shares: dict[Value, Sequence[Tensor]]
    multipliers: dict[Value, Tensor]
    weights: Tensor
    losses: dict[Value, Tensor] = field(default_factory=dict)
    corner: Tensor | None = None

    @property
    def leaves(self) -> list[Tensor]:
        """All that moves."""
        shares = [share for some in self.shares.values() for share in some]
        return [*shares, *self.multipliers.values(), self.weights]


@dataclass(frozen=True, eq=False)
class Ascent:
    """What some sub-problems share on their way.

    Attributes:
        network: relaxed for each of them.
        specs: their rows [M, S, *] by value, and ``offset`` [M, S] less: g = C z − d.
        intervals: [M, *] per value, in which μ may stand on an end where ``narrowed`` says so.
        around: the input's set, if that is no box.
    """

    network: Relaxation
    specs: Mapping[Value, Tensor]
    offset: Tensor
    intervals: Mapping[Value, Interval]
    narrowed: Mapping[Value, tuple[Tensor, Tensor]]
    around: Around | None = None

    def run(self, point: Point, steps: int) -> Tensor:
        """Take steps; return the best bounds [M], and leave in ``point`` where they ended."""
        best = torch.full_like(self.offset[:, 0], -torch.inf)
        for step in range(steps + 1):
            check_time()
            moving = step < steps
            for leaf in point.leaves:
                leaf.requires_grad_(moving)
            with torch.set_grad_enabled(moving):
                bound, sizes = self._bound(point)
            best = torch.fmax(best, bound.detach())
            if not moving or bool((best > 0).all()):
                break
            ones = torch.ones_like(bound)
            slopes = torch.autograd.grad(bound, point.leaves, ones, allow_unused=True)
            self._move(point, slopes, sizes, RATE * (END / RATE) ** (step / max(steps, 1)))
        for leaf in point.leaves:
            leaf.requires_grad_(False)
        return best

    def _bound(self, point: Point) -> tuple[Tensor, dict[Value, Tensor]]:
        """Return bounds [M], and how large rows are at the values that have multipliers."""
        weights = point.weights.softmax(1)
        rows = {v: _weighed(weights, c).reshape(-1, *v.size(1)) for v, c in self.specs.items()}
        total = -(weights * self.offset).sum(1)
        size = (weights * self.offset.abs()).sum(1).detach()  # of all terms: what is rounded
        for value, mu in point.multipliers.items():
            box = self.intervals[value]
            ends = (mu.clamp(min=0) * box.upper + mu.clamp(max=0) * box.lower).flatten(1)
            total, size = total - ends.sum(1), size + ends.detach().abs().sum(1)
            rows[value] = rows[value] + mu if value in rows else mu
        for value, row in rows.items():
            terms = row.flatten(1) * self.network.nominal(value).flatten(1)
            total, size = total + terms.sum(1), size + terms.detach().abs().sum(1)
        seeds = Specs.per_example(
            {v: -row.reshape(len(row), 1, *v.size(1)) for v, row in rows.items()}
        )
        mixture = _Sized(dict(point.shares))
        start = seeds.rows(self.network.x)
        memo, entry = Memo(False, 0), self.network.entry
        far, end = journey(self.network, start, memo, through=mixture)
        if end is not None:
            far = far + at_entry(entry, end, memo, False)[0]
            if not torch.is_grad_enabled():  # the last step
                nu = to_dense(end).full().reshape(len(far), *entry.x.shape[1:])
                point.corner = self._corner(nu)
        point.losses, point.shares = mixture.losses, mixture.shares
        if self.network.plan.rounding is not None:
            return known(self._outward(point, weights, [*rows], total, size, far)), mixture.sizes
        rounding = room(far.dtype) * (size + far.detach().abs())
        return known(total - far - rounding), mixture.sizes

    def _outward(
        self,
        point: Point,
        weights: Tensor,
        values: Sequence[Value],
        total: Tensor,
        size: Tensor,
        far: Tensor,
    ) -> Tensor:
        """Return bounds [M] that hold whatever was rounded in rows, in ``total`` and in ``far``.

        Weights need not add up to 1: if a weighted sum of rows is positive, one of them is.
        """
        met = {self.network.entry.value, *point.multipliers}  # where a row alone meets others
        parts = {
            v: _weighed(weights, c.abs())
            for v, c in self.specs.items()
            if weights.shape[1] > 1 or v in met
        }
        for value, mu in point.multipliers.items():
            own = mu.abs().flatten(1)
            parts[value] = parts[value].flatten(1) + own if value in parts else own
        index = torch.arange(len(far), device=far.device)
        lost = self.network.joined(parts, index, weights.shape[1] + 1)
        more = self.offset.shape[1] + sum(v.numel for v in point.multipliers)
        return self.network.below(values, total, size, far + lost, index, more)

    def _corner(self, nu: Tensor) -> Tensor | None:
        """Return where in the input's set rows ν₁ [M, *] are largest, if the set can say."""
        entry = self.network.entry
        if self.around is None:
            assert entry.weights is not None
            return entry.reference + nu.sign() * entry.weights
        return self.around.farthest(nu) if self.around.attackable else None

    def _move(
        self, point: Point, slopes: tuple[Tensor | None, ...], sizes: dict[Value, Tensor], by: float
    ) -> None:
        """Take a step."""
        found = iter(slopes)
        with torch.no_grad():
            for share in (share for some in point.shares.values() for share in some):
                if (slope := next(found)) is not None:
                    share.add_(slope.sign(), alpha=by).clamp_(0, 1)
            for value, mu in point.multipliers.items():
                slope = next(found)
                if slope is not None and value in sizes:  # ops known by intervals alone lead none
                    mu.add_(slope.sign() * sizes[value], alpha=by)
                    low, high = self.narrowed[value]
                    mu.mul_(torch.where(mu > 0, high, low))
            if (slope := next(found)) is not None and point.weights.shape[1] > 1:
                spread = slope.abs().amax(1, keepdim=True).clamp(min=1e-30)
                point.weights.add_(slope / spread, alpha=4 * by)


@dataclass(eq=False)
class _Sized(Mixture):
    """Means of planes that note how large rows are where they meet an op."""

    sizes: dict[Value, Tensor] = field(default_factory=dict)

    def __call__(
        self, layer: Layer, rows: Rows, memo: Memo
    ) -> tuple[Sequence[Rows], Tensor | None]:
        """Lead rows through a layer."""
        pulled, far = Mixture.__call__(self, layer, rows, memo)
        if layer.facets:
            size = rows.full().detach().abs()
            self.sizes |= dict.fromkeys(layer.step.variables, _with_mean(size))
        elif isinstance(layer.relaxed, Product) and layer.radius is not None:
            self.losses[layer.value] = rows.full().detach().abs() * rows.own(layer.radius, memo)
            for value, own in zip(layer.step.variables, pulled, strict=True):
                self.sizes[value] = _with_mean(own.full().detach().abs())
        return pulled, far


def _with_mean(size: Tensor) -> Tensor:
    """Return sizes [M, *] and their mean on top."""
    return size + wide(size.flatten(1).mean(1), size)


def _weighed(weights: Tensor, rows: Tensor) -> Tensor:
    """Return Σ λₛ cₛ for weights [M, S] and rows [M, S, *]."""
    return torch.bmm(weights.unsqueeze(1), rows.flatten(2)).squeeze(1)
