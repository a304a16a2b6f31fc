"""Inputs without labels, which a net labels itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autodual.calls import check_count
from autodual.errors import InputError
from autodual.train.adversary import evaluating
from autodual.train.batches import Batch


@torch.no_grad()
def pseudo_labelled(model: nn.Module, x: Tensor, least: float = 0.0, batch: int = 500) -> Batch:
    """Return inputs [M, *] and the classes [M] that a model gives them (Carmon et al. 2019).

    Args:
        model: returns logits [N, K]; asked in evaluation mode.
        x: inputs [N, *] without labels.
        least: those that the model's softmax is less sure of than this are left out.
        batch: how many it is asked about at once.

    Raises:
        InputError: there is none that it is so sure of.
    """
    check_count("batch", batch)
    with evaluating(model):
        parts = [model(some).softmax(1).max(1) for some in x.split(batch)]
    sure, labels = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    kept = sure >= least
    if not bool(kept.any()):
        raise InputError(f"least={least}: the model is less sure of all {len(x)} inputs")
    return x[kept], labels[kept]


def balanced(first: Batch, second: Batch) -> Batch:
    """Return both together, the shorter one repeated to the other's length.

    Batches then have as much of the one as of the other, as the thesis has of labels and
    pseudo-labels (4.4.3).
    """
    longest = max(len(first[0]), len(second[0]))
    both = []
    for x, y in (first, second):
        index = torch.arange(longest, device=x.device) % len(x)
        both.append((x[index], y[index.to(y.device)]))
    return torch.cat([x for x, _ in both]), torch.cat([y for _, y in both])
