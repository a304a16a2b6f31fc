"""Accuracy against ε, certified and under attack, from one radius for each example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from autodual.certify import certified_over
from autodual.errors import InputError, Interrupted
from autodual.threat import Eps
from autodual.train.batches import Batches, Data
from autodual.working import working

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class AccuracyCurve:
    """Between which shares of examples are robust, at every ε; print it, or ``draw`` it.

    Attributes:
        lower: [N], up to which ε each example is certified; 0 for one that is misclassified.
        upper: [N], at which ε an attack fools the model; ∞ where none was found.
        threat: the kind of set, in words.
    """

    lower: Tensor
    upper: Tensor
    threat: str

    def certified(self, eps: float) -> float:
        """Return the share of examples that are certified at ε: the accuracy is at least this."""
        held = (self.lower >= eps) & (self.lower > 0)
        return float(held.double().mean())

    def attacked(self, eps: float) -> float:
        """Return the share that no attack fooled at ε: the accuracy is at most this."""
        return float((self.upper > eps).double().mean())

    def __str__(self) -> str:
        quartiles = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
        low, middle, high = self.lower.double().cpu().quantile(quartiles).tolist()
        return (
            f"half of {len(self.lower)} examples are certified up to ε = {middle:.4g}, three "
            f"quarters up to {low:.4g}, a quarter up to {high:.4g} ({self.threat})"
        )

    __repr__ = __str__

    def draw(self) -> Figure:
        """Draw both accuracies against ε; the truth lies between. Needs matplotlib."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5.6, 4.2), layout="constrained")
        axes = figure.subplots()
        known = self.upper[self.upper.isfinite()]
        ends = [float(part.max()) for part in (self.lower, known) if len(part)]
        radii = torch.linspace(0, 1.05 * max(ends) or 1.0, 200).tolist()
        low = [100 * self.certified(eps) for eps in radii]
        high = [100 * self.attacked(eps) for eps in radii]
        axes.fill_between(radii, low, high, color="0.9")
        axes.plot(radii, high, "k--", label="no attack found")
        axes.plot(radii, low, color="#4c72b0", label="certified")
        axes.set(xlabel="ε", ylabel="accuracy, %", ylim=(0, 101), title=self.threat)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        return figure


def accuracy_curve(
    net: nn.Module, data: Data, eps: Eps | None = None, *, steps: int = 10, batch: int = 100
) -> AccuracyCurve:
    """Return accuracy against ε on a data set.

    Args:
        net: what ``certify`` returned, over a ball of a norm, or a model together with ``eps``.
        data: all inputs and labels, or a DataLoader.
        eps: the set, for a model only; its size is where the search begins.
        steps: radii are found to 2^-steps of their size.
        batch: how many examples are taken together.

    Raises:
        InputError: as for ``net.radius(attack=True)``; an example has no label, or several.
        Interrupted: Ctrl-C; ``partial`` is the curve of the examples that are finished.
    """
    net = certified_over(net, eps, "accuracy_curve(model, data)")
    batches = Batches(data, batch, shuffle=False)
    parts: list[tuple[Tensor, Tensor]] = []

    def found() -> AccuracyCurve:
        lower, upper = (torch.cat(ends) for ends in zip(*parts, strict=True))
        return AccuracyCurve(lower, upper, str(net.threat))

    try:
        with working("radii", len(batches)) as bar:
            for x, y in batches.of(0):
                if y.dim() != 1 or bool((y < 0).any()):
                    raise InputError("accuracy_curve is for one label for each example")
                radii = net.radius(x, y, steps, attack=True)
                parts.append((radii.lower, radii.upper))
                bar.advance()
    except KeyboardInterrupt:
        if not parts:
            raise
        raise Interrupted(found(), f"{len(parts)} batches are finished") from None
    return found()
