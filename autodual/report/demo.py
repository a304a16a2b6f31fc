"""Two small convolutional nets on real digits: one trained normally, one against the bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from autodual.attack import pgd
from autodual.certificate import Certificate
from autodual.certify import certify
from autodual.report.evaluate import evaluate
from autodual.threat import LinfBall
from autodual.train import Dataset, Ramp, Recipe, Robust, Standard, digits, fit, one_cycle

NAMES = ("standard", "robust")
BATCH = 50


@dataclass(frozen=True)
class Row:
    """Errors of one net at one ε: shares of the test digits in [0, 1]."""

    net: str
    eps: float
    clean: float
    attacked: float
    certified: float


def small_net() -> nn.Sequential:
    """Two convolutions and two linear layers, after the thesis's small MNIST net."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def train(data: Dataset, eps: float, epochs: int, seed: int) -> nn.Module:
    """Train one net; for ε > 0 against ``robust_loss`` with ε growing over the first half."""
    torch.manual_seed(seed)
    net = certify(small_net(), LinfBall(eps, domain=(0, 1)))
    recipe = Recipe(
        loss=Robust() if eps > 0 else Standard(),
        epochs=epochs,
        batch=BATCH,
        eps=Ramp(0.0, 1.0, 0.0, epochs / 2),
        optimizer=partial(torch.optim.Adam, lr=3e-3),
        rate=one_cycle(5e-3),
        seed=seed,
    )
    return fit(net, (data.x, data.y), recipe).model.eval()


def errors(name: str, net: nn.Module, data: Dataset, radii: Sequence[float]) -> list[Row]:
    """Return clean, PGD and certified error on the test digits at each ε."""
    rows = []
    for eps in radii:
        ball = LinfBall(eps, domain=(0, 1))
        found = evaluate(net, (data.x_test, data.y_test), ball, rungs=(), attack=20, batch=120)
        rows.append(Row(name, eps, found.clean, found.attacked, found.certified))
    return rows


def run(out: Path, *, epochs: int, eps: float, seed: int) -> list[Row]:
    """Train, evaluate, print one table and write one picture."""
    console = Console()
    data = digits(seed)
    radii = [round(eps * f, 6) for f in (0.25, 0.5, 1.0, 1.5)]
    nets, rows = dict[str, nn.Module](), list[Row]()
    for name, target in zip(NAMES, (0.0, eps), strict=True):
        console.print(f"training, attacking and certifying the {name} net")
        nets[name] = train(data, target, epochs, seed)
        rows += errors(name, nets[name], data, radii)
    console.print(table(rows, eps))
    _draw(out, nets, data, rows, eps)
    console.print(f"picture: {out}")
    return rows


def table(rows: Sequence[Row], eps: float) -> Table:
    """Lay the errors out, one line per net and ε; the training ε is marked."""
    shown = Table(title="errors on 360 test digits: clean ≤ PGD ≤ true robust error ≤ certified")
    for column in ("net", "ε", "clean", "PGD", "certified"):
        shown.add_column(column, justify="left" if column == "net" else "right")
    for row in rows:
        mark = " *" if row.eps == eps else "  "
        errors = [f"{100 * e:.1f} %" for e in (row.clean, row.attacked, row.certified)]
        shown.add_row(row.net, f"{row.eps:g}{mark}", *errors, end_section=row.eps == rows[-1].eps)
    shown.caption = "* the ε the robust net was trained for"
    return shown


def _draw(
    out: Path, nets: dict[str, nn.Module], data: Dataset, rows: Sequence[Row], eps: float
) -> None:
    """Draw the error curves, and six digits with what an attack makes of them for each net."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.2), layout="constrained")
    panels = figure.subfigures(1, 2, width_ratios=[1, 1.15])
    assert isinstance(panels, np.ndarray)
    left, right = panels
    _draw_curves(left.subplots(), rows, eps)
    _draw_digits(right, nets, data, eps)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)


def _draw_curves(axes: object, rows: Sequence[Row], eps: float) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    for name, color in zip(NAMES, ("#c44e52", "#4c72b0"), strict=True):
        mine = [r for r in rows if r.net == name]
        x = [0.0, *(r.eps for r in mine)]
        attacked = [100 * e for e in (mine[0].clean, *(r.attacked for r in mine))]
        certified = [100 * e for e in (mine[0].clean, *(r.certified for r in mine))]
        axes.fill_between(x, attacked, certified, color=color, alpha=0.15)
        axes.plot(
            x, certified, "-o", color=color, label=f"{name}: certified (no attack can do more)"
        )
        axes.plot(x, attacked, "--o", color=color, label=f"{name}: PGD (an attack does this)")
    axes.axvline(eps, color="0.6", lw=1, ls=":")
    axes.set(xlabel="ε (pixels in [0, 1])", ylabel="test error, %", ylim=(-2, 102))
    axes.set_title("The truth lies in the shaded band")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_digits(figure: object, nets: dict[str, nn.Module], data: Dataset, eps: float) -> None:
    from matplotlib.figure import SubFigure

    assert isinstance(figure, SubFigure)
    picks = [int((data.y_test == digit).nonzero()[0]) for digit in (0, 2, 3, 5, 6, 8)]
    x, y = data.x_test[picks], data.y_test[picks]
    grid = figure.subplots(3, len(picks))
    ball = LinfBall(eps, domain=(0, 1))
    rows = [("original", x, y)]
    for name in NAMES:
        found = pgd(nets[name], x, y, ball, steps=40).x
        rows.append((name, found, nets[name](found).argmax(1)))
    safe = certify(nets["robust"], ball)(x, y)
    assert isinstance(safe, Certificate)
    for line, (name, images, says) in zip(grid, rows, strict=True):
        for i, axes in enumerate(line):
            axes.imshow(images[i, 0], cmap="gray_r", vmin=0, vmax=1)
            axes.set_xticks([])
            axes.set_yticks([])
            wrong = int(says[i]) != int(y[i])
            proof = " proved" if name == "robust" and bool(safe.verified[i]) else ""
            axes.set_title(
                f"{int(says[i])}{proof}", fontsize=9, color="#c44e52" if wrong else "0.2"
            )
        label = name if name == "original" else f"{name} net,\nattacked"
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    figure.suptitle(f"What the net says under attack at ε = {eps:g}", fontsize=11)
