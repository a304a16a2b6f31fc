"""Bounds on margins as sets grow and as nets are trained: dual, optimised, linear program, attack.

After the thesis's Figure 3.8, which sets its bound beside the linear program on the same intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from autodual.attack import losses, pgd
from autodual.report.rungs import EQUAL, EQUAL_PROGRAM, FREE, OPTIMISED, PROGRAM
from autodual.threat import LinfBall
from autodual.threat.base import Domain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RUNGS = (EQUAL, EQUAL_PROGRAM, FREE, OPTIMISED, PROGRAM)
"""Each program stands behind the dual bound that is never tighter."""


@dataclass(frozen=True, eq=False)
class Margins:
    """The least margin z_y − z_k over ℓ∞ balls around N inputs, for one k each, at E radii.

    Attributes:
        radii: the ε.
        nominal: [N], the margins of the inputs themselves.
        lower: for each rung by name, bounds [E, N].
        attacked: [E, N], the least that an attack found.
    """

    radii: tuple[float, ...]
    nominal: Tensor
    lower: Mapping[str, Tensor]
    attacked: Tensor

    def fall(self, name: str) -> float:
        """Return how far margins fall by a rung, as a multiple of how far an attack makes them.

        1 where the bound is exact; NaN or infinite where an attack changes nothing.
        """
        found = (self.nominal - self.attacked).mean()
        return float((self.nominal - self.lower[name]).mean() / found)


def margins(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    radii: Sequence[float],
    domain: Domain | None = None,
) -> Margins:
    """Bound the margins of labels against the likeliest other class, by each rung at each ε.

    Args:
        model: [N, *] ↦ logits [N, K].
        x, y: the inputs and their labels [N].
        radii: the ε of the balls.
        domain: of the inputs.
    """
    with torch.no_grad():
        z = model(x)
    other = z.scatter(1, y.unsqueeze(1), -torch.inf).argmax(1)
    unit = torch.eye(z.shape[1]).to(x)
    C = (unit[y] - unit[other]).unsqueeze(1)
    balls = [LinfBall(eps, domain) for eps in radii]
    lower = {
        rung.name: torch.stack([rung.lower(model, ball, x, C)[:, 0].cpu() for ball in balls])
        for rung in RUNGS
    }
    found = [pgd(model, x, y, b, targets=other, loss=losses.margin).margins for b in balls]
    attacked = torch.stack([m.gather(1, other.unsqueeze(1))[:, 0] for m in found])
    nominal = (C[:, 0] * z).sum(1)
    return Margins(tuple(radii), nominal.cpu(), lower, attacked.cpu())


def draw(
    nets: Mapping[str, Margins], training: Mapping[str, Mapping[float, Margins]], eps: float
) -> Figure:
    """Draw margins over ε, a panel for each net, above falls over epochs. Needs matplotlib.

    Args:
        nets: by title.
        training: by title, margins after so many epochs.
        eps: of training, to be marked.
    """
    from matplotlib.figure import Figure

    columns = max(len(nets), len(training) + 1)
    figure = Figure(figsize=(3.9 * columns, 6.6), layout="constrained")
    grid = figure.subplots(2, columns, squeeze=False)
    for axes, (title, found) in zip(grid[0], nets.items(), strict=False):
        _over_radii(axes, found)
        axes.axvline(eps, color="0.5", lw=1, ls=":")
        axes.set_title(title)
    grid[0][0].set_ylabel("margin over the ball, mean")
    for axes, (title, history) in zip(grid[1], training.items(), strict=False):
        _over_epochs(axes, history)
        axes.sharey(grid[1][0])
        axes.set_title(f"{title}, ε = {eps:g}")
    grid[1][0].set_ylabel("fall of the margin, attack's = 1")
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        if not axes.lines:
            axes.set_axis_off()
    lines, labels = grid[0][0].get_legend_handles_labels()
    grid[1][-1].legend(lines, labels, loc="center", frameon=False)
    return figure


def _over_radii(axes: Axes, found: Margins) -> None:
    """Draw one net's margins, means over its inputs, over ε."""
    axes.plot(found.radii, found.attacked.mean(1).numpy(), "k:", lw=2, label="an attack")
    for rung in RUNGS:
        line = "--" if rung.program else "-"
        mean = found.lower[rung.name].mean(1).numpy()
        axes.plot(found.radii, mean, line, color=rung.colour, label=rung.name)
    axes.axhline(0, color="0.8", lw=0.8, zorder=0)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel("ε")


def _over_epochs(axes: Axes, history: Mapping[float, Margins]) -> None:
    """Draw how far each rung lets margins fall over the epochs of one training."""
    for rung in RUNGS:
        line = "--" if rung.program else "-"
        falls = [found.fall(rung.name) for found in history.values()]
        axes.plot(list(history), falls, line, color=rung.colour)
    axes.axhline(1, color="k", lw=2, ls=":")
    axes.set_xlabel("epochs")
