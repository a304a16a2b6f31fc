"""What a run of a model is written down as."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from autodual.front.ir import Constant, Source
from autodual.front.stand_ins import Reals

if TYPE_CHECKING:
    from torch._subclasses.fake_tensor import FakeTensorMode


def on_tensors(f: Callable[[Tensor], Any], arg: Any) -> Any:
    """Rebuild the arguments of an op, or what it returned, with ``f`` applied to each tensor."""
    if isinstance(arg, Tensor):
        return f(arg)
    if isinstance(arg, list | tuple):
        return [on_tensors(f, item) for item in arg]
    if isinstance(arg, dict):
        return {key: on_tensors(f, item) for key, item in arg.items()}
    return arg


def tensors_in(arg: Any) -> list[Tensor]:
    """Return the tensors in an op's arguments or results, in order."""
    found: list[Tensor] = []
    on_tensors(found.append, arg)
    return found


@dataclass(frozen=True, eq=False)
class Call:
    """One op as the model called it, on fake tensors; ``grad`` says whether gradients may pass.

    ``sizes`` are those of its results at the time: they may change in place later.
    """

    target: OpOverload
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Any
    sizes: tuple[torch.Size, ...]
    grad: bool
    source: Source | None


@dataclass
class Tape:
    """All calls of one run, what they start from, and what the model returned.

    ``starts`` are fake tensors as they were before the first call, by the identity of those that
    the calls use; ``constants`` say what stands behind those that are no inputs.
    """

    fake: FakeTensorMode | Reals
    inputs: list[Any]
    starts: dict[int, Tensor] = field(default_factory=dict)
    constants: dict[int, Constant] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    known: dict[int, Tensor] = field(default_factory=dict)
    returned: Any = None

    def start(self, tensor: Tensor, constant: Constant | None = None) -> Tensor:
        """Let a fake tensor be something that calls start from."""
        self.known[id(tensor)] = tensor
        with torch.no_grad():
            self.starts[id(tensor)] = tensor.detach()
        if constant is not None:
            self.constants[id(tensor)] = constant
        return tensor
