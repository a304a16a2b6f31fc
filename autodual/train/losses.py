"""Losses for any loop: objects that map (net, x, y) to a number, and change nothing.

``net`` is what ``certify`` returned, the model with its set; y [N] are labels, or [N, *].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from autodual.bound.plan import METHODS
from autodual.certified import Certified
from autodual.errors import InputError
from autodual.front.arguments import check_classes
from autodual.labels import labelled_mean
from autodual.loss import robust_loss
from autodual.train.adversary import Adversary, evaluating

Loss = Callable[[Certified, Tensor, Tensor], Tensor]
"""(net, x, y) → a number to descend."""


@dataclass(frozen=True)
class Standard:
    """The model's own loss at x: L(f(x), y)."""

    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy

    def __call__(self, net: Certified, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss."""
        return self.loss(net.model(x), y)


@dataclass(frozen=True)
class Adversarial:
    """The model's loss at points that an attack finds (thesis, Algorithms 5 and 7; 5.3 for unions).

    Args:
        attack: what finds them. One step from a random start is fast adversarial training.
        loss: the loss there.
    """

    attack: Adversary = field(default_factory=Adversary)
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy

    def __call__(self, net: Certified, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss over the points found."""
        points = self.attack.points(net.model, x, y, net.threat)
        return torch.stack([self.loss(net.model(point), y) for point in points]).mean()


@dataclass(frozen=True)
class Robust:
    """An upper bound on the worst loss over the set; ``ad.robust_loss`` says what of."""

    loss: Callable[[Tensor, Tensor], Tensor] | None = None
    fused: bool = False

    def __call__(self, net: Certified, x: Tensor, y: Tensor) -> Tensor:
        """Return the bound."""
        return robust_loss(net, x, y, loss=self.loss, fused=self.fused)


@dataclass(frozen=True)
class Mixed:
    """(1 − coefficient) · first + coefficient · second.

    Args:
        first, second: losses.
        coefficient: in [0, 1]; at 0 and 1 only one of them is computed.
    """

    first: Loss
    second: Loss
    coefficient: float = 0.5

    def __post_init__(self) -> None:
        _check_share("coefficient", self.coefficient)

    def __call__(self, net: Certified, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean."""
        if self.coefficient in (0, 1):
            return (self.second if self.coefficient else self.first)(net, x, y)
        return torch.lerp(self.first(net, x, y), self.second(net, x, y), self.coefficient)


COMBINATIONS = "cc", "mtl", "exp"


@dataclass(frozen=True)
class Expressive:
    """Between the loss at an attack's points and its bound (De Palma et al. 2024).

    With z the differences of logits z_k − z_y at the attack's point, ẑ their upper bounds over
    the set, and α the coefficient:

        cc   L((1 − α) z + α ẑ)
        mtl  (1 − α) L(z) + α L(ẑ)
        exp  L(z)^(1 − α) L(ẑ)^α

    Certify the net with bounds="ibp" for CC-IBP, MTL-IBP and EXP-IBP.

    Args:
        coefficient: α in [0, 1]: 0 is adversarial training, 1 is training against the bound.
        combine: ``"cc"``, ``"mtl"`` or ``"exp"``.
        attack: what finds points.
        share: they are sought in the set scaled by this; more than 1 where certification is for
            less than what is attacked.
    """

    coefficient: float = 0.5
    combine: str = "mtl"
    attack: Adversary = field(default_factory=lambda: Adversary(steps=1))
    share: float = 1.0

    def __post_init__(self) -> None:
        _check_share("coefficient", self.coefficient)
        if self.combine not in COMBINATIONS:
            raise InputError(f"combine={self.combine!r} is none of {', '.join(COMBINATIONS)}")

    def __call__(self, net: Certified, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss."""
        (point,) = self.attack.points(net.model, x, y, _scaled(net, self.share).threat)
        worst, labels = net.worst(x, y)
        z = differences(net, point, labels)
        if self.combine == "cc":
            return F.cross_entropy(torch.lerp(z, worst, self.coefficient), labels)
        here, bound = (F.cross_entropy(some, labels, reduction="none") for some in (z, worst))
        if self.combine == "mtl":
            mixed = torch.lerp(here, bound, self.coefficient)
        else:
            tiny = torch.finfo(x.dtype).tiny
            logs = [loss.clamp(min=tiny).log() for loss in (here, bound)]
            mixed = torch.lerp(logs[0], logs[1], self.coefficient).exp()
        return labelled_mean(mixed, labels)


@dataclass(frozen=True)
class SmallBox:
    """The bound over a small set around an attack's point (SABR, Müller et al. 2023).

    The point lies in the set scaled by 1 − share, and the small set is the set scaled by share:
    inside the whole set for every ball.

    Args:
        share: the size of the small set, in (0, 1].
        attack: what finds points.
    """

    share: float = 0.4
    attack: Adversary = field(default_factory=lambda: Adversary(steps=8, step_size=0.5))

    def __post_init__(self) -> None:
        _check_share("share", self.share)

    def __call__(self, net: Certified, x: Tensor, y: Tensor) -> Tensor:
        """Return the bound on the loss over the small set."""
        outer, inner = _scaled(net, 1 - self.share), _scaled(net, self.share)
        (point,) = self.attack.points(net.model, x, y, outer.threat)
        return robust_loss(inner, point, y)


@dataclass(frozen=True)
class Mixup:
    """A loss at mixed examples: λ x + (1 − λ) x̃, which are λ y and 1 − λ ỹ (Zhang et al. 2018).

    It is asked twice, once with each label.

    Args:
        loss: a loss of examples; x is one tensor.
        alpha: λ is drawn from Beta(α, α), once for a batch.
    """

    loss: Loss
    alpha: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.alpha < float("inf"):
            raise InputError(f"alpha={self.alpha}: give a finite number above 0")

    def __call__(self, net: Certified, x: Tensor, y: Tensor) -> Tensor:
        """Return λ L(x mixed, y) + (1 − λ) L(x mixed, ỹ)."""
        share = float(torch.distributions.Beta(self.alpha, self.alpha).sample())
        other = torch.randperm(len(x), device=x.device)
        mixed = torch.lerp(x[other], x, share)
        return torch.lerp(self.loss(net, mixed, y[other]), self.loss(net, mixed, y), share)


@dataclass(frozen=True)
class TRADES:
    """L(f(x), y) + β max KL(f(x) ‖ f(x′)), the maximum by an attack (Zhang et al. 2019).

    Args:
        beta: β.
        steps, step_size: of the attack, as for ``Adversary``.
    """

    beta: float = 6.0
    steps: int = 10
    step_size: float | None = None

    def __call__(self, net: Certified, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss."""
        with evaluating(net.model), torch.no_grad():
            believed = net.model(x).log_softmax(1)

        def away(z: Tensor, y: Tensor) -> Tensor:
            return divergence(z, believed)

        attack = Adversary(self.steps, self.step_size, loss=away)
        (point,) = attack.points(net.model, x, y, net.threat)
        z = net.model(x)
        apart = divergence(net.model(point), z.log_softmax(1)).mean()
        return F.cross_entropy(z, y) + self.beta * apart


@dataclass(frozen=True)
class CrownIBP:
    """Cross-entropy of (1 − β) · margins by intervals + β · margins by one dual pass on these.

    (Zhang et al. 2020.) β goes from 1 to 0 in training: ``Scheduled(lambda t: CrownIBP(…))``.
    """

    beta: float = 1.0

    def __post_init__(self) -> None:
        _check_share("beta", self.beta)

    def __call__(self, net: Certified, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss."""
        by = {name: net.with_options(method=METHODS[name]) for name in ("ibp", "ibp+dual")}
        if self.beta in (0, 1):
            return F.cross_entropy(*by["ibp+dual" if self.beta else "ibp"].worst(x, y))
        (cheap, labels), (dual, _) = by["ibp"].worst(x, y), by["ibp+dual"].worst(x, y)
        return F.cross_entropy(torch.lerp(cheap, dual, self.beta), labels)


def hinge(z: Tensor, y: Tensor, margin: float = 1.0) -> Tensor:
    """Return the mean of max(0, margin + max_{k≠y} z_k − z_y); y −100 for none.

    It grows with every other logit and only differences matter: ``Robust(hinge)`` bounds it.
    """
    labels = y.clamp(min=0).unsqueeze(1)
    others = z.scatter(1, labels, -torch.inf).amax(1)
    lost = F.relu(margin + others - z.gather(1, labels).squeeze(1))
    return labelled_mean(lost, y)


def divergence(z: Tensor, believed: Tensor) -> Tensor:
    """Return KL(p ‖ softmax(z)) [N] for log p [N, K, *], the mean over an example's labels."""
    each = F.kl_div(z.log_softmax(1), believed, reduction="none", log_target=True).sum(1)
    return each.flatten(1).mean(1) if each.dim() > 1 else each


def differences(net: Certified, x: Tensor, labels: Tensor) -> Tensor:
    """Return the model's z_k − z_y [N, K, *] at x."""
    z = check_classes(net.graph.output).logits(net.model(x))
    return z - z.gather(1, labels.clamp(min=0).unsqueeze(1))


def _scaled(net: Certified, factor: float) -> Certified:
    """Return the net over its set scaled."""
    return net if factor == 1 else net.at(net.threat.scaled(factor))


def _check_share(name: str, value: float) -> None:
    """Raise unless a value lies in [0, 1]."""
    if not 0 <= value <= 1:
        raise InputError(f"{name}={value}: give a number in [0, 1]")
