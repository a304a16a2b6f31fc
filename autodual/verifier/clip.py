"""What linear functions below the rows of a case say about a box: where all may be ≤ 0 at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from autodual.verifier.rounding import room

ROUNDS = 2
"""How often all coordinates are cut: each cut makes the next one's rest larger."""

WEIGHINGS = 8
"""How many combinations of rows are tried where none alone is positive."""

RATE = 2.0
"""How far the weights' logarithms move in the first step."""


@dataclass(frozen=True, eq=False)
class Lines:
    """Aₛ x + bₛ, below row s of each of B cases on its box: A [B, S, n], b [B, S]."""

    A: Tensor
    b: Tensor

    def select(self, index: Tensor) -> Lines:
        """Return those of some boxes, which may repeat."""
        return Lines(self.A[index], self.b[index])

    def least(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Return the least value of each row on boxes [B, n], less what rounding may do, [B, S]."""
        low = torch.minimum(self.A * lower.unsqueeze(1), self.A * upper.unsqueeze(1))
        return low.sum(2) + self.b - self._slack(lower, upper)

    def corner(self, lower: Tensor, upper: Tensor, row: Tensor) -> Tensor:
        """Return where one row [B] of each is least, [B, n]."""
        slope = self.A[torch.arange(len(self.A), device=row.device), row]
        return torch.where(slope > 0, lower, upper)

    def clipped(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return smaller boxes that keep every point where no row is positive; maybe empty ones.

        Row s ≤ 0 leaves to coordinate i what all others leave at most:
        Aₛᵢ xᵢ ≤ −bₛ − Σⱼ≠ᵢ min Aₛⱼ xⱼ.
        """
        A, tiny, part = self.A, torch.finfo(self.A.dtype).tiny, room(self.A.dtype)
        for _ in range(ROUNDS):
            each = torch.minimum(A * lower.unsqueeze(1), A * upper.unsqueeze(1))
            rest = each.sum(2, keepdim=True) - each + self.b.unsqueeze(2)
            left = self._slack(lower, upper).unsqueeze(2) - rest  # Aₛᵢ xᵢ is no more
            end = left / A
            most = torch.where(tiny < A, end, torch.inf).amin(1)
            least = torch.where(-tiny > A, end, -torch.inf).amax(1)
            reach = part * torch.maximum(lower.abs(), upper.abs())
            upper, lower = torch.fmin(upper, most + reach), torch.fmax(lower, least - reach)
        return lower, upper

    def together(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Return lower bounds [B] on the largest row at any point: the best combination tried.

        Σ λₛ (Aₛ x + bₛ) with λ ≥ 0, Σ λ = 1 is never above the largest.
        """
        alone = self.least(lower, upper)
        best = alone.amax(1)
        if alone.shape[1] == 1:
            return best
        slack = self._slack(lower, upper)
        logs = torch.zeros_like(alone)
        for step in range(WEIGHINGS):
            weights = logs.softmax(1)
            slope = (weights.unsqueeze(2) * self.A).sum(1)
            x = torch.where(slope > 0, lower, upper)
            rows = torch.linalg.vecdot(self.A, x.unsqueeze(1)) + self.b - slack
            best = torch.maximum(best, (weights * rows).sum(1))
            spread = (rows.amax(1, keepdim=True) - rows.amin(1, keepdim=True)).clamp(min=1e-12)
            logs = logs + RATE / (1 + step) ** 0.5 * rows / spread
        return best

    def _slack(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Return what rounding may do to the sums of each row, [B, S]."""
        far = torch.maximum(lower.abs(), upper.abs()).unsqueeze(1)
        size = (self.A.abs() * far).sum(2) + self.b.abs()
        dtype = self.A.dtype
        return max(room(dtype), 2 * self.A.shape[2] * torch.finfo(dtype).eps) * size
