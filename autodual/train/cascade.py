"""Cascades of nets: each is asked where those before it could certify nothing (thesis, 3.3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from autodual.calls import check_count
from autodual.certificate import guaranteed
from autodual.certified import Certified
from autodual.certify import certify
from autodual.errors import InputError
from autodual.labels import NONE
from autodual.threat import Eps
from autodual.train.trainer import Recipe, fit
from autodual.working import track

Make = Callable[[int], nn.Module]
"""The number of a stage, from 0 → a model to train."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What a cascade says of N examples.

    Attributes:
        labels: [N], the class; −100 where no stage has a certificate.
        stages: [N], which stage answered, from 0; −1 for none.
    """

    labels: Tensor
    stages: Tensor

    @property
    def answered(self) -> Tensor:
        """[N] bool: some stage has a certificate."""
        return self.stages >= 0

    def error(self, y: Tensor) -> float:
        """Return the share of examples without an answer, or with another one than y [N]."""
        return float((self.labels != y.to(self.labels)).double().mean())

    def __str__(self) -> str:
        counts = torch.bincount(self.stages[self.answered], minlength=1).tolist()
        parts = ", ".join(f"{count} by stage {i}" for i, count in enumerate(counts))
        return f"{int(self.answered.sum())} of {len(self.labels)} answered: {parts}"


class Cascade:
    """Nets in order, each of which answers for what it can certify and those before could not.

    An answer of a stage at some x says that this stage gives that class to all of the set around x.
    So it does to the input that x was moved from, if it was moved within the set and the set is a
    ball: an adversary can keep a cascade from answering, and can lead x to a later stage, but
    cannot turn what a stage says of the input itself. "No certificate" is an answer, too.

    Args:
        nets: what ``certify`` returned, in order.

    Raises:
        InputError: there is none, or one is not certified.
    """

    def __init__(self, nets: Sequence[Certified]) -> None:
        if not nets or not all(isinstance(net, Certified) for net in nets):
            raise InputError("a cascade needs nets that certify(...) returned, at least one")
        self.nets = tuple(nets)

    def __call__(self, x: Tensor, batch: int = 100) -> Answer:
        """Return the answers for a batch x [N, *], some examples at a time.

        Raises:
            UnsoundError: a stage guarantees nothing.
        """
        labels = torch.full((len(x),), NONE, device=x.device)
        stages = torch.full_like(labels, -1)
        for number, net in enumerate(self.nets):
            left = (stages < 0).nonzero().squeeze(1)
            for index in left.split(batch) if len(left) > 0 else ():
                found = guaranteed(net(x[index]))
                assert found.labels is not None
                labels[index[found.verified]] = found.labels[found.verified]
                stages[index[found.verified]] = number
        return Answer(labels, stages)


def train_cascade(
    make: Make,
    data: tuple[Tensor, Tensor],
    eps: Eps,
    recipe: Recipe,
    *,
    stages: int = 3,
    bounds: str = "ibp&dual",
    certified_by: str = "ibp&dual",
    batch: int = 100,
    out: Path | str | None = None,
) -> Cascade:
    """Train a cascade: each stage on what those before it did not certify (Algorithm 4).

    Args:
        make: makes the model of a stage.
        data: all inputs and labels.
        eps: the set.
        recipe: of every stage.
        stages: how many at most: it ends where too little is left for a batch.
        bounds, certified_by: what stages are trained by, and certified by.
        batch: how many examples are certified together.
        out: a folder; each stage keeps its files in one of its own there, and goes on from these.
    """
    check_count("stages", stages)
    x, y = data
    nets: list[Certified] = []
    for stage in range(stages):
        if stage > 0 and len(x) < recipe.batch:
            break
        model = make(stage).train()
        folder = None if out is None else Path(out) / f"stage{stage}"
        fit(certify(model, eps, bounds=bounds), (x, y), recipe, out=folder)
        nets.append(certify(model.eval(), eps, bounds=certified_by))
        left = ~torch.cat([*_verified(nets[-1], x, y, batch)])
        x, y = x[left], y[left]
    return Cascade(nets)


def _verified(net: Certified, x: Tensor, y: Tensor, batch: int) -> Iterator[Tensor]:
    """Yield which examples a net certifies for their labels, batch by batch."""
    for index in track(torch.arange(len(x), device=x.device).split(batch), "certifying"):
        yield guaranteed(net(x[index], y[index])).verified
