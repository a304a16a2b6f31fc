"""What a net makes of a small box in the plane, and the polygons that bounds draw around it.

After the thesis's Figures 3.4 and 3.5, which stop at one bound: here each rung of the ladder draws
its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from autodual.errors import InputError
from autodual.report.regions import grid
from autodual.report.rungs import INTERVALS, LADDER, Rung
from autodual.threat import LinfBall

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HULL = "true, its hull"
"""The name of the least polygon with these directions: that of the outputs on a grid."""


@dataclass(frozen=True, eq=False)
class Polytopes:
    """A set of outputs, and half planes {z : c·z ≥ b} that hold it.

    Attributes:
        eps: half the side of the box of inputs.
        outputs: [R, R, 2], the outputs on a grid over the box, its edges included.
        directions: [D, 2], the unit vectors c.
        offsets: for each rung by name, and for ``HULL``, the bounds b [D].
    """

    eps: float
    outputs: Tensor
    directions: Tensor
    offsets: Mapping[str, Tensor]

    def polygon(self, name: str) -> Tensor:
        """Return the corners [V, 2] of the polygon that all of one rung's half planes leave."""
        return corners(self.directions, self.offsets[name])

    def area(self, name: str) -> float:
        """Return how large one rung's polygon is."""
        x, y = self.polygon(name).T
        return float((x * y.roll(-1) - y * x.roll(-1)).sum() / 2)


def polytopes(
    model: nn.Module,
    x: Tensor,
    eps: float,
    directions: int = 32,
    resolution: int = 40,
    rungs: Sequence[Rung] = (INTERVALS, *LADDER),
) -> Polytopes:
    """Bound the outputs of a net on the ℓ∞ ball around a point of the plane in many directions.

    Args:
        model: [N, 2] ↦ [N, 2].
        x: the point, [1, 2].
        eps: half the side of the box.
        directions: how many, three or more.
        resolution: of the grid whose outputs stand for all.
        rungs: which bounds.

    Raises:
        InputError: x is not one point of a plane; there are fewer than three directions.
    """
    if x.shape != (1, 2):
        raise InputError(f"x has shape {list(x.shape)}: give one point of the plane, [1, 2]")
    if directions < 3:
        raise InputError(f"{directions} half planes leave a side open: take three or more")
    angles = torch.arange(directions) * (2 * torch.pi / directions)
    C = torch.stack([angles.cos(), angles.sin()], 1).to(x)
    with torch.no_grad():
        z = model(grid(x[0] - eps, x[0] + eps, resolution))
    offsets = {rung.name: rung.lower(model, LinfBall(eps), x, C)[0] for rung in rungs}
    offsets[HULL] = (z @ C.T).amin(0)
    outputs = z.reshape(resolution, resolution, -1).cpu()
    return Polytopes(eps, outputs, C.cpu(), {name: b.cpu() for name, b in offsets.items()})


def corners(directions: Tensor, offsets: Tensor) -> Tensor:
    """Return the corners [V, 2] of {z : c·z ≥ b for all}, in order, as half planes cut a square.

    Args:
        directions: the rows c, unit vectors [D, 2] to all sides.
        offsets: b, [D].

    Raises:
        InputError: directions lie half a turn apart or more, and what they leave has no end.
    """
    C, b = directions.double(), offsets.double()
    angles = torch.atan2(C[:, 1], C[:, 0]).sort().values
    gap = float(torch.cat([angles, angles[:1] + 2 * math.pi]).diff().max())
    if gap > math.pi - 1e-6:
        raise InputError("the half planes leave a side open: give directions to all sides")
    far = 2 * float(b.abs().max()) / math.cos(gap / 2) + 1
    points = torch.tensor([[-far, -far], [far, -far], [far, far], [-far, far]]).double()
    for c, least in zip(C, b, strict=True):
        height = (points @ c - least).tolist()
        kept: list[Tensor] = []
        for i in range(len(points)):
            j = (i + 1) % len(points)
            if height[i] >= 0:
                kept.append(points[i])
            if (height[i] >= 0) != (height[j] >= 0):
                share = height[i] / (height[i] - height[j])
                kept.append(points[i] + share * (points[j] - points[i]))
        points = torch.stack(kept) if kept else points[:0]
    return points


def draw(rows: Mapping[str, Sequence[Polytopes]]) -> Figure:
    """Draw a row for each net, a column for each ε: outputs gray, and each rung's polygon.

    Interval arithmetic's would hide them all. Needs matplotlib.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    columns = max(map(len, rows.values()))
    figure = Figure(figsize=(3.7 * columns, 0.5 + 3.4 * len(rows)), layout="constrained")
    table = figure.subplots(len(rows), columns, squeeze=False)
    for line, (title, sets) in zip(table, rows.items(), strict=True):
        line[0].set_ylabel(f"{title}\n$z_2$")
        for axes, found in zip(line, sets, strict=False):
            _panel(axes, found)
    lines = [Line2D([], [], color="0.6", lw=6, label="true outputs")]
    named = next(iter(rows.values()))[0].offsets
    lines += [Line2D([], [], color=r.colour, label=r.name) for r in LADDER if r.name in named]
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False)
    return figure


def _panel(axes: Axes, found: Polytopes) -> None:
    """Draw the true outputs cell by cell, and every rung's polygon around them."""
    from matplotlib.collections import PolyCollection

    z = found.outputs
    cells = torch.stack([z[:-1, :-1], z[:-1, 1:], z[1:, 1:], z[1:, :-1]], 2).reshape(-1, 4, 2)
    gray = PolyCollection(list(cells.numpy()), facecolors="0.6", edgecolors="0.6", linewidths=0.3)
    axes.add_collection(gray)
    for i, rung in reversed(list(enumerate(LADDER))):  # the tighter wider, to be seen below others
        if rung.name in found.offsets:
            edge = found.polygon(rung.name)
            edge = torch.cat([edge, edge[:1]])
            axes.plot(*edge.T.numpy(), color=rung.colour, lw=0.9 + 0.6 * i)
    axes.set_title(f"ε = {found.eps:g}", fontsize=10)
    axes.set_xlabel("$z_1$")
    axes.locator_params(nbins=5)
    axes.margins(0.05)
