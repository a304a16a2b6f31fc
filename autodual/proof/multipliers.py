"""Slopes and multipliers for leaves of proofs, sought along the gradient of their bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autodual_check.checking import Bounds, Proof
from autodual_check.network import Relu

ROOT, BELOW = 40, 12
"""How many steps are taken for whole sets, and for their parts."""

STEP, DECAY = 0.2, 0.96
"""How far α moves at first, and what of that is left after each step."""


@dataclass(frozen=True)
class Found:
    """What was found for B leaves.

    Attributes:
        alpha: [ReLUs, B], lower slopes.
        beta: [cuts], multipliers.
        losses: for each node, what the lines around the ReLU that reads it lose, [n, B]; or None.
    """

    alpha: np.ndarray
    beta: np.ndarray
    losses: list[np.ndarray | None]


class Dual:
    """The checker's bound in float64, with gradients: a lower bound on z_y − z_k over some sets."""

    def __init__(self, proof: Proof) -> None:
        self.proof = proof
        self.ops = [
            None
            if isinstance(op, Relu)
            else tuple(map(torch.from_numpy, (op.W / op.w, op.where.ravel(), op.b.copy())))
            for op in proof.ops
        ]

    def improve(
        self,
        bounds: Bounds,
        cuts: np.ndarray,
        y: np.ndarray,
        k: np.ndarray,
        alpha: np.ndarray,
        goal: np.ndarray,
        steps: int,
    ) -> Found:
        """Seek α and β that raise the bounds on z_y − z_k, one for each leaf, above ``goal``.

        Args:
            bounds: of the leaves, whose intervals are taken as they are.
            cuts: [6, cuts], of the leaves, with β to start from, as the checker has them.
            y, k: [B]; −1 for a zero.
            alpha: [ReLUs, B], to start from.
            goal: [B].
            steps: how many, at most.
        """
        unit = bounds.N.unit
        ends = [tuple(torch.from_numpy(e / unit) for e in (z.lo, z.hi)) for z in bounds.values]
        a = torch.from_numpy(alpha.copy()).requires_grad_()
        root = torch.from_numpy(np.sqrt(cuts[5] / self.proof.numbers.dual))
        beta = root.square().requires_grad_()
        best = torch.full((len(y),), -torch.inf, dtype=torch.float64)
        losses: list[Tensor | None] = []
        adam = torch.optim.Adam([{"params": [a], "lr": STEP}, {"params": [beta], "lr": STEP}])
        of = torch.from_numpy(cuts[2].astype(np.int64))
        kept = a.detach().clone(), beta.detach().clone()
        for step in range(steps + 1):
            value, probes, rows = self.value(bounds, ends, cuts, y, k, a, beta)
            adam.zero_grad()
            value.sum().neg().backward()
            better = value.detach() > best
            if step == 0 or bool(better.any()):
                best = torch.where(better, value.detach(), best)
                kept[0][:, better] = a.detach()[:, better]
                kept[1][better[of]] = beta.detach()[better[of]]
                now = self.losses(ends, probes, rows, a)
                losses = [
                    new if old is None or new is None else torch.where(better, new, old)
                    for new, old in zip(now, losses or now, strict=True)
                ]
            if bool((best > torch.from_numpy(goal)).all()) or step == steps:
                break
            adam.step()
            with torch.no_grad():
                a.clamp_(0, 1)
                beta.clamp_(min=0)
            for group in adam.param_groups:
                group["lr"] *= DECAY
        plain = [None if loss is None else loss.numpy() for loss in losses]
        return Found(kept[0].numpy(), kept[1].numpy(), plain)

    def value(
        self,
        bounds: Bounds,
        ends: list[tuple[Tensor, ...]],
        cuts: np.ndarray,
        y: np.ndarray,
        k: np.ndarray,
        alpha: Tensor,
        beta: Tensor,
    ) -> tuple[Tensor, list[Tensor | None], list[Tensor | None]]:
        """Return bounds [B]; what values their minima take is the gradient of ``probes``; and rows.

        ``probes`` and rows stand for each node whose values a ReLU reads.
        """
        proof, B, nodes = self.proof, len(y), self.proof.nodes
        total = torch.zeros(B, dtype=torch.float64)
        waiting: list[Tensor | None] = [None for _ in proof.sizes]
        probes, rows = list[Tensor | None](waiting), list[Tensor | None](waiting)
        last = torch.zeros(proof.sizes[-1] + 1, B, dtype=torch.float64)
        last[y, torch.arange(B)] += 1
        last[k, torch.arange(B)] -= 1
        waiting[-1] = last[:-1]
        for j in range(len(nodes), -1, -1):
            mine = np.flatnonzero(cuts[0] == j)
            if len(mine):
                u, b = (torch.from_numpy(cuts[e, mine].astype(np.int64)) for e in (1, 2))
                s, t = (torch.from_numpy(cuts[e, mine]) for e in (3, 4))
                pull = torch.zeros(proof.sizes[j], B, dtype=torch.float64)
                pull = pull.index_put((u, b), -s * beta[mine], accumulate=True)
                old = waiting[j]
                total = total.index_add(0, b, beta[mine] * s * t)
                waiting[j] = pull if old is None else old + pull
            V = waiting[j]
            if V is None or j == 0:
                continue
            op, start = proof.ops[j - 1], 0
            if isinstance(op, Relu):
                (source,) = nodes[j - 1]
                lo, hi = ends[source]
                open_ = (lo < 0) & (hi > 0)
                s = torch.where(open_, hi / torch.where(open_, hi - lo, 1.0), (lo >= 0).double())
                plus, minus = V.clamp(min=0), V.clamp(max=0)
                total = total - (minus * torch.where(open_, s * lo, 0.0)).sum(0)
                back = plus * torch.where(open_, alpha[op.mine], s) + minus * s
                probe = torch.zeros_like(back, requires_grad=True)
                probes[source], rows[source] = probe, V.detach()
                back = back + probe
            else:
                W, where, b = self.ops[j - 1]  # type: ignore[misc]
                total = total + (b * V).sum(0)
                full = V.reshape(op.g, op.m, op.p * B)
                out = (W.transpose(1, 2) @ full).reshape(-1, B)
                back = torch.zeros(op.size + 1, B, dtype=torch.float64).index_add(0, where, out)
            for source in nodes[j - 1]:
                part, old = back[start : start + proof.sizes[source]], waiting[source]
                waiting[source] = part if old is None else old + part
                start += proof.sizes[source]
        V = waiting[0]
        if V is not None:
            lo, hi = ends[0]
            box = (V.clamp(min=0) * lo + V.clamp(max=0) * hi).sum(0)
            total = total + (box if not bounds.ball else torch.maximum(box, self.ball(V, bounds)))
        return total, probes, rows

    def ball(self, V: Tensor, bounds: Bounds) -> Tensor:
        """Return min Vx over the balls, [B]."""
        (center, eps), power = bounds.ball, self.proof.power
        x, radius = (torch.from_numpy(e / bounds.N.unit) for e in (center, eps))
        norm = V.abs().amax(0) if power == 1 else V.square().sum(0).add(1e-300).sqrt()
        return (V * x).sum(0) - radius * norm

    def losses(
        self,
        ends: list[tuple[Tensor, ...]],
        probes: list[Tensor | None],
        rows: list[Tensor | None],
        alpha: Tensor,
    ) -> list[Tensor | None]:
        """Return what the ReLU of each node takes from the bound, at the point of its minimum."""
        found = list[Tensor | None]([None for _ in probes])
        for j, op in enumerate(self.proof.ops):
            source = self.proof.nodes[j][0]
            probe, V = probes[source], rows[source]
            if not isinstance(op, Relu) or probe is None or V is None or probe.grad is None:
                continue
            lo, hi = ends[source]
            open_, z = (lo < 0) & (hi > 0), -probe.grad
            above = torch.where(open_, hi / torch.where(open_, hi - lo, 1.0), 0.0) * (z - lo)
            lower = alpha.detach()[op.mine] * z
            gap = V.clamp(min=0) * (z.clamp(min=0) - lower) - V.clamp(max=0) * (
                above - z.clamp(min=0)
            )
            found[source] = torch.where(open_, gap.clamp(min=0) + 1e-12 * V.abs(), -1.0)
        return found
