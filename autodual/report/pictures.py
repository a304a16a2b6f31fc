"""Pictures of adversarial examples: the original, what the attack found, and the difference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from autodual.attack import worst_of
from autodual.errors import InputError
from autodual.threat import Ball, Box, L1Ball, L2Ball, LinfBall, ThreatModel, Union, Wasserstein

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Around = Callable[[float], ThreatModel]
"""ε → the set of that size around one image."""

RADII = tuple(0.01 * 1.35**k for k in range(16))
"""0.01 to 0.9."""

DOMAIN = (0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Example:
    """One image and an adversarial example of it.

    Attributes:
        original, found: the images, [C, H, W].
        before, after: the classes a model gives them.
        sizes: ε of the set in which it was found; of each member, if that is a union.
        distance: how far it lies, in the set's own measure.
    """

    original: Tensor
    found: Tensor
    before: int
    after: int
    sizes: tuple[float, ...]
    distance: float


def each_kind(x: Tensor) -> dict[str, Around]:
    """Return every kind of set around one image x [1, C, H, W] in [0, 1], by name.

    Lengths grow with the square root of the number of entries. In the box pixels can only become
    larger; the union is that of an ℓ∞, an ℓ2 and an ℓ1 ball.
    """
    length = x[0].numel() ** 0.5

    def linf(eps: float) -> ThreatModel:
        return LinfBall(eps, DOMAIN)

    def l2(eps: float) -> ThreatModel:
        return L2Ball(0.6 * length * eps, DOMAIN)

    def l1(eps: float) -> ThreatModel:
        return L1Ball(2 * length * eps, DOMAIN)

    return {
        "LinfBall": linf,
        "L2Ball": l2,
        "L1Ball": l1,
        "Box": lambda eps: Box(x, x + eps, DOMAIN),
        "Wasserstein": lambda eps: Wasserstein(length / 8 * eps, domain=DOMAIN),
        "Union": lambda eps: Union(linf(eps), l2(eps), l1(eps)),
    }


def smallest(
    model: nn.Module, x: Tensor, around: Around, radii: Sequence[float] = RADII
) -> Example | None:
    """Find the smallest set around an image in which attacks lead to another class, by bisection.

    Args:
        model: returns logits [N, K]; what has to change is the class it gives x.
        x: one image, [1, C, H, W].
        around: the set of each size.
        radii: the sizes, ascending.

    Returns:
        What was found there, or None if attacks fail at every size tried.

    Raises:
        InputError: x is not one image.
    """
    if x.dim() != 4 or len(x) != 1:
        raise InputError(f"x has shape {list(x.shape)}: give one image [1, C, H, W]")
    with torch.no_grad():
        y = model(x).argmax(1)
    low, high, best = 0, len(radii), None
    while low < high:
        middle = (low + high) // 2
        threat = around(radii[middle])
        found = worst_of(model, x, y, threat, early_stop=True)
        if not bool(found.success):
            low = middle + 1
            continue
        high = middle
        after = int(found.margins.scatter(1, y.unsqueeze(1), torch.inf).argmin())
        sizes = tuple(float(m.eps) for m in threat.members if isinstance(m, Ball))
        far = float(threat.distance(x, found.x))
        best = Example(x[0], found.x[0], int(y), after, sizes or (radii[middle],), far)
    return best


def of_each_kind(model: nn.Module, x: Tensor) -> dict[str, Example]:
    """Return the ``smallest`` adversarial example of one image for ``each_kind`` that has one."""
    found = {name: smallest(model, x, around) for name, around in each_kind(x).items()}
    return {name: example for name, example in found.items() if example is not None}


def draw(examples: Mapping[str, Example]) -> Figure:
    """Draw one row for each example: original, adversarial example and difference.

    Each difference has its own scale, beside it: blue where a pixel became smaller and red where
    it became larger. Images of several channels are drawn in colour if there are three; their
    difference is the mean over channels. Needs matplotlib.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.1)
    figure = Figure(figsize=(7.6, 0.4 + 1.8 * len(examples)), layout=layout)
    grid = figure.subplots(len(examples), 3, squeeze=False)
    for line, (name, example) in zip(grid, examples.items(), strict=True):
        change = (example.found - example.original).detach().mean(0)
        most = max(float(change.abs().max()), torch.finfo(change.dtype).tiny)
        _show(line[0], example.original, f"original: {example.before}")
        _show(line[1], example.found, f"attacked: {example.after}")
        shown = line[2].imshow(
            change.cpu().numpy(), cmap="RdBu_r", vmin=-1.2 * most, vmax=1.2 * most
        )
        line[2].set_title("difference", fontsize=10)
        scale = figure.colorbar(shown, ax=line[2], ticks=[-most, 0, most], shrink=0.9)
        scale.ax.set_yticklabels([f"−{most:.2g}", "0", f"+{most:.2g}"], fontsize=8)
        sizes = ", ".join(f"{eps:.2g}" for eps in example.sizes)
        far = f"\ndistance {example.distance:.2g}" if example.distance > 0 else ""
        line[0].set_ylabel(f"{name}\nε = {sizes}{far}", rotation=0, ha="right", va="center")
        for axes in line:
            axes.set(xticks=[], yticks=[])
    return figure


def _show(axes: Axes, image: Tensor, title: str) -> None:
    """Show an image [C, H, W] in [0, 1]: in colour if C is 3, else its mean as ink on paper."""
    pixels = image.detach().cpu()
    pixels = pixels.permute(1, 2, 0) if len(pixels) == 3 else pixels.mean(0)
    axes.imshow(pixels.numpy(), cmap="gray_r", vmin=0, vmax=1)
    axes.set_title(title, fontsize=10)
