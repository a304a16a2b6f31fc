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

from autodual.threat.convex import STEPS, Least, least
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
        dead: [R or 1, 1, P], −∞ where there is none and 0 where there is.
        idle: [R, 1, P], −∞ where gains do not matter and else 0.
        budget: [R, 1].
    """

    lanes: Lanes
    nu: Tensor
    mass: Tensor
    dead: Tensor
    idle: Tensor
    budget: Tensor

    @staticmethod
    def of(
        lanes: Lanes, nu: Tensor, mass: Tensor, alive: Tensor, budget: Tensor, all_sources: bool
    ) -> Problem:
        """Return the problem where ``alive`` is 1 at pixels and 0 elsewhere.

        Only sources with mass count, unless a gradient for the mass wants ``all_sources``.
        """
        dead = alive.log()
        idle = dead if all_sources else mass.detach().sign().log()
        return Problem(lanes, nu, mass, dead, idle, budget)

    def detach(self) -> Problem:
        """Return it without gradients."""
        nu, mass, budget = (t.detach() for t in (self.nu, self.mass, self.budget))
        return replace(self, nu=nu, mass=mass, budget=budget)

    @cached_property
    def picture(self) -> Tensor:
        """ν as moves see it: −∞ where no mass may go."""
        return self.lanes.lay(self.nu + self.dead, -torch.inf)

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
        own = self.nu - self.idle
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
    def least(self, guess: Tensor | None = None, steps: int = STEPS) -> Least:
        """Find the best price, or a good one after few steps from a guess."""
        right = torch.zeros_like(self.nu[..., 0])
        for gain, (cost, _) in zip(self.gains, self.lanes.groups, strict=True):
            gain, cost = (gain, cost) if cost.dim() else (gain.amax(2, keepdim=True), cost)
            right = torch.maximum(right, torch.where(cost > 0, gain / cost, 0).amax(2))
        return least(self.priced, right * (1 + MARGIN), guess, steps)

    def sent(self, found: Least) -> Iterator[tuple[int, Tensor]]:
        """Yield each move and the mass [R, S, P] that takes it in the best mixture of plans.

        The last is to stay. Within a group the best move is the same for any price.
        """
        left = self.mass.expand_as(self.nu).clone()
        names = torch.arange(1, 1 + len(self.gains), dtype=left.dtype, device=left.device)
        ends = [self.best(price, list(names))[1] for price in (found.right, found.left)]
        share = found.share.unsqueeze(2)
        for name, top, (_, moves) in zip(names, self.tops, self.lanes.groups, strict=True):
            high, low = (end.clone().eq_(name) for end in ends)
            amount = high.lerp_(low, share).mul_(self.mass)
            for move in moves:
                taken = self.lanes.see(self.picture, move).clone().eq_(top).mul_(amount)
                amount.sub_(taken)
                left.sub_(taken)
                yield move, taken
        yield 0, left

    def arrivals(self, found: Least) -> Tensor:
        """Return where the mass is after that, [R, S, P]."""
        picture = torch.zeros_like(self.picture)
        for move, mass in self.sent(found):
            self.lanes.land(picture, move, mass)
        return self.lanes.cells(picture)


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
    sent = {m: problem.lanes.pixels(mass.clone()) for m, mass in problem.sent(problem.least())}
    return torch.cat([sent[move] for move in sorted(sent)], dim=1)
