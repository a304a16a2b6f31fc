"""Train against the bound."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from autodual.certified import Certified
from autodual.certify import certify
from autodual.errors import InputError
from autodual.front.capture import Inputs
from autodual.threat import ThreatModel


def robust_loss(
    net: nn.Module,
    x: Tensor | Inputs,
    y: Tensor,
    eps: float | Tensor | ThreatModel | None = None,
    *,
    bounds: str | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> Tensor:
    """Return an upper bound on the worst loss over the perturbation set (thesis, Theorem 2).

    max over the set of L(f(x′), y) ≤ L(−J, y), with J [N, K] the guaranteed margins z_y − z_k.
    Differentiable in all of the model's parameters.

    Args:
        net: what ``certify`` returned, or a model together with ``eps``.
        x: inputs [N, *].
        y: labels [N].
        eps: another set than the one ``net`` was certified for, as in an ε schedule.
        bounds: the method, as for ``certify``; for a model only.
        loss: any loss of logits and labels that grows with every other class's logit and does
            not change when a constant is added to all logits.

    Raises:
        InputError: ``eps`` or ``bounds`` is missing or does not fit; as for ``certify``.
    """
    if not isinstance(net, Certified):
        if eps is None:
            raise InputError("robust_loss(model, x, y) needs eps; or pass certify(model, eps)")
        net = certify(net, eps) if bounds is None else certify(net, eps, bounds=bounds)
    elif bounds is not None:
        raise InputError("this model is already certified; give bounds= to certify")
    elif eps is not None:
        net = net.at(eps)
    return loss(-net.margins(x, y), y)
