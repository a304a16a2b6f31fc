"""What a training leaves to read: a table, TensorBoard's files, a picture."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from autodual.files import replacing
from autodual.train.trainer import Hook, State


@dataclass
class Table(Hook):
    """Writes the history as a .csv file after each epoch."""

    path: Path

    def after_epoch(self, state: State) -> None:
        """Write it anew."""
        names = list(dict.fromkeys(name for row in state.history for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names)
        writer.writeheader()
        writer.writerows(state.history)
        with replacing(self.path) as file:
            file.write(text.getvalue().encode())


@dataclass
class Board(Hook):
    """Writes the history for TensorBoard, which must be installed."""

    folder: Path

    def after_epoch(self, state: State) -> None:
        """Add a point to each curve."""
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(self.folder)) as writer:
            for name, value in state.history[-1].items():
                writer.add_scalar(name, value, state.epoch)


@dataclass
class Curves(Hook):
    """Draws the history after each epoch: the loss, and the errors that validation gives."""

    path: Path

    def after_epoch(self, state: State) -> None:
        """Draw it anew."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        epochs = [row["epoch"] for row in state.history]
        left.plot(epochs, [row["loss"] for row in state.history], color="#4c72b0")
        left.set(xlabel="epoch", ylabel="training loss")
        beside = left.twinx()
        beside.plot(epochs, [row["scale"] for row in state.history], color="0.7", ls=":")
        beside.set(ylabel="share of ε", ylim=(0, None))
        for name in ("clean", "attacked", "error"):
            told = [(row["epoch"], 100 * row[name]) for row in state.history if name in row]
            if told:
                right.plot(*zip(*told, strict=True), label=LABELS.get(name, name))
        right.set(xlabel="epoch", ylabel="error, %", ylim=(0, None))
        if right.lines:
            right.legend(frameon=False)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(self.path, dpi=120)


LABELS = {"error": "what the best is chosen by"}
