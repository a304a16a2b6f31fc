"""The regions of a classifier of the plane, and boxes around points with what proves them.

After the thesis's Figure 3.3, which stops at one bound: here each box says which rung of the ladder
is the first that certifies it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from autodual.errors import InputError
from autodual.labels import Classes
from autodual.report.rungs import LADDER
from autodual.threat import LinfBall

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EXACT, FALSE, UNKNOWN = "exact, mixed-integer program", "falsified", "unknown"
"""What becomes of boxes that no rung certifies."""

COLOURS = {rung.name: rung.colour for rung in LADDER} | {
    EXACT: "#000000",
    FALSE: "#c44e52",
    UNKNOWN: "#808080",
}

BEYOND = 0.1
"""How far a picture reaches beyond the points and their boxes."""


@dataclass(frozen=True, eq=False)
class Regions:
    """What a net says on a part of the plane, and what is proved of boxes there.

    Attributes:
        x, y: the points [N, 2] and their labels [N].
        eps: half the side of the boxes.
        by: for each box the first rung that certifies it, or ``EXACT``, ``FALSE``, ``UNKNOWN``.
        wrong: [N, 2]: a point of each falsified box with another class than y; NaN elsewhere.
        low, high: corners [2] of the part that is drawn.
        classes: [R, R], the class at each point of a grid over it, a row for each height.
    """

    x: Tensor
    y: Tensor
    eps: float
    by: tuple[str, ...]
    wrong: Tensor
    low: Tensor
    high: Tensor
    classes: Tensor

    @property
    def certified(self) -> Tensor:
        """[N] bool: whether anything certifies the box."""
        return torch.tensor([name not in (FALSE, UNKNOWN) for name in self.by])


def regions(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    resolution: int = 200,
    time_limit: float = 60.0,
) -> Regions:
    """Say what a net makes of the plane around some points, and who certifies their boxes.

    Args:
        model: [N, 2] ↦ logits [N, K].
        x, y: the points [N, 2] and their labels [N].
        eps: half the side of the boxes, an ℓ∞ ball around each point.
        resolution: of the grid.
        time_limit: seconds for the mixed-integer programs of one box.

    Raises:
        InputError: the points are not those of a plane.
    """
    if x.dim() != 2 or x.shape[1] != 2:
        raise InputError(f"x has shape {list(x.shape)}: regions are drawn in the plane, [N, 2]")
    by, wrong = _judged(model, x, y, eps, time_limit)
    reach = eps + BEYOND
    low, high = x.amin(0) - reach, x.amax(0) + reach
    with torch.no_grad():
        classes = model(grid(low, high, resolution)).argmax(1)
    classes = classes.reshape(resolution, resolution).cpu()
    return Regions(x.cpu(), y.cpu(), eps, by, wrong.cpu(), low.cpu(), high.cpu(), classes)


def grid(low: Tensor, high: Tensor, resolution: int) -> Tensor:
    """Return the points [R², 2] of a grid from corner to corner, the first coordinate fastest."""
    first, second = (
        torch.linspace(float(a), float(b), resolution, dtype=low.dtype, device=low.device)
        for a, b in zip(low, high, strict=True)
    )
    down, across = torch.meshgrid(second, first, indexing="ij")
    return torch.stack([across.flatten(), down.flatten()], 1)


def _judged(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, time_limit: float
) -> tuple[tuple[str, ...], Tensor]:
    """Return which rung is the first to certify each box, and where others are wrong."""
    ball, wrong = LinfBall(eps), torch.full_like(x, torch.nan)
    by = [UNKNOWN] * len(x)
    with torch.no_grad():
        z = model(x)
    rows = Classes((z.shape[1],)).against(y, z)[0]
    left = torch.arange(len(x), device=x.device)
    for rung in LADDER:
        if not len(left):
            return tuple(by), wrong
        proved = rung.lower(model, ball, x[left], rows[left]).gt(0).all(1)
        for i in left[proved].tolist():
            by[i] = rung.name
        left = left[~proved]
    if len(left):
        verdict = LADDER[-1].net(model, ball).exact(x[left], y[left], time_limit)
        for i, j in enumerate(left.tolist()):
            by[j] = EXACT if verdict.verified[i] else FALSE if verdict.falsified[i] else UNKNOWN
        wrong[left[verdict.falsified]] = verdict.x[verdict.falsified]
    return tuple(by), wrong


def draw(panels: Mapping[str, Regions]) -> Figure:
    """Draw one panel for each net: regions, points, and boxes coloured by what certifies them.

    A cross marks where a falsified box has another class. Needs matplotlib.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(4.6 * len(panels), 5.8), layout="constrained")
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, found) in zip(row, panels.items(), strict=True):
        _panel(axes, found)
        count = int(found.certified.sum())
        axes.set_title(f"{title}\n{count} of {len(found.x)} boxes certified, ε = {found.eps:g}")
    used = {name for found in panels.values() for name in found.by}
    lines = [
        Line2D([], [], color=colour, lw=2, ls="--" if name in (FALSE, UNKNOWN) else "-", label=name)
        for name, colour in COLOURS.items()
        if name in used
    ]
    if FALSE in used:
        lines.append(Line2D([], [], color="k", ls="", marker="x", label="another class here"))
    figure.legend(handles=lines, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _panel(axes: Axes, found: Regions) -> None:
    """Draw the regions of one net, points and boxes."""
    from matplotlib.patches import Rectangle

    (left, bottom), (right, top) = found.low.tolist(), found.high.tolist()
    axes.imshow(
        found.classes.numpy(),
        origin="lower",
        extent=(left, right, bottom, top),
        cmap="tab10",
        vmin=0,
        vmax=9,
        alpha=0.25,
    )
    for (a, b), name in zip((found.x - found.eps).tolist(), found.by, strict=True):
        side, style = 2 * found.eps, "--" if name in (FALSE, UNKNOWN) else "-"
        axes.add_patch(Rectangle((a, b), side, side, fill=False, ec=COLOURS[name], lw=2, ls=style))
    across, up = found.x.T.numpy()
    axes.scatter(across, up, c=found.y.numpy(), cmap="tab10", vmin=0, vmax=9, zorder=3)
    across, up = found.wrong.T.numpy()
    axes.scatter(across, up, c="k", marker="x", s=30, zorder=4)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.locator_params(nbins=4)
