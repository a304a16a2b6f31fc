"""Errors of a net on a data set: clean, attacked and certified, example by example."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from autodual.attack import pgd
from autodual.calls import check_count
from autodual.certificate import guaranteed
from autodual.certified import Certified
from autodual.certify import certified_over
from autodual.errors import InputError, Interrupted
from autodual.front.arguments import check_classes
from autodual.ladder import Optimised, Solver
from autodual.ladder.base import check_time
from autodual.threat import Eps
from autodual.train.batches import Batches, Data
from autodual.working import working

WRONG, BROKEN, VERIFIED, OPEN = "wrong", "broken", "verified", "open"
"""What an example is: misclassified as it is, or by an attack's point; proved; none of these."""

LEVEL = 0.95


@dataclass(frozen=True)
class Row:
    """What became of one example.

    Attributes:
        index: its number in the data.
        label, predicted: classes.
        status: "wrong", "broken", "verified" or "open".
        by: the rung that proved it, or the attack that broke it.
        margin: the best lower bound on its least margin that was found; −∞ where none was sought.
        seconds: how long its batch took, shared among the batch.
    """

    index: int
    label: int
    predicted: int
    status: str
    by: str
    margin: float
    seconds: float


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Errors on a data set; print it.

    Attributes:
        rows: what became of each example.
        threat: the set, in words.
        finished: whether all of the data was looked at.
    """

    rows: tuple[Row, ...]
    threat: str
    finished: bool = True

    def __len__(self) -> int:
        return len(self.rows)

    def count(self, *statuses: str) -> int:
        """Return how many examples have one of these."""
        return sum(row.status in statuses for row in self.rows)

    @property
    def clean(self) -> float:
        """The error without an attack."""
        return self.count(WRONG) / len(self)

    @property
    def attacked(self) -> float:
        """The error under attack: the true robust error is at least this."""
        return self.count(WRONG, BROKEN) / len(self)

    @property
    def certified(self) -> float:
        """The share that is not proved: the true robust error is at most this."""
        return self.count(WRONG, BROKEN, OPEN) / len(self)

    def interval(self, *statuses: str, level: float = LEVEL) -> tuple[float, float]:
        """Return where the share of such examples lies in all the world (Clopper and Pearson)."""
        from scipy.stats import beta

        n, k, tail = len(self), self.count(*statuses), (1 - level) / 2
        low = 0.0 if k == 0 else float(beta.ppf(tail, k, n - k + 1))
        high = 1.0 if k == n else float(beta.ppf(1 - tail, k + 1, n - k))
        return low, high

    def __str__(self) -> str:
        said = f"{len(self)} examples within {self.threat}"
        lines = [said if self.finished else f"{said}; interrupted, not all are done"]
        for name, statuses in ERRORS.items():
            low, high = (100 * end for end in self.interval(*statuses))
            k = self.count(*statuses)
            lines.append(
                f"{name:10}{100 * k / len(self):7.2f} %  {k:>6}   95 %: {low:.2f} to {high:.2f} %"
            )
        for by, k in Counter(row.by for row in self.rows if row.by).items():
            lines.append(f"{k:>8} {by}")
        return "\n".join(lines)

    __repr__ = __str__


ERRORS = {"clean": (WRONG,), "attacked": (WRONG, BROKEN), "certified": (WRONG, BROKEN, OPEN)}
"""Which examples each error counts."""


def evaluate(
    net: nn.Module,
    data: Data,
    eps: Eps | None = None,
    *,
    rungs: Sequence[Solver] = (Optimised(20),),
    exact: float | None = None,
    attack: int = 40,
    batch: int = 100,
    rows: Path | str | None = None,
) -> Evaluation:
    """Return clean, attacked and certified errors, by a cascade: dear work for what is left.

    The net's own bound comes first, PGD then for what it leaves, and then each rung for what no
    attack broke.

    Args:
        net: what ``certify`` returned, or a model together with ``eps``.
        data: all inputs and labels, or a DataLoader that does not shuffle.
        eps: the set, for a model only.
        rungs: solvers to ask in turn, after the net's own.
        exact: seconds for mixed-integer programs for each example that is still open; None for no
            programs.
        attack: steps of PGD, 0 for none.
        batch: how many examples are taken together.
        rows: a .csv file that each batch's rows are added to. Where there is one from the same net,
            set and rungs, it goes on from there.

    Raises:
        InputError: an argument does not fit; ``rows`` is of something else.
        UnsoundError: the bound guarantees nothing (BatchNorm in training mode).
        Interrupted: Ctrl-C; ``partial`` is the evaluation so far.
    """
    net = certified_over(net, eps, "evaluate(model, data)")
    check_count("attack", attack, 0)
    if exact is not None:
        check_time(exact)
    cascade = [net, *(net.by(rung) for rung in rungs)]
    batches = Batches(data, batch, shuffle=False)
    book = Book(None if rows is None else Path(rows), _identity(cascade, exact, attack))
    found, start = list(book.rows), 0
    try:
        with working("evaluation", len(batches)) as bar:
            for x, y in batches.of(0):
                done, start = max(0, min(len(x), len(found) - start)), start + len(x)
                _check_same(found[start - len(x) : start - len(x) + done], y)
                if done < len(x):
                    new = _judged(cascade, x[done:], y[done:], exact, attack, start - len(x) + done)
                    book.add(new)
                    found += new
                bar.advance()
    except KeyboardInterrupt:
        if not found:
            raise
        partial = Evaluation(tuple(found), str(net.threat), finished=False)
        raise Interrupted(partial, f"{len(found)} examples are finished") from None
    return Evaluation(tuple(found), str(net.threat))


@torch.no_grad()
def _judged(
    cascade: Sequence[Certified],
    x: Tensor,
    y: Tensor,
    exact: float | None,
    steps: int,
    first: int,
) -> list[Row]:
    """Return the rows of a batch."""
    began, net, count = time.perf_counter(), cascade[0], len(x)
    status, by = [OPEN] * count, [""] * count
    margin = torch.full((count,), -torch.inf, dtype=torch.float64)
    admitted = net.admitted(x, sound=True)
    classes = check_classes(net.graph.output)
    if classes.cells:
        raise InputError("evaluate is for one label for each example; the model has many")
    labels = classes.read(y, count, x.device)
    predicted = classes.predict(admitted.output())

    def settle(where: Tensor, what: str, how: str) -> None:
        for i in where.tolist():
            status[i], by[i] = what, how

    def left() -> Tensor:
        open_ones = [i for i in range(count) if status[i] == OPEN]
        return torch.tensor(open_ones, dtype=torch.long, device=x.device)

    settle((predicted != labels).nonzero().squeeze(1), WRONG, "")
    for i, rung in enumerate(cascade):
        index = left()
        if len(index) == 0:
            break
        result = guaranteed(_part(rung, x, index)(x[index], labels[index]))
        least = result.margins.scatter(1, labels[index].unsqueeze(1), torch.inf).amin(1).double()
        margin[index.cpu()] = torch.maximum(margin[index.cpu()], least.cpu())
        settle(index[result.verified], VERIFIED, rung.method)
        index = left()
        if i == 0 and steps and len(index) > 0:
            around = net.threat.select(x, index)
            found = pgd(net.model, x[index], labels[index], around, steps=steps, early_stop=True)
            settle(index[found.success], BROKEN, "PGD")
    index = left()
    if exact is not None and len(index) > 0:
        verdict = _part(net, x, index).exact(x[index], labels[index], time_limit=exact)
        settle(index[verdict.falsified], BROKEN, "exact")
        settle(index[verdict.verified], VERIFIED, "exact")
        margin[index.cpu()] = torch.maximum(margin[index.cpu()], verdict.lower.double().cpu())
    each = (time.perf_counter() - began) / count
    columns = zip(labels.tolist(), predicted.tolist(), status, by, margin.tolist(), strict=True)
    return [Row(first + i, *parts, each) for i, parts in enumerate(columns)]


def _part(net: Certified, x: Tensor, index: Tensor) -> Certified:
    """Return the net with the sets of some examples."""
    return net.at(net.threat.select(x, index))


class Book:
    """A file of rows that grows batch by batch.

    Args:
        path: the file, or None for none.
        identity: what the rows are of, in its first line.
    """

    def __init__(self, path: Path | None, identity: str) -> None:
        self.path, self.rows = path, [*_read(path, identity)] if path is not None else []
        if path is not None and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            names = ",".join(Row.__annotations__)
            path.write_text(f"# {identity}\n{names}\n")

    def add(self, rows: Sequence[Row]) -> None:
        """Write more rows down."""
        if self.path is None:
            return
        lines = io.StringIO()
        csv.DictWriter(lines, [*Row.__annotations__]).writerows(asdict(row) for row in rows)
        with self.path.open("a", newline="") as file:
            file.write(lines.getvalue())
            file.flush()
            os.fsync(file.fileno())


def _read(path: Path, identity: str) -> Iterator[Row]:
    """Yield the rows of a file; a last line that was cut off is cut off."""
    if not path.exists():
        return
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if len(whole) < len(text):
        path.write_text(whole)
    head, *lines = whole.splitlines() or [""]
    if head != f"# {identity}":
        raise InputError(
            f"{path} has rows of something else ({head[2:] or 'no heading'}), not of {identity}: "
            "give another file, or remove it"
        )
    for row in csv.DictReader(lines):
        yield Row(
            int(row["index"]),
            int(row["label"]),
            int(row["predicted"]),
            row["status"],
            row["by"],
            float(row["margin"]),
            float(row["seconds"]),
        )


def _identity(cascade: Sequence[Certified], exact: float | None, attack: int) -> str:
    """Return what tells one evaluation from another: weights, set, rungs."""
    digest = hashlib.sha256()
    for name, tensor in cascade[0].model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    said = {
        "weights": digest.hexdigest()[:16],
        "set": str(cascade[0].threat),
        "rungs": [net.method for net in cascade],
        "exact": exact,
        "attack": attack,
    }
    return json.dumps(said, ensure_ascii=False)


def _check_same(rows: Sequence[Row], y: Tensor) -> None:
    """Raise unless rows from a file are of these labels."""
    if [row.label for row in rows] != [int(label) for label in y[: len(rows)]]:
        raise InputError("the file of rows has other labels than the data: give another file")
