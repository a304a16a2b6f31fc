"""A certified net seen by attacks: its model, and the argument that is perturbed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from autodual.attack import Attack
from autodual.front.arguments import check_classes
from autodual.front.capture import unwrap
from autodual.inputs import Inputs
from autodual.threat import Product, ThreatModel

if TYPE_CHECKING:
    from autodual.certified import Certified

Run = Callable[..., Attack]


class Logits(nn.Module):
    """The model, its logits alone, of two classes or more."""

    def __init__(self, net: Certified, inputs: Inputs) -> None:
        super().__init__()
        self.model = net.model
        captured = net.admitted(inputs).captured
        self.pick, self.classes = captured.pick, check_classes(captured.graph.output)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the logits [N, K, *]."""
        return self.classes.logits(self.pick(self.model(*args, **kwargs)))


class Target:
    """What is attacked: the model, and the argument x [N, *] beside all others."""

    def __init__(self, net: Certified, inputs: Inputs) -> None:
        self.model, self.inputs = Logits(net, inputs), inputs
        self.key = inputs.key(net.options.perturb, unwrap(net.model))
        self.x: Tensor = inputs.get(self.key)
        self.threat = net.threat.around(inputs.shapes(self.key))
        if isinstance(self.threat, Product) and isinstance(self.key, tuple):
            self.threat = self.threat.named(self.key)

    @property
    def alone(self) -> bool:
        """Whether the model has no other inputs."""
        return len(self.inputs.leaves()) == 1

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits at other points."""
        inputs = self.inputs.replace(self.key, x).clone()
        logits: Tensor = self.model(*inputs.args, **inputs.kwargs)
        return logits

    def attack(self, run: Run, y: Tensor, threat: ThreatModel, **options: Any) -> Attack:
        """Run an attack."""
        named = {} if isinstance(self.key, tuple) else {"perturb": self.key}
        return run(self.model, self.inputs, y, threat, **named, **options)

    def attack_some(self, run: Run, y: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the points and margins that an attack finds for the examples at ``index``.

        All examples are attacked where the model has other inputs, which may be shared.
        """
        if not self.alone:
            found = self.attack(run, y, self.threat)
            return found.x[index], found.margins[index]
        found = run(self.model, self.x[index], y[index], self.threat.select(self.x, index))
        return found.x, found.margins
