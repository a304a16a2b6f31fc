"""A network read from an ONNX file: what it computes, and the file to hold it against."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autodual.errors import InputError, ReplayError
from autodual.formats.onnx.building import Built, compute, entry, last_readers, shown
from autodual.formats.onnx.replay import Replay
from autodual.formats.onnx.value import Node, Value

ROUNDING = 2**7
"""How far outputs may differ: units in the last place of the largest number on the way to them.

Sums of some thousands and tens of layers come to some tens of these. A wrong attribute or a wrong
axis makes far more.
"""


class Operation(nn.Module):
    """One node of the file. It is a module so that errors can name it."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.node = node

    def forward(self, *values: Value | None) -> tuple[Value, ...]:
        """Return what the node makes."""
        return compute(self.node, values)

    def extra_repr(self) -> str:
        """Name the node."""
        return str(self.node)


class OnnxModel(nn.Module):
    """A network from an ONNX file, made by ``load_onnx``.

    It takes N examples at once, whatever the file says of batches: what it gives for each is what
    the file's graph gives for it alone. The stored tensors are buffers.

    Attributes:
        input_shape, output_shape: of one example, without N. A leading 1 in the file stands for N
            where other dimensions follow it.
    """

    _autodual_straight = True
    """No number decides what it does: what a file leaves open the reader refuses."""

    def __init__(self, built: Built, replay: Replay, names: tuple[str, str]) -> None:
        super().__init__()
        self.input_shape, self.output_shape = shown(replay.shape), shown(built.shape)
        self._input, self._output = names
        self._replay = replay
        self.constants = nn.Module()
        self._held = {name: f"{i}_{_clean(name)}" for i, name in enumerate(built.constants)}
        for name, tensor in built.constants.items():
            self.constants.register_buffer(self._held[name], tensor)
        self.operations = nn.ModuleDict(
            {
                _clean(f"{i}:{s.node.op} {s.node.name}"): Operation(s.node)
                for i, s in enumerate(built.steps)
            }
        )
        self._wiring = [(step.inputs, step.outputs) for step in built.steps]
        self._last = last_readers(built.steps, self._output)

    @property
    def stored(self) -> torch.dtype:
        """The dtype of inputs in the file."""
        return self._replay.stored

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs [N, *output_shape] for inputs [N, *input_shape]."""
        return self._run(x, None)

    def _run(self, x: Tensor, sizes: list[float] | None) -> Tensor:
        """Return the outputs; note the largest number of each value on the way, if asked to."""
        if tuple(x.shape[1:]) != self.input_shape:
            wanted = ", ".join(["N", *map(str, self.input_shape)])
            raise InputError(f"the network takes inputs [{wanted}], not {list(x.shape)}")
        values = {self._input: entry(x, self._replay.shape)}
        for i, (operation, (inputs, outputs)) in enumerate(
            zip(self.operations.values(), self._wiring, strict=True)
        ):
            made = operation(*(self._value(name, values) for name in inputs))
            values.update(zip(outputs, made, strict=False))
            if sizes is not None:
                sizes += [_largest(value.tensor) for value in made]
            for name in self._last.get(i, ()):
                values.pop(name, None)
        return values[self._output].tensor

    def _value(self, name: str, values: dict[str, Value]) -> Value | None:
        """Return what stands under a name."""
        if name in values or not name:
            return values.get(name)
        return Value(getattr(self.constants, self._held[name]), None)

    def replay(self, x: Tensor) -> Tensor:
        """Return what onnxruntime gives for inputs [N, *input_shape], one by one.

        They are rounded to the type that the file has, and so are the outputs.
        """
        made = self._replay(x.reshape(len(x), *self.input_shape))
        return made.squeeze(1) if made.dim() > 2 and made.shape[1] == 1 else made

    def check(self, points: Tensor) -> None:
        """Compare the network with onnxruntime at points [N, *input_shape], rounded as the file is.

        Two computations of one network differ by rounding: by ``ROUNDING`` units in the last place
        of the largest number that arises on the way, at most. Where one of them is infinite or NaN,
        so is the other.

        Raises:
            ReplayError: they differ by more.
        """
        floats = (t for t in self.constants.buffers() if t.is_floating_point())
        x = points.detach().to(self._replay.stored).to(next(floats, points))
        sizes = [_largest(x)]
        with torch.no_grad():
            mine = self._run(x, sizes)
        theirs = self.replay(x).to(mine)
        unit = max(torch.finfo(kind).eps for kind in (self._replay.stored, mine.dtype))
        _compare(mine, theirs, ROUNDING * unit * max(sizes))


def _compare(mine: Tensor, theirs: Tensor, tolerance: float) -> None:
    """Raise where outputs differ by more than a tolerance."""
    if mine.shape != theirs.shape:
        raise ReplayError(
            f"the network gives outputs {list(mine.shape)}, and onnxruntime {list(theirs.shape)}"
        )
    same = (mine == theirs) | (mine.isnan() & theirs.isnan())
    difference = torch.where(same, torch.zeros_like(mine), (mine - theirs).abs())
    wrong = ~(difference <= tolerance)
    if bool(wrong.any()):
        point = int(wrong.flatten(1).any(1).nonzero()[0])
        raise ReplayError(
            f"at point {point} the network and onnxruntime differ by "
            f"{float(difference[point].max()):.3g}, and rounding explains {tolerance:.3g}"
        )


def _largest(tensor: Tensor) -> float:
    """Return the largest finite magnitude in a tensor of floats."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return 0.0
    return float(tensor.abs().nan_to_num(0.0, 0.0, 0.0).max())


def _clean(name: str) -> str:
    """Return a name that a module or a buffer can have."""
    return re.sub(r"[^\w/: -]", "_", name)[:100]


def sample(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return points for a comparison: zero, and some of several sizes, [4, *shape]."""
    random = torch.Generator().manual_seed(0)
    near, wide = torch.rand(2, *shape, generator=random), torch.randn(1, *shape, generator=random)
    return torch.cat([torch.zeros(1, *shape), near, 3 * wide]).to(dtype)
