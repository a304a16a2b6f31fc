"""Cross-entropy over a whole set by one row for each example."""

from __future__ import annotations

import torch
from torch import Tensor

from autodual.bound.reading import Bound, lower
from autodual.bound.rows import Specs
from autodual.front.ir import Value
from autodual.interval import Interval
from autodual.labels import Classes

NARROW = 1e-4
"""Intervals narrower than this have their exponential's slope for the chord's."""


def log_likelihood(bound: Bound, output: Value, labels: Tensor) -> Tensor:
    """Return lower bounds [N] on log softmax(z)_y over the set, for logits z and labels y [N].

    With margins m_k = z_k − z_y it is −log Σ exp(m_k). Interval arithmetic, merged with the last
    affine layers, says that m ∈ [ℓ, u]; there each exponential lies beneath its chord,
    exp(m_k) ≤ a_k m_k + b_k, and one row of the dual network bounds Σ a_k m_k (Xu et al. 2020).
    Never looser than interval arithmetic alone.

    Args:
        bound: its first network is the dual one, its last that of intervals.
    """
    dual, box = bound.sums[0], bound.sums[-1]
    batch = box.network.batch
    spec, _ = Classes(output.size(1)[1:]).against(labels, box.network.x)
    seeds = Specs.per_example({output: -spec.reshape(batch, -1, *output.size(1))})
    m = -torch.einsum("nsk,nk->ns", spec, box.network.nominal(output).reshape(batch, -1))
    falls = [end.unflatten(0, (batch, -1)) for end in box.deviations(seeds, both=True)]
    around = Interval(m - falls[0], m + falls[-1])

    top = around.upper.detach().amax(1, keepdim=True).clamp(min=0)  # all in units of exp(top)
    a, b = chords(around.map(lambda end: end - top))
    row = torch.einsum("ns,nsk->nk", a, spec).unsqueeze(1)
    beneath = lower(dual, {output: row}).squeeze(1)
    chord, highest = (b - a * top).sum(1) - beneath, (around.upper - top).exp().sum(1)
    found = (-top).exp().squeeze(1) + torch.minimum(chord, highest).clamp(min=0)
    known = found.isfinite() & top.squeeze(1).isfinite()
    return -torch.where(known, found.log() + top.squeeze(1), torch.inf)


def chords(box: Interval) -> tuple[Tensor, Tensor]:
    """Return a and b with exp(m) ≤ a m + b for m ∈ [ℓ, u]: exp's chord."""
    low, high = box.lower.exp(), box.upper.exp()
    width = box.upper - box.lower
    wide = width > NARROW
    a = torch.where(wide, (high - low) / torch.where(wide, width, 1), high)
    return a, low - a * box.lower
