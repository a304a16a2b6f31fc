"""How far inputs lie from where their class changes: what bounds certify, and what attacks find.

After the thesis's Figure 3.7, which has one bound and no attack: the true distance lies between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from autodual.attack import minimum_norm
from autodual.report.rungs import EQUAL, FREE, LADDER, OPTIMISED, Rung
from autodual.threat import LinfBall
from autodual.threat.base import Domain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Distances:
    """ℓ∞ distances of N inputs from the nearest one with another class, in their own units.

    Attributes:
        certified: for each rung by name [N]: no nearer than that; see ``Certified.radius``.
        attacked: [N], where an attack found one: no farther than that; infinite if it found none.
        right: [N] bool, whether the input itself is given its label.
    """

    certified: Mapping[str, Tensor]
    attacked: Tensor
    right: Tensor


def distances(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    domain: Domain | None = None,
    rungs: Sequence[Rung] = (EQUAL, FREE, OPTIMISED),
    steps: int = 10,
) -> Distances:
    """Return the distances of inputs from the boundary of their class, right or wrong (3.29).

    Args:
        model: [N, *] ↦ logits [N, K].
        x, y: the inputs, and their labels, which only tell the right from the wrong.
        domain: of the inputs.
        rungs: which bounds.
        steps: distances are certified to 2^-steps of their size.
    """
    with torch.no_grad():
        predicted = model(x).argmax(1)
    ball = LinfBall(0.1, domain)
    certified = {
        rung.name: rung.net(model, ball).radius(x, predicted, steps).cpu() for rung in rungs
    }
    whole = LinfBall(1.0, domain)
    attacked = minimum_norm(model, x, predicted, whole, steps=50).eps
    return Distances(certified, attacked.cpu(), (predicted == y).cpu())


def draw(panels: Mapping[str, Distances], eps: float | None = None) -> Figure:
    """Draw a panel for each net: distances in increasing order, errors as dots. Needs matplotlib.

    Args:
        panels: by title.
        eps: one that was trained for, to be marked.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8 * len(panels), 4.4), layout="constrained")
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    far = torch.cat([found.attacked for found in panels.values()])
    top = 1.05 * float(far.masked_fill(far.isinf(), 0).amax()) or 1.0
    for axes, (title, found) in zip(row, panels.items(), strict=True):
        _panel(axes, found, top, eps)
        axes.set_title(title)
    row[0].set_ylim(0, top)
    row[0].set_ylabel("ℓ∞ distance to another class")
    lines, labels = row[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _panel(axes: Axes, found: Distances, top: float, eps: float | None) -> None:
    """Draw each curve in its own order, so that a bound's lies below the attack's everywhere.

    What no attack found a way to lies above the ``top``.
    """
    share = torch.linspace(0, 100, len(found.right))
    attacked = found.attacked.sort().values
    shown = [r for r in LADDER if r.name in found.certified]
    best = found.certified[shown[-1].name].sort().values
    axes.fill_between(share.numpy(), best.numpy(), attacked.clamp(max=top).numpy(), color="0.9")
    axes.plot(share.numpy(), attacked.numpy(), color="k", ls="--", label="found by an attack")
    for i, rung in reversed(list(enumerate(shown))):
        sizes = found.certified[rung.name].sort().values
        width = 1.2 + 0.7 * i
        axes.plot(share.numpy(), sizes.numpy(), color=rung.colour, lw=width, label=rung.name)
    first = found.certified[shown[0].name]
    order = first.argsort()
    wrong = ~found.right[order]
    axes.plot(
        share[wrong].numpy(),
        first[order][wrong].numpy(),
        "o",
        color="#c44e52",
        ms=4,
        zorder=4,
        label="misclassified",
    )
    if eps is not None:
        axes.axhline(eps, color="0.5", lw=1, ls=":", label=f"ε = {eps:g} of robust training")
    axes.set_xlabel("inputs in increasing order, %")
    axes.spines[["top", "right"]].set_visible(False)
