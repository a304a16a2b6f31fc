"""Rows of convolutions: each touches a window of an image and is zero elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from autodual.bound.layer import Side
from autodual.bound.rows.dense import Dense
from autodual.bound.rows.listed import Listed, Touched, met
from autodual.bound.rows.memo import Memo
from autodual.duals import Planes
from autodual.duals.affine import Window
from autodual.front.ir import Batch, Value

DIRECT = 2, 16
"""How many times the products of a convolution its Toeplitz matrix may cost and still be used:
in general, and where the convolution reads few channels and runs slowly."""


@dataclass(frozen=True)
class Frame:
    """Where windows lie: that of cell (i, j) starts at (i·stride − offset, j·stride − offset).

    The cells are the pixels of the value whose unit rows these were.
    """

    grid: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    offset: tuple[int, int] = (0, 0)

    def through(self, window: Window) -> Frame:
        """Return where the windows lie in the input of an op that reads ``window``."""
        steps = zip(self.offset, self.stride, window.stride, window.padding, strict=True)
        moved = [(o * s + p, t * s) for o, t, s, p in steps]
        return Frame(self.grid, (moved[0][1], moved[1][1]), (moved[0][0], moved[1][0]))


@dataclass(frozen=True, eq=False, kw_only=True)
class Patches(Listed):
    """Rows on an image value [N, C, H, W], a window each: data [B, C, h, w].

    Row i lies at cell ``cell[i]`` [R] of the frame's grid. ``clean`` says that entries outside
    the image are zero; ``all``, that the rows come from a list of all entries, which data must
    not shorten.
    """

    value: Value
    frame: Frame
    cell: Tensor
    clean: bool = True
    all: bool = False

    @staticmethod
    def serve(value: Value) -> bool:
        """Return whether a value is a batch of images."""
        return len(value.shape) == 4 and value.shape[0] == Batch(1) and value.batch_dim == 0

    @classmethod
    def identity(
        cls,
        value: Value,
        owner: Tensor,
        unit: Tensor,
        like: Tensor,
        all: bool,
        negative: Tensor | None = None,
    ) -> Patches:
        """Return the unit rows of ``value`` at the flat positions ``unit`` of their examples."""
        _, channels, height, width = value.size(1)
        bank = torch.eye(channels, dtype=like.dtype, device=like.device)
        cells = height * width
        pick = unit // cells
        if negative is not None:
            bank, pick = torch.cat([bank, -bank]), pick + channels * negative
        return cls.at(value, bank, owner, unit % cells, pick, all)

    @classmethod
    def at(
        cls,
        value: Value,
        bank: Tensor,
        owner: Tensor,
        cell: Tensor,
        pick: Tensor | None,
        all: bool = False,
    ) -> Patches:
        """Return rows that touch one pixel each: its channels are the row ``pick`` of a bank."""
        height, width = value.size(1)[2:]
        frame, data = Frame((height, width)), bank[:, :, None, None]
        return cls(data, owner, pick, value=value, frame=frame, cell=cell, all=all)

    def add(self, other: Patches) -> Patches | None:
        """Return the sum, or None if the two lie in incompatible frames."""
        if self.frame.stride != other.frame.stride:
            return None
        offsets = list(zip(self.frame.offset, other.frame.offset, strict=True))
        offset = (max(offsets[0]), max(offsets[1]))
        size = [
            max(p.data.shape[2 + d] - p.frame.offset[d] for p in (self, other)) + offset[d]
            for d in range(2)
        ]
        alike = self.pick is other.pick
        total = sum(
            F.pad(p.data if alike else p.full(), p._margins(offset, size)) for p in (self, other)
        )
        assert isinstance(total, Tensor)
        frame = replace(self.frame, offset=offset)
        clean = self.clean and other.clean
        pick = self.pick if alike else None
        return replace(self, data=total, frame=frame, pick=pick, clean=clean)

    def pull_lines(self, lines: Planes, memo: Memo) -> Sequence[Patches]:
        """Pull the rows back through an elementwise op enclosed by ``lines`` [N, 1, C, H, W]."""
        pulled = lines.pull(self.data, lambda slope: self.own(slope, memo), self._picked)
        return list(map(self.become, pulled))

    def become(self, data: Tensor) -> Patches:
        """Return rows [R, *], zero outside the image, in the place of these."""
        return replace(self, data=data, pick=None, clean=True)

    def weigh(self, weights: Tensor, memo: Memo) -> Tensor:
        """Return Σⱼ wⱼ|νⱼ| for each row, [R], with ``weights`` [N or 1, *]."""
        flat = self.data.abs().flatten(1)
        if self.pick is not None and self._keeps(weights, memo):
            sums = memo(
                ("weigh", id(weights), self.frame, self.data.shape),
                lambda: self._windows(weights, memo) @ flat.mT,
            )
            return sums[self._pair(weights), self.pick]
        if self.pick is not None:
            flat = flat.index_select(0, self.pick)
        return met(flat, self.own(weights, memo).flatten(1))

    def touched(self, memo: Memo, halo: tuple[int, int]) -> Touched:
        """Return the rows' windows and what is around them, zero outside the image."""
        (top, left), (down, right) = self.frame.offset, halo
        rows = F.pad(self.cleaned(memo).full(), (right, right, down, down))
        frame = replace(self.frame, offset=(top + down, left + right))
        wide = replace(self, data=rows, pick=None, frame=frame)
        return self.owner, rows.unsqueeze(1), lambda tensor: wide.own(tensor, memo)

    def pull_affine(self, side: Side, memo: Memo) -> Sequence[Patches] | None:
        """Pull back through an op that reads windows; None if it does not or they cover all."""
        step, rule = side.step, side.rule
        window = None if step.own else rule.window(side.alone)
        if window is None or not all(map(Patches.serve, step.variables)):
            return None
        frame = self.frame.through(window)
        size = [
            (n - 1) * s + k
            for n, s, k in zip(self.data.shape[2:], window.stride, window.kernel, strict=True)
        ]
        images = [v.size(1) for v in step.variables]
        if window.pointwise:
            if any(image[2:] != self.value.size(1)[2:] for image in images):
                return None
        elif any(size[0] * size[1] >= image[2] * image[3] for image in images):
            return None
        nu = self if window.pointwise else self.cleaned(memo)
        shapes = [torch.Size((1, image[1], *size)) for image in images]
        local = side.alone.replace(window.local)

        def transpose(rows: Tensor) -> Sequence[Tensor]:
            return rule.transpose(local, rows.unsqueeze(1), shapes)

        if len(shapes) == 1 and not window.pointwise and _use_matrix(window, shapes[0]):

            def toeplitz() -> Tensor:
                unit = torch.eye(nu.width, dtype=nu.data.dtype, device=nu.data.device)
                return transpose(unit.reshape(nu.width, *nu.data.shape[1:]))[0].flatten(1)

            matrix = memo((step.out, nu.data.shape[2:]), toeplitz)
            pulled = [(nu.data.flatten(1) @ matrix).unflatten(1, shapes[0])]
        else:
            pulled = list(transpose(nu.data))
        clean = nu.clean and window.pointwise
        return [
            replace(nu, value=v, data=p.squeeze(1), frame=frame, clean=clean)
            for v, p in zip(step.variables, pulled, strict=True)
        ]

    def cleaned(self, memo: Memo) -> Patches:
        """Return the same rows with zeros outside the image."""
        if self.clean or not self._overhangs():
            return self
        inside = memo(
            ("inside", self.value),
            lambda: torch.ones(self.value.size(1), dtype=self.data.dtype, device=self.data.device),
        )
        return self.become(self.full() * self.own(inside, memo))

    def dense(self) -> Dense:
        """Write the rows out in full."""
        _, channels, height, width = self.value.size(1)
        h, w = self.data.shape[2:]
        device = self.data.device
        top = self.cell // self.frame.grid[1] * self.frame.stride[0] - self.frame.offset[0]
        left = self.cell % self.frame.grid[1] * self.frame.stride[1] - self.frame.offset[1]
        y = top[:, None, None] + torch.arange(h, device=device)[:, None]
        x = left[:, None, None] + torch.arange(w, device=device)
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        nowhere = height * width
        place = torch.where(inside, y * width + x, nowhere).flatten(1).unsqueeze(1)
        rows = self.full().flatten(2)
        image = rows.new_zeros(len(self), channels, nowhere + 1)
        image = image.scatter(2, place.expand_as(rows), rows)[..., :nowhere]
        return Dense(image.reshape(len(self), 1, channels, height, width), self.owner)

    def _margins(self, offset: Sequence[int], size: Sequence[int]) -> list[int]:
        """Return what ``F.pad`` must add for a window of this size that starts at ``offset``."""
        before = [o - mine for o, mine in zip(offset, self.frame.offset, strict=True)]
        after = [size[d] - before[d] - self.data.shape[2 + d] for d in range(2)]
        return [before[1], after[1], before[0], after[0]]

    def _overhangs(self) -> bool:
        """Return whether some cell's window leaves the image."""
        return max(*self.frame.offset, *self._beyond()) > 0

    def _beyond(self) -> list[int]:
        """Return how far the last windows reach beyond the image, in each dimension."""
        sizes = zip(
            self.frame.grid,
            self.frame.stride,
            self.frame.offset,
            self.data.shape[2:],
            self.value.size(1)[2:],
            strict=True,
        )
        return [(n - 1) * s - o + k - length for n, s, o, k, length in sizes]

    def _pair(self, tensor: Tensor) -> Tensor:
        """Return the index of each row's window among those of all examples and cells."""
        if len(tensor) == 1:
            return self.cell
        return self.owner * (self.frame.grid[0] * self.frame.grid[1]) + self.cell

    def own(self, tensor: Tensor, memo: Memo) -> Tensor:
        """Return each row's window [R, C, h, w] of a tensor [N, *], zero outside the image."""
        h, w = self.data.shape[2:]
        if self._keeps(tensor, memo):
            c = tensor.shape[-3]
            windows = self._windows(tensor, memo)
            return windows.index_select(0, self._pair(tensor)).unflatten(1, (c, h, w))
        pair, place = self._pair(tensor), None
        if tensor.device.type == "cpu" and not self.all:
            pair, place = torch.unique_consecutive(pair, return_inverse=True)
        cells = self.frame.grid[0] * self.frame.grid[1]
        index = pair // cells, pair % cells // self.frame.grid[1], pair % self.frame.grid[1]
        windows = self._view(tensor)[index]
        return windows if place is None else windows.index_select(0, place)

    def _keeps(self, tensor: Tensor, memo: Memo) -> bool:
        """Return whether there is room for the windows of all examples and cells."""
        windows = len(tensor) * self.frame.grid[0] * self.frame.grid[1]
        return windows * self.width * tensor.element_size() <= memo.room

    def _windows(self, tensor: Tensor, memo: Memo) -> Tensor:
        """Return the windows [N·cells, C·h·w] of all examples."""
        return memo(
            (id(tensor), self.frame, self.data.shape[2:]),
            lambda: self._view(tensor).reshape(-1, self.width),
        )

    def _view(self, tensor: Tensor) -> Tensor:
        """Return the windows [N, rows of cells, cells in a row, C, h, w] without copying them."""
        (h, w), (down, right) = self.data.shape[2:], self.frame.stride
        windows = self._padded(tensor).unfold(2, h, down).unfold(3, w, right)
        return windows.permute(0, 2, 3, 1, 4, 5)

    def _padded(self, tensor: Tensor) -> Tensor:
        """Return a tensor [N, C, H, W] cut or filled with zeros to what the windows cover."""
        image = tensor.reshape(len(tensor), *tensor.shape[-3:])
        ends = self._beyond()
        sides = self.frame.offset[1], ends[1], self.frame.offset[0], ends[0]
        wide = F.pad(image, [max(side, 0) for side in sides])
        return F.pad(wide, [min(side, 0) for side in sides])


def _use_matrix(window: Window, shape: torch.Size) -> bool:
    """Return whether a patch times a Toeplitz matrix beats the small convolution."""
    ratio = (shape[2] * shape[3]) / (window.kernel[0] * window.kernel[1])
    return ratio <= DIRECT[1 if shape[1] < 4 else 0]
