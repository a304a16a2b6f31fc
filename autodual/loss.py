"""Train against the bound."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autodual.certified import Certified
from autodual.certify import certify
from autodual.errors import InputError
from autodual.front.capture import Inputs, check_seen, unwrap
from autodual.threat import ThreatModel
from autodual.wrapper import Wrapper


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
        ModelError: a wrapper such as DDP would not see the gradients; see ``RobustLoss``.
    """
    if torch.is_grad_enabled():
        check_seen(net)
    inside = unwrap(net)
    net = inside if isinstance(inside, Certified) else net
    if not isinstance(net, Certified):
        if eps is None:
            raise InputError("robust_loss(model, x, y) needs eps; or pass certify(model, eps)")
        net = certify(net, eps) if bounds is None else certify(net, eps, bounds=bounds)
    elif bounds is not None:
        raise InputError("this model is already certified; give bounds= to certify")
    elif eps is not None:
        net = net.at(eps)
    return loss(-net.margins(x, y), y)


class RobustLoss(Wrapper):
    """``robust_loss`` as a module, for what wraps modules and averages their gradients.

    ``DistributedDataParallel(RobustLoss(model, eps))(x, y).backward()`` gives every process the
    gradient of the loss over all their examples. Its parameters and the keys of its
    ``state_dict`` are the model's.

    Args:
        net, eps, bounds, loss: as for ``robust_loss``; ``eps`` may also be given at the call.
    """

    loss: Callable[[Tensor, Tensor], Tensor]

    def __init__(
        self,
        net: nn.Module,
        eps: float | Tensor | ThreatModel | None = None,
        *,
        bounds: str | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    ) -> None:
        super().__init__()
        self.net, self.eps, self.bounds = net, eps, bounds
        object.__setattr__(self, "loss", loss)  # which is no part of the module if it is one too
        self.training = net.training

    def extra_repr(self) -> str:
        """Describe the set and the method, where they are not the net's."""
        said = {"eps": self.eps, "bounds": self.bounds}
        return ", ".join(f"{k}={v!r}" for k, v in said.items() if v is not None)

    def forward(
        self, x: Tensor | Inputs, y: Tensor, eps: float | Tensor | ThreatModel | None = None
    ) -> Tensor:
        """Return the robust loss; see ``robust_loss``."""
        eps = self.eps if eps is None else eps
        return robust_loss(self.net, x, y, eps, bounds=self.bounds, loss=self.loss)
