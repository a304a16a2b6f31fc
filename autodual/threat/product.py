"""A set for each of several arguments: all of them move at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from autodual.errors import InputError
from autodual.interval import Interval
from autodual.threat.base import ThreatModel
from autodual.threat.union import relative

Key = int | str
Made = TypeVar("Made")


class Product(ThreatModel):
    """{(x₁′, …, x_m′) : xᵢ′ ∈ Bᵢ(xᵢ) for every i}, with σ(ν) = Σ σᵢ(νᵢ).

    What ``certify`` and attacks make of a mapping, such as ``{"x": LinfBall(0.1), "state": 0.2}``.
    Its x [N, D] are the arguments side by side, each written out as one row.

    Args:
        sets: a set for each argument, by position or name.
        shapes: the shapes of one example's arguments; ``around`` fills them in.

    Raises:
        InputError: there is no set.
    """

    def __init__(
        self, sets: Mapping[Key, ThreatModel], shapes: Sequence[torch.Size] | None = None
    ) -> None:
        if not sets:
            raise InputError("give a set for each perturbed argument, {'x': LinfBall(0.1), …}")
        self.sets, self.shapes = dict(sets), shapes
        self.symmetric = all(part.symmetric for part in sets.values())

    @property
    def keys(self) -> tuple[Key, ...]:
        """The positions or names of the arguments."""
        return tuple(self.sets)

    @property
    def members(self) -> tuple[ThreatModel, ...]:
        """The products of the members of each argument's set."""
        if all(len(part.members) == 1 for part in self.sets.values()):
            return (self,)
        chosen = itertools.product(*(part.members for part in self.sets.values()))
        return tuple(self._with(parts) for parts in chosen)

    def said(self, word: Callable[[object], str]) -> str:
        """Return each argument with its set."""
        return ", ".join(f"{key}: {part.said(word)}" for key, part in self.sets.items())

    def around(self, shapes: Sequence[torch.Size]) -> Product:
        """Return the set for arguments of these shapes, [N, *] without N."""
        return Product(self.sets, shapes)

    def named(self, keys: Sequence[Key]) -> Product:
        """Return the same sets with other names for their arguments."""
        return Product(dict(zip(keys, self.sets.values(), strict=True)), self.shapes)

    def scaled(self, factor: float) -> Product:
        """Return the product of the sets, each scaled."""
        return self._with([part.scaled(factor) for part in self.sets.values()])

    def check_shape(self, x: Tensor) -> None:
        """Raise unless what every argument's set holds fits it; looks at no values."""
        self._each(ThreatModel.check_shape, x)

    def check(self, x: Tensor) -> None:
        """Raise unless every argument's set is well defined around it."""
        self._each(ThreatModel.check, x)

    def select(self, x: Tensor, index: Tensor) -> Product:
        """Return the product of the sets for the examples at ``index``."""
        return self._with(self._each(lambda part, own: part.select(own, index), x))

    def reversed(self) -> Product:
        """Return the product of the sets, each reversed."""
        return self._with([part.reversed() for part in self.sets.values()])

    def fixed(self, x: Tensor) -> Product:
        """Return the product of the sets, each worked out for this batch."""
        return self._with(self._each(lambda part, own: part.fixed(own), x))

    def tensors(self) -> list[Tensor]:
        """Return the tensors that describe the sets."""
        return [tensor for part in self.sets.values() for tensor in part.tensors()]

    def replace(self, others: Mapping[int, Tensor]) -> Product:
        """Return the product with tensors replaced, by their identity."""
        return self._with([part.replace(others) for part in self.sets.values()])

    def center(self, x: Tensor) -> Tensor:
        """Return the centers."""
        return _side_by_side(self._each(lambda part, own: part.center(own), x))

    def deviation(self, x: Tensor, nu: Tensor) -> Tensor:
        """Return Σ deviationᵢ(νᵢ)."""
        return torch.stack(self._each(lambda part, *own: part.deviation(*own), x, nu)).sum(0)

    def weights(self, x: Tensor) -> Tensor | None:
        """Return the weights, if every argument's set has some."""
        found = self._each(lambda part, own: part.weights(own), x)
        known = [
            w.expand(len(x), *own.shape[1:])
            for w, own in zip(found, self._split(x), strict=True)
            if w is not None
        ]
        return _side_by_side(known) if len(known) == len(found) else None

    def interval(self, x: Tensor) -> Interval:
        """Return the boxes around each."""
        boxes = self._each(lambda part, own: part.interval(own), x)
        ends = (
            [end.expand_as(own) for end, own in zip(side, self._split(x), strict=True)]
            for side in ([b.lower for b in boxes], [b.upper for b in boxes])
        )
        lower, upper = map(_side_by_side, ends)
        return Interval(lower, upper)

    def project(self, x: Tensor, point: Tensor) -> Tensor:
        """Project each argument."""
        return _side_by_side(self._each(lambda part, *own: part.project(*own), x, point))

    def steepest(
        self,
        x: Tensor,
        gradient: Tensor,
        generator: torch.Generator | None = None,
        point: Tensor | None = None,
    ) -> Tensor:
        """Return each argument's steepest step."""
        start = x if point is None else point

        def step(part: ThreatModel, own: Tensor, slope: Tensor, here: Tensor) -> Tensor:
            return part.steepest(own, slope, generator, here).expand_as(own)

        return _side_by_side(self._each(step, x, gradient, start))

    def maximizer(self, x: Tensor, direction: Tensor) -> Tensor:
        """Return each argument's maximizer."""
        return _side_by_side(self._each(lambda part, *own: part.maximizer(*own), x, direction))

    def random_start(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return a random point of each argument's set."""
        return _side_by_side(self._each(lambda part, own: part.random_start(own, generator), x))

    def distance(self, x: Tensor, point: Tensor) -> Tensor:
        """Return the largest distance of an argument, each in units of its own ε; ≤ 1 inside."""
        return torch.stack(self._each(lambda part, *own: relative(part, *own), x, point)).amax(0)

    def contains(self, x: Tensor, point: Tensor, tolerance: float = 1e-5) -> Tensor:
        """Return [N] bool: whether each argument lies in its set."""
        inside = self._each(lambda part, *own: part.contains(*own, tolerance), x, point)
        return torch.stack(inside).all(0)

    def _with(self, parts: Sequence[ThreatModel]) -> Product:
        return Product(dict(zip(self.sets, parts, strict=True)), self.shapes)

    def _each(self, ask: Callable[..., Made], *flat: Tensor) -> list[Made]:
        """Ask each argument's set about its part of tensors [N, D] or [N, S, D]."""
        parts = zip(*map(self._split, flat), strict=True)
        return [ask(one, *own) for one, own in zip(self.sets.values(), parts, strict=True)]

    def _split(self, flat: Tensor) -> list[Tensor]:
        if self.shapes is None:
            raise InputError(
                f"the sets {self} are those of a model's arguments: give the mapping to certify or "
                "an attack, as it is"
            )
        sizes = [math.prod(shape) for shape in self.shapes]
        pieces = flat.split(sizes, dim=-1)
        return [p.unflatten(-1, shape) for p, shape in zip(pieces, self.shapes, strict=True)]


def _side_by_side(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.flatten(1) for part in parts], 1)
