"""What a move sees: the value at its target, for all sources at once.

Where every pixel has the same moves, these are shifts of one flat picture, and no index is looked
up. Between its rows lie enough cells that no mass may enter for a shift not to reach the next row
by mistake.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch.nn.functional as F
from torch import Tensor

Group = tuple[Tensor, Sequence[int]]
"""What some moves cost, [] or [P], and which they are."""


@dataclass(frozen=True, eq=False)
class Lanes(ABC):
    """Moves between the P cells of a picture.

    Attributes:
        groups: the moves but for that to stay, by their cost.
    """

    groups: Sequence[Group]

    @abstractmethod
    def flat(self, values: Tensor, fill: float) -> Tensor:
        """Return values [R, S, *] cell by cell, [R, S, P], with ``fill`` where no pixel is."""

    @abstractmethod
    def lay(self, cells: Tensor, fill: float) -> Tensor:
        """Return the picture of cells [R, S, P] that moves look at, ``fill`` around them."""

    @abstractmethod
    def see(self, picture: Tensor, move: int) -> Tensor:
        """Return the value at a move's target for each source, [R, S, P]."""

    @abstractmethod
    def land(self, picture: Tensor, move: int, sent: Tensor) -> None:
        """Add what each source sends [R, S, P] to the target of a move."""

    @abstractmethod
    def cells(self, picture: Tensor) -> Tensor:
        """Return the cells [R, S, P] of a picture."""

    @abstractmethod
    def pixels(self, cells: Tensor) -> Tensor:
        """Return the values [R, S, D] of the pixels among cells."""


@dataclass(frozen=True, eq=False)
class Shifts(Lanes):
    """The same moves from every pixel of images [C, H, W], or of windows of such.

    Attributes:
        offsets: (down, right) of each move.
        pads: how many cells without a pixel follow each row, and rows of them each channel; windows
            whose border no mass crosses need none.
        width: of a row, pads included.
    """

    offsets: Sequence[tuple[int, int]]
    shape: tuple[int, int, int]
    pads: tuple[int, int]

    @cached_property
    def _width(self) -> int:
        return self.shape[2] + self.pads[1]

    @cached_property
    def _ends(self) -> int:
        """How many cells must lie before the first and after the last."""
        return max(abs(down * self._width + right) for down, right in self.offsets)

    def flat(self, values: Tensor, fill: float) -> Tensor:
        """Return the rows one after another."""
        images = values.reshape(*values.shape[:2], *self.shape)
        return F.pad(images, (0, self.pads[1], 0, self.pads[0]), value=fill).flatten(2)

    def lay(self, cells: Tensor, fill: float) -> Tensor:
        """Return the cells with room for shifts on both sides."""
        return F.pad(cells, (self._ends, self._ends), value=fill)

    def see(self, picture: Tensor, move: int) -> Tensor:
        """Return a slice."""
        return self._slice(picture, *self.offsets[move])

    def land(self, picture: Tensor, move: int, sent: Tensor) -> None:
        """Add to a slice."""
        self._slice(picture, *self.offsets[move]).add_(sent)

    def cells(self, picture: Tensor) -> Tensor:
        """Return the middle."""
        return self._slice(picture, 0, 0)

    def pixels(self, cells: Tensor) -> Tensor:
        """Cut the pads off."""
        channels, height, width = self.shape
        rows = cells.unflatten(2, (channels, height + self.pads[0], self._width))
        return rows[..., :height, :width].flatten(2)

    def _slice(self, picture: Tensor, down: int, right: int) -> Tensor:
        start = self._ends + down * self._width + right
        return picture[..., start : start + picture.shape[-1] - 2 * self._ends]


@dataclass(frozen=True, eq=False)
class Lists(Lanes):
    """Any moves: target [J, D] is D where there is none."""

    target: Tensor

    def flat(self, values: Tensor, fill: float) -> Tensor:
        """Return the pixels."""
        return values.flatten(2)

    def lay(self, cells: Tensor, fill: float) -> Tensor:
        """Return the cells and one more, for moves that do not exist."""
        return F.pad(cells, (0, 1), value=fill)

    def see(self, picture: Tensor, move: int) -> Tensor:
        """Look the targets up."""
        return picture.index_select(2, self.target[move])

    def land(self, picture: Tensor, move: int, sent: Tensor) -> None:
        """Add at the targets."""
        picture.index_add_(2, self.target[move], sent)

    def cells(self, picture: Tensor) -> Tensor:
        """Return all but the last."""
        return picture[..., :-1]

    def pixels(self, cells: Tensor) -> Tensor:
        """Return the cells."""
        return cells


def shifts(
    offsets: Sequence[tuple[int, int]], cost: Tensor, shape: tuple[int, int, int], pads: bool
) -> Shifts:
    """Return the lanes of an image or, without pads, of a window that no mass leaves.

    Args:
        offsets: (down, right) of each move, to stay first.
        cost: [J].
        shape: [C, H, W].
        pads: whether a shift may lead from one row to another.
    """
    by_cost: dict[float, list[int]] = {}
    for move, price in enumerate(cost.tolist()):
        if move > 0:
            by_cost.setdefault(price, []).append(move)
    groups = [(cost[moves[0]], moves) for moves in by_cost.values()]
    reach = [max(abs(offset[d]) for offset in offsets) if pads else 0 for d in range(2)]
    return Shifts(groups, offsets, shape, (reach[0], reach[1]))


def lists(target: Tensor, cost: Tensor) -> Lists:
    """Return the lanes of moves from a table: target, cost [J, D], to stay first."""
    return Lists([(cost[move], [move]) for move in range(1, len(cost))], target)
