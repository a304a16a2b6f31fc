"""How windows lie on images: pads, strides, dilations, and what a batch is for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from autodual.errors import InputError
from autodual.formats.onnx.value import LARGEST, Node, Value

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Windows:
    """Attributes of a convolution or a pool, a number for each spatial dimension."""

    kernel: Sizes
    strides: Sizes
    dilations: Sizes
    before: Sizes
    after: Sizes

    @property
    def even(self) -> bool:
        """Whether there are as many pads before as after."""
        return self.before == self.after

    @property
    def pads(self) -> list[int]:
        """In the order of ``torch.nn.functional.pad``."""
        both = list(zip(self.before, self.after, strict=True))
        return [size for sizes in reversed(both) for size in sizes]

    def counts(self, sizes: Sequence[int]) -> list[int]:
        """Return how many windows lie on images of a size, the last perhaps over the border.

        Raises:
            InputError: none does.
        """
        each = zip(
            sizes, self.kernel, self.strides, self.dilations, self.before, self.after, strict=True
        )
        counts = [
            -(-(size + b + a - (k - 1) * dilation - 1) // stride) + 1
            for size, k, stride, dilation, b, a in each
        ]
        if min(counts) < 1:
            raise InputError(f"windows {list(self.kernel)} do not fit on images {list(sizes)}")
        return counts


def windows_of(node: Node, kernel: Sequence[int], sizes: Sequence[int]) -> Windows:
    """Return how windows of a size lie on images of a size.

    Raises:
        InputError: an attribute has the wrong number of entries, or ``auto_pad`` is none known.
    """
    dims = len(sizes)
    strides, dilations = (node.ints(name) or [1] * dims for name in ("strides", "dilations"))
    pads = node.ints("pads") or [0] * (2 * dims)
    if not len(kernel) == len(strides) == len(dilations) == dims or len(pads) != 2 * dims:
        raise node.refuse(f"kernel, strides, dilations or pads do not fit {dims} dimensions")
    if min(*kernel, *strides, *dilations) < 1 or min(pads) < 0:
        raise node.refuse("kernel, strides, dilations and pads must be positive")
    if max(*kernel, *strides, *dilations, *pads) > LARGEST:
        raise node.refuse("kernel, strides, dilations or pads are too large")
    auto = node.text("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pads = _same(kernel, strides, dilations, sizes, auto == "SAME_UPPER")
    elif auto == "VALID":
        pads = [0] * (2 * dims)
    elif auto not in ("NOTSET", ""):
        raise node.refuse(f"auto_pad is {auto!r}")
    before, after = tuple(pads[:dims]), tuple(pads[dims:])
    return Windows(tuple(kernel), tuple(strides), tuple(dilations), before, after)


def _same(
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    sizes: Sequence[int],
    upper: bool,
) -> list[int]:
    """Return pads that make ⌈size / stride⌉ windows, the odd one after them if ``upper``."""
    before, after = [], []
    for k, stride, dilation, size in zip(kernel, strides, dilations, sizes, strict=True):
        total = max((-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size, 0)
        less, more = total // 2, total - total // 2
        before.append(less if upper else more)
        after.append(more if upper else less)
    return before + after


def on_images(node: Node, z: Value, function: Callable[[Tensor], Tensor]) -> Value:
    """Apply a function of [B, channels, *sizes] to all examples' images at once."""
    if not 3 <= z.rank <= 5:
        raise node.refuse(f"its input {list(z.shape)} has not one to three spatial dimensions")
    if z.lead == 0:
        return Value(function(z.tensor), 0)
    made = function(z.tensor.flatten(0, 1))
    return Value(made.unflatten(0, (z.tensor.shape[0], z.tensor.shape[1])), 1)
