"""What the experiments on training share: options, data, nets, errors, tables, pictures."""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

import autodual as ad
from autodual import train
from autodual.attack import pgd
from autodual.train.nets import small

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pair = tuple[Tensor, Tensor]
Curve = tuple[Sequence[float], Sequence[float]]
"""The places and heights of a line's points."""

UNIT = (0.0, 1.0)
"""What pixels can be."""


def options(
    doc: str | None, name: str, *, epochs: int, examples: int, tests: int, only: bool = False
) -> argparse.ArgumentParser:
    """The options of every experiment; the defaults take some ten minutes of one core."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--data", type=Path, required=True, help="with mnist/ and fashion_mnist/")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 on")
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--examples", type=int, default=examples, help="how many to train on")
    parser.add_argument("--tests", type=int, default=tests, help="how many test images")
    if only:
        parser.add_argument("--only", help="which rows, names separated by ; (all if not given)")
    parser.add_argument("--out", type=Path, default=Path("out") / name)
    return parser


def chosen(args: argparse.Namespace, names: Iterable[str]) -> list[str]:
    """Return the names that --only asks for."""
    known = list(names)
    wanted = known if args.only is None else [name.strip() for name in args.only.split(";")]
    if missing := [name for name in wanted if name not in known]:
        raise SystemExit(f"--only: there is no {missing[0]!r} among {'; '.join(known)}")
    return wanted


def images(args: argparse.Namespace, name: str | Path = "mnist") -> train.Dataset:
    """Read the first images of a data set, and say what is measured."""
    data = train.load_data(args.data / name).first(args.examples, args.tests)
    seeds = ", ".join(map(str, range(args.seeds)))
    print(
        f"{name}: {len(data.x)} images, {args.epochs} epochs, {len(data.x_test)} test images, "
        f"seeds {seeds}, {torch.get_num_threads()} threads",
        flush=True,
    )
    return data


def wide(k: int) -> nn.Sequential:
    """The thesis's Wide(k) for MNIST (3.5.3): 4k and 8k filters, 128k units; 4 is near small."""
    return nn.Sequential(
        nn.Conv2d(1, 4 * k, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(4 * k, 8 * k, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(392 * k, 128 * k),
        nn.ReLU(),
        nn.Linear(128 * k, 10),
    )


def interval_net() -> nn.Sequential:
    """The thesis's small net, begun so that intervals keep their width."""
    model = small((1, 28, 28), 10)
    train.start_for_intervals(model)
    return model


def fitted(
    model: nn.Module,
    threat: ad.ThreatModel,
    data: Pair,
    recipe: train.Recipe,
    *,
    validate: Callable[[ad.Certified], Mapping[str, float]] | None = None,
    hooks: Sequence[train.Hook] = (),
    **options: Any,
) -> train.State:
    """Train a model for a set, and leave it in evaluation mode; the options are ``certify``'s."""
    net = ad.certify(model.train(), threat, **options)
    state = train.fit(net, data, recipe, validate=validate, hooks=hooks)
    model.eval()
    return state


def seeded(seed: int, make: Callable[[], nn.Module]) -> nn.Module:
    """Make a model whose first weights depend on the seed alone."""
    torch.manual_seed(seed)
    return make()


def resists(
    model: nn.Module, data: Pair, threat: ad.ThreatModel, steps: int = 50, restarts: int = 1
) -> Tensor:
    """Return [N] bool: PGD from so many starts finds no point of another class."""
    found = []
    for x, y in zip(data[0].split(100), data[1].split(100), strict=True):
        attack = pgd(model, x, y, threat, steps=steps, restarts=restarts, early_stop=True)
        found.append(~attack.success)
    return torch.cat(found)


def right(model: nn.Module, data: Pair) -> Tensor:
    """Return [N] bool: the model gives the label."""
    with torch.no_grad():
        return torch.cat([model(x) for x in data[0].split(500)]).argmax(1) == data[1]


def percent(which: Tensor) -> float:
    """Return a share in per cent."""
    return 100 * float(which.double().mean())


def halving(optimizer: Optimizer, steps: int) -> LRScheduler:
    """The thesis's rate for bounds, of 60 epochs: halved every 10 from the 30th on (3.5)."""
    return LambdaLR(optimizer, lambda step: 0.5 ** max(0, int(6 * step / steps) - 2))


ADAM = partial(torch.optim.Adam, lr=1e-3)


@dataclass
class Rows:
    """Numbers by name and seed: written down as they come, and medians over seeds as a table."""

    path: Path
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, seed: int, numbers: Mapping[str, float]) -> None:
        """Take the numbers of a run, print them and write the file anew."""
        self.rows.append({"name": name, "seed": seed, **numbers})
        print(f"{name}, seed {seed}: " + ", ".join(f"{k} {shown(v)}" for k, v in numbers.items()))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        names = list(dict.fromkeys(key for row in self.rows for key in row))
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)

    def of(self, name: str, key: str) -> list[float]:
        """Return a number of each seed."""
        return [row[key] for row in self.rows if row["name"] == name and key in row]

    def median(self, name: str, key: str) -> float:
        return statistics.median(self.of(name, key))

    def show(self, title: str) -> None:
        """Print the table: medians, and in brackets the lowest and the highest of several seeds."""
        names = list(dict.fromkeys(row["name"] for row in self.rows))
        skipped = ("name", "seed")
        keys = [k for k in dict.fromkeys(k for row in self.rows for k in row) if k not in skipped]
        lines = [["", *keys]]
        for name in names:
            cells = [_cell(self.of(name, key)) for key in keys]
            lines.append([name, *cells])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        seeds = sorted({row["seed"] for row in self.rows})
        print(f"\n{title}; seeds {', '.join(map(str, seeds))}")
        for line in lines:
            first, *rest = zip(line, widths, strict=True)
            print(f"{first[0]:<{first[1]}}  " + "  ".join(f"{cell:>{w}}" for cell, w in rest))
        print(f"each seed's numbers: {self.path}", flush=True)


def shown(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "–"
    middle = shown(statistics.median(values))
    ends = f" ({shown(min(values))}–{shown(max(values))})"
    return middle if len(values) == 1 else middle + ends


def lines(
    curves: Mapping[str, Curve], xlabel: str, ylabel: str, marker: str | None = None
) -> Figure:
    """Draw curves with a legend; those whose names are the same up to a comma share a colour."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 4.0), layout="constrained")
    axes = figure.subplots()
    colours: dict[str, str] = {}
    for name, (places, heights) in curves.items():
        family = name.split(",")[0]
        style = "--" if family in colours else "-"
        colour = colours.setdefault(family, f"C{len(colours)}")
        axes.plot(places, heights, style, color=colour, marker=marker, label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def saved(figure: Figure, path: Path) -> None:
    """Write a picture and say where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    print(f"picture: {path}", flush=True)
