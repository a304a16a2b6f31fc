"""The support function of a transport ball: a convex minimum over one price.

For rows ν, masses x and a budget b, duality in ⟨Π, C⟩ ≤ b gives, for every price ψ ≥ 0,

    sup {νᵀ(Πᵀ1 − x) : Π ≥ 0, Π1 = x, ⟨Π, C⟩ ≤ b} ≤ ψb + Σᵢ xᵢ maxⱼ(νⱼ − νᵢ − ψCᵢⱼ),

with equality at the best ψ. Two plans are optimal there: for a price just below it the mass spends
at least the budget, just above it at most that, and a mixture of the two spends it exactly. Held
constant, prices and plans give the gradient (envelope theorem).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.linalg import vecdot

from autodual.threat.convex import Least, least
from autodual.threat.lanes import Lanes

MARGIN = 1e-6
"""How far above the largest gain per cost the search for the price begins: nothing moves there."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What mass may gain: S rows for each of R examples, cell by cell.

    Attributes:
        lanes: the moves between P cells.
        nu: [R, S, P].
        mass: [R, 1, P], 0 where there is no pixel.
        alive: [R or 1, 1, P], whether there is one.
        budget: [R, 1].
        all_sources: whether pixels without mass count, as gradients for the mass want it.
    """

    lanes: Lanes
    nu: Tensor
    mass: Tensor
    alive: Tensor
    budget: Tensor
    all_sources: bool = False

    def detach(self) -> Problem:
        """Return it without gradients."""
        nu, mass, budget = (t.detach() for t in (self.nu, self.mass, self.budget))
        return replace(self, nu=nu, mass=mass, budget=budget)

    @cached_property
    def picture(self) -> Tensor:
        """ν as moves see it: −∞ where no mass may go."""
        return self.lanes.lay(self.nu.masked_fill(~self.alive, -torch.inf), -torch.inf)

    @cached_property
    def tops(self) -> Sequence[Tensor]:
        """The largest ν that the moves of each group lead to, [R, S, P]."""
        found = []
        for _, moves in self.lanes.groups:
            top = self.lanes.see(self.picture, moves[0]).clone()
            for move in moves[1:]:
                top = torch.maximum(top, self.lanes.see(self.picture, move), out=top)
            found.append(top)
        return found

    @cached_property
    def gains(self) -> Sequence[Tensor]:
        """What a unit of mass gains at best by the moves of each group; −∞ where there is none."""
        idle = ~self.alive if self.all_sources else self.mass <= 0
        own = self.nu.masked_fill(idle, torch.inf)
        return [top - own for top in self.tops]

    def best(self, price: Tensor, wanted: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return max(0, gain − ψ·cost), and what is ``wanted`` of the group that reaches it."""
        best, found = torch.zeros_like(self.nu), torch.zeros_like(self.nu)
        price = price.unsqueeze(2)
        for gain, (cost, _), want in zip(self.gains, self.lanes.groups, wanted, strict=True):
            value = gain - price * cost
            found.lerp_(want, value.clone().gt_(best))  # 1 or 0; masks of bool are slow
            torch.maximum(best, value, out=best)
        return best, found

    def priced(self, price: Tensor) -> tuple[Tensor, Tensor]:
        """Return ψb + Σᵢ xᵢ maxⱼ(νⱼ − νᵢ − ψCᵢⱼ) and its slope in ψ, [R, S]."""
        best, spent = self.best(price, [cost for cost, _ in self.lanes.groups])
        value = price * self.budget + vecdot(self.mass, best)
        return value, self.budget - vecdot(self.mass, spent)

    @torch.no_grad()
    def least(self) -> Least:
        """Find the best price."""
        right = torch.zeros_like(self.nu[..., 0])
        for gain, (cost, _) in zip(self.gains, self.lanes.groups, strict=True):
            right = torch.maximum(right, torch.where(cost > 0, gain / cost, 0).amax(2))
        return least(self.priced, right * (1 + MARGIN))

    def sent(self, price: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield each move and the mass [R, S, P] that takes it at a price; last those that stay."""
        left = self.mass.expand_as(self.nu).clone()
        names = torch.arange(1, 1 + len(self.gains), dtype=left.dtype, device=left.device)
        _, group = self.best(price, list(names))
        for name, top, (_, moves) in zip(names, self.tops, self.lanes.groups, strict=True):
            amount = group.clone().eq_(name).mul_(left)
            for move in moves:
                taken = self.lanes.see(self.picture, move).clone().eq_(top).mul_(amount)
                amount.sub_(taken)
                left.sub_(taken)
                yield move, taken
        yield 0, left

    def arrivals(self, found: Least) -> Tensor:
        """Return where the mass is after the best mixture of plans, [R, S, P]."""
        images = []
        for price in (found.right, found.left):
            picture = torch.zeros_like(self.picture)
            for move, mass in self.sent(price):
                self.lanes.land(picture, move, mass)
            images.append(self.lanes.cells(picture))
        return images[0].lerp(images[1], found.share.unsqueeze(2))


def differentiable(problem: Problem, found: Least) -> Tensor:
    """Return the bound [R, S] with its gradient at the price and the plans found."""
    value = found.value + (0 * problem.nu.detach()).sum(2)  # NaN where ν is not finite
    if not torch.is_grad_enabled():
        return value
    with torch.no_grad():
        image = problem.arrivals(found)
        best, _ = problem.best(found.price, [cost for cost, _ in problem.lanes.groups])
    total = vecdot(image - problem.mass.detach(), problem.nu)
    total = total + vecdot(best, problem.mass) + found.price * problem.budget
    return total + (value - total).detach()


@torch.no_grad()
def best_plan(problem: Problem) -> Tensor:
    """Return the plan [R, J, D] that reaches the support of one row per example."""
    found, lanes = problem.least(), problem.lanes
    plans = []
    for price in (found.right, found.left):
        by_move = {move: lanes.pixels(mass.clone()) for move, mass in problem.sent(price)}
        plans.append(torch.cat([by_move[move] for move in sorted(by_move)], dim=1))
    return plans[0].lerp(plans[1], found.share.unsqueeze(2))
