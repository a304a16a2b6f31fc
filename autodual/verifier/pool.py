"""The sub-problems that are open: the most promising first, as long as they fit into memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Nodes:
    """M sub-problems side by side.

    Attributes:
        bound: [M]: at every point of theirs some row is at least this; those above 0 are closed.
        case: [M], which case of the query each is a part of.
        data: what else is known of each, [M, *], by name.
    """

    bound: Tensor
    case: Tensor
    data: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.bound)

    def __getitem__(self, name: str) -> Tensor:
        return self.data[name]

    def select(self, index: Tensor) -> Nodes:
        """Return those at ``index``, which may repeat some, or where a mask holds."""
        data = {name: tensor[index] for name, tensor in self.data.items()}
        return Nodes(self.bound[index], self.case[index], data)

    @property
    def none(self) -> Nodes:
        """None of them."""
        return self.select(torch.zeros_like(self.case, dtype=torch.bool))

    def without(self, name: str) -> Nodes:
        """Return them without some of what is known."""
        return Nodes(self.bound, self.case, {k: t for k, t in self.data.items() if k != name})

    @classmethod
    def cat(cls, parts: list[Nodes]) -> Nodes:
        """Join some, which have the same data."""
        first = parts[0]
        if len(parts) == 1:
            return first
        data = {name: torch.cat([p.data[name] for p in parts]) for name in first.data}
        return cls(torch.cat([p.bound for p in parts]), torch.cat([p.case for p in parts]), data)

    @property
    def bytes(self) -> int:
        """How much memory they take."""
        tensors = [self.bound, self.case, *self.data.values()]
        return sum(t.element_size() * t.nelement() for t in tensors)


@dataclass(frozen=True, eq=False)
class Step:
    """What became of some sub-problems.

    Attributes:
        children: those to go on with.
        points, case: points that are worth trying, [P, n], and the case of each, [P].
        stuck: those that cannot be cut any more and are not decided.
        learned: what the next steps may go by.
    """

    children: Nodes
    points: Tensor
    case: Tensor
    stuck: Nodes
    learned: Mapping[str, float] = field(default_factory=dict)


class Pool:
    """Open sub-problems. Parts are kept as they came; the newest are taken while memory is short.

    Whatever stops a search, none may be lost: those taken stay known until they are settled.

    Args:
        most: how many may be kept, about.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.parts: list[Nodes] = []
        self.taken: Nodes | None = None

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def bound(self) -> float:
        """The least bound of those that are open; ∞ without any."""
        return min((float(p.bound.amin()) for p in self.parts), default=torch.inf)

    def add(self, nodes: Nodes) -> None:
        """Keep some more."""
        if len(nodes) > 0:
            self.parts.append(nodes)

    def take(self, count: int) -> Nodes:
        """Return so many, or all: those with the least bounds, or the newest."""
        taken, rest = self._newest(count) if len(self) > self.most else self._least(count)
        self.taken = taken
        self.parts = rest
        return taken

    def settle(self) -> None:
        """Hear that what became of those taken is kept."""
        self.taken = None

    def give_back(self) -> None:
        """Keep those that were taken and not settled."""
        if self.taken is not None:
            self.add(self.taken)
            self.taken = None

    def _least(self, count: int) -> tuple[Nodes, list[Nodes]]:
        """Return those with the least bounds, and the rest."""
        whole = Nodes.cat(self.parts)
        if len(whole) <= count:
            return whole, []
        chosen = whole.bound.topk(count, largest=False).indices
        left = torch.ones(len(whole), dtype=torch.bool, device=chosen.device)
        left[chosen] = False
        return whole.select(chosen), [whole.select(left)]

    def _newest(self, count: int) -> tuple[Nodes, list[Nodes]]:
        """Return the newest, and the rest."""
        taken, rest = list[Nodes](), list(self.parts)
        while rest and count > 0:
            last = rest.pop()
            if len(last) > count:
                index = torch.arange(len(last), device=last.bound.device)
                rest.append(last.select(index[:-count]))
                last = last.select(index[-count:])
            taken.append(last)
            count -= len(last)
        return Nodes.cat(taken), rest
