"""Which outputs are read as logits, and which labels fit them.

As in ``cross_entropy``: classes lie along dimension 1, a label stands for every pixel, or whatever
else follows, and −100 for none. One logit alone decides between 0 and 1 as in
``binary_cross_entropy_with_logits``: class 0 has the logit 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autodual.errors import InputError

NONE = -100
"""The label of what has none: nothing is certified, trained or attacked there."""

Labels = Tensor | Sequence[Any] | np.ndarray
"""What labels are given as."""

INTEGERS = torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8


@dataclass(frozen=True)
class Classes:
    """How the logits of one example are laid out.

    Attributes:
        size: the shape of one example's output: K classes, then ``cells``; or no dimension.
    """

    size: tuple[int, ...]

    @property
    def binary(self) -> bool:
        """Whether one logit decides between two classes."""
        return not self.size or self.size[0] == 1

    @property
    def count(self) -> int:
        """The number of classes."""
        return 2 if self.binary else self.size[0]

    @property
    def cells(self) -> tuple[int, ...]:
        """The shape of one example's labels."""
        return self.size[1:]

    def logits(self, z: Tensor) -> Tensor:
        """Return the logits [N, classes, *cells] of outputs [N, *size]."""
        if not self.binary:
            return z
        z = z if self.size else z.unsqueeze(1)
        return torch.cat([torch.zeros_like(z), z], 1)

    def rows(self, like: Tensor) -> Tensor:
        """Return the logits of a cell as rows of its channels, [classes, channels]."""
        unit = torch.eye(self.count, dtype=like.dtype, device=like.device)
        return unit[:, 1:] if self.binary else unit

    def against(self, y: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows of z_y − z_k [N, classes − 1, channels] for labels y [N], and their k."""
        rank = torch.arange(self.count - 1, device=y.device)
        others, unit = rank + (rank >= y.unsqueeze(1)), self.rows(like)
        return unit[y].unsqueeze(1) - unit[others], others

    def predict(self, z: Tensor) -> Tensor:
        """Return the class [N, *cells] that outputs [N, *size] are given."""
        return self.logits(z).argmax(1)

    def read(
        self, y: Any, count: int, device: torch.device, look: bool = True, name: str = "labels"
    ) -> Tensor:
        """Return labels as an int64 tensor [count, *cells].

        Args:
            y: tensors of whole numbers, or what ``torch.as_tensor`` makes one of; for one logit
                truth values, and floats that are 0 or 1, too.
            count: the number of examples.
            device: where they are.
            look: whether values may be looked at.
            name: what the labels are called.

        Raises:
            InputError: wrong type, dtype, shape or device; a label that is no class.
        """
        labels = as_tensor(y, name, device)
        self._check_dtype(labels, name, look)
        shape = (count, *self.cells)
        if self.binary and labels.shape == (count, 1, *self.cells):
            labels = labels.reshape(shape)
        if labels.shape != shape or labels.device != device:
            rows = labels.shape == (count, self.count, *self.cells)
            hot = "; of one-hot rows take y.argmax(1)" if rows else ""
            raise InputError(
                f"{name} have shape {list(labels.shape)} on {labels.device}; x needs "
                f"{list(shape)} on {device}: one class for each {self._what}{hot}"
            )
        labels = labels.long()
        known = labels != NONE
        if look and bool(((labels < 0) | (labels >= self.count))[known].any()):
            low, high = int(labels[known].min()), int(labels[known].max())
            raise InputError(
                f"{name} span [{low}, {high}]; the model has classes 0 to {self.count - 1}. Where "
                f"there is no label, as in cross_entropy, give {NONE}."
            )
        return labels

    @property
    def _what(self) -> str:
        return "example and position, with classes along dimension 1" if self.cells else "example"

    def _check_dtype(self, labels: Tensor, name: str, look: bool) -> None:
        if labels.dtype in INTEGERS or (self.binary and labels.dtype == torch.bool):
            return
        if self.binary and labels.is_floating_point():
            if not look or bool(((labels == 0) | (labels == 1) | (labels == NONE)).all()):
                return
            raise InputError(
                f"{name} of a model with one logit must be 0 or 1, not numbers such as "
                f"{float(labels[(labels != 0) & (labels != 1)][0]):g}. For a regression there is "
                "net.within(x, tolerance, y); attacks take a loss= with success=."
            )
        shape = ", ".join(map(str, ("N", *self.cells)))
        raise InputError(
            f"{name} must be class numbers, an int64 tensor [{shape}], not "
            f"{labels.dtype}. Call y.long(); of class probabilities take y.argmax(1)."
        )


def classes_of(z: Tensor, count: int) -> Classes | None:
    """Return how an output [count, *] is read as logits, if it can be."""
    if z.dim() == 0 or len(z) != count or not z.is_floating_point():
        return None
    return Classes(tuple(z.shape[1:]))


def as_tensor(y: Any, name: str, device: torch.device) -> Tensor:
    """Return labels as a tensor; those in a list or an array on ``device``.

    Raises:
        InputError: they are no numbers.
    """
    if isinstance(y, Tensor):
        return y
    try:
        return torch.as_tensor(y, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} must be a tensor, a list or an array of class numbers, not "
            f"{type(y).__name__}: {error}"
        ) from None


def labelled_mean(values: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of values where there is a label, both of one shape."""
    known = labels != NONE
    return torch.where(known, values, 0).sum() / known.sum()
