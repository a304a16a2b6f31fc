"""Errors of a net on a data set: clean, attacked and certified, example by example."""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch import distributed as dist

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
from autodual.train.batches import Batches, Data, own_rank
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
    sharded: bool = False,
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
        sharded: each process of torch.distributed's group takes its share of the batches, with a
            file of rows of its own (rows.1.csv beside rows.csv), and all return all of it. Every
            process must call.

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
    rank, ranks = own_rank() if sharded else (0, 1)
    batches = Batches(data, batch, shuffle=False)
    book = Book(None if rows is None else Path(rows), _identity(cascade, exact, attack), rank)
    found, start = {row.index: row for row in book.rows}, 0
    if ranks > 1:
        dist.barrier()  # nobody writes before all have read
    try:
        with working("evaluation", len(batches)) as bar:
            for i, (x, y) in enumerate(batches.of(0)):
                _check_same(found, start, y)
                left = [k for k in range(len(x)) if start + k not in found]
                if i % ranks == rank and left:
                    at = torch.tensor(left)
                    some = x[at.to(x.device)], y[at.to(y.device)]
                    new = _judged(cascade, *some, exact, attack, start + at)
                    book.add(new)
                    found |= {row.index: row for row in new}
                start += len(x)
                bar.advance()
    except KeyboardInterrupt:
        if not found:
            raise
        partial = Evaluation(_in_order(found), str(net.threat), finished=False)
        raise Interrupted(partial, f"{len(found)} examples are finished") from None
    if ranks > 1:
        shares: list[dict[int, Row]] = [{}] * ranks
        dist.all_gather_object(shares, found)
        found = {index: row for share in shares for index, row in share.items()}
    return Evaluation(_in_order(found), str(net.threat))


def _in_order(rows: Mapping[int, Row]) -> tuple[Row, ...]:
    """Return rows by their numbers."""
    return tuple(rows[index] for index in sorted(rows))


@torch.no_grad()
def _judged(
    cascade: Sequence[Certified],
    x: Tensor,
    y: Tensor,
    exact: float | None,
    steps: int,
    numbers: Tensor,
) -> list[Row]:
    """Return the rows of a batch, with their numbers in the data."""
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
    where = numbers.tolist(), labels.tolist(), predicted.tolist()
    return [
        Row(number, label, own, what, how, least, each)
        for number, label, own, what, how, least in zip(
            *where, status, by, margin.tolist(), strict=True
        )
    ]


def _part(net: Certified, x: Tensor, index: Tensor) -> Certified:
    """Return the net with the sets of some examples."""
    return net.at(net.threat.select(x, index))


class Book:
    """A file of rows that grows batch by batch.

    Args:
        path: the file, or None for none.
        identity: what the rows are of, in its first line.
        rank: the process that writes; each has a file of its own, and reads all of them.
    """

    def __init__(self, path: Path | None, identity: str, rank: int = 0) -> None:
        self.path, self.identity, self.rows, self._begun = path, identity, list[Row](), False
        if path is None:
            return
        if rank > 0:
            self.path = path.with_name(f"{path.stem}.{rank}{path.suffix}")
        of_rank = re.compile(rf"{re.escape(path.stem)}(\.\d+)?{re.escape(path.suffix)}")
        for other in sorted(path.parent.glob(f"{glob.escape(path.stem)}*{path.suffix}")):
            if of_rank.fullmatch(other.name):
                self.rows += _read(other, identity)

    def add(self, rows: Sequence[Row]) -> None:
        """Write more rows down."""
        if self.path is None:
            return
        if not self._begun:
            self._begin(self.path)
        lines = io.StringIO()
        csv.DictWriter(lines, [*Row.__annotations__]).writerows(asdict(row) for row in rows)
        with self.path.open("a", newline="") as file:
            file.write(lines.getvalue())
            file.flush()
            os.fsync(file.fileno())

    def _begin(self, path: Path) -> None:
        """Make the file, or cut off its last line where that was cut off."""
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text() if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        if not whole or len(whole) < len(text):
            path.write_text(whole or f"# {self.identity}\n{','.join(Row.__annotations__)}\n")
        self._begun = True


def _read(path: Path, identity: str) -> Iterator[Row]:
    """Yield the whole rows of a file."""
    text = path.read_text()
    head, *lines = text[: text.rfind("\n") + 1].splitlines() or [""]
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


def _check_same(found: Mapping[int, Row], start: int, y: Tensor) -> None:
    """Raise unless rows from a file are of these labels."""
    rows = {i: found[start + i] for i in range(len(y)) if start + i in found}
    if any(row.label != int(y[i]) for i, row in rows.items()):
        raise InputError("the file of rows has other labels than the data: give another file")
