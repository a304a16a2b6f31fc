"""A loss as a module: what is wrapped to average gradients over processes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from autodual.certified import Certified
from autodual.train.losses import Loss
from autodual.wrapper import Wrapper


class Objective(Wrapper):
    """``loss(net, x, y)`` as a module's forward, with the net's set scaled.

    ``DistributedDataParallel(Objective(net, loss))(x, y).backward()`` gives every process the
    gradient over all their examples. Its parameters and the keys of its ``state_dict`` are the
    model's. Bounds move no running statistics: where the model keeps some and is in training mode,
    a plain pass moves them first.
    """

    loss: Loss

    def __init__(self, net: Certified, loss: Loss) -> None:
        super().__init__()
        self.net = net
        object.__setattr__(self, "loss", loss)  # no part of the module, should it be one too
        self.training = net.training

    def forward(self, x: Tensor, y: Tensor, scale: float = 1.0) -> Tensor:
        """Return the loss over the set with steps ``scale`` times as long."""
        if any(isinstance(m, _BatchNorm) and m.training for m in self.net.model.modules()):
            with torch.no_grad():
                self.net.model(x)
        net = self.net if scale == 1 else self.net.at(self.net.threat.scaled(scale))
        return self.loss(net, x, y)
