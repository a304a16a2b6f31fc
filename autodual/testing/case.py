"""An op with its arguments, of which some are perturbed: what a dual layer is tried on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from autodual.duals.base import Call, Hole
from autodual.duals.given import op_named
from autodual.errors import InputError
from autodual.front.capture import plain_attributes


@dataclass(frozen=True)
class Z:
    """A perturbed argument of this shape."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class T:
    """A constant tensor of this shape, random each time.

    Args:
        shape: its shape.
        kind: "normal", "positive", "integer" (−2 to 3), "mask" (bool) or "index" (0, 1 or 2).
    """

    shape: tuple[int, ...]
    kind: str = "normal"

    def draw(self, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """Return such a tensor."""
        if self.kind == "index":
            return torch.randint(0, 3, self.shape, generator=generator)
        if self.kind == "mask":
            return torch.rand(self.shape, generator=generator) > 0.5
        if self.kind == "integer":
            return torch.randint(-2, 4, self.shape, generator=generator)
        noise = torch.randn(self.shape, generator=generator, dtype=torch.float64).to(dtype)
        return noise.abs() + 0.1 if self.kind == "positive" else noise


@dataclass(frozen=True)
class Case:
    """A call of an op. Shapes are those of one example: where there is a batch, it is 1.

    Args:
        op: the op's name, like ``"aten.add.Tensor"``, a function or a module.
        args: its arguments by name, perturbed ones as ``Z(shape)``, random constants as
            ``T(shape)``; those not given keep the op's defaults, a module's parameters their
            values.
        index: which of its results is meant, if it has several.
    """

    op: str | Callable[..., Any]
    args: Mapping[str, Any] = field(default_factory=lambda: {"self": Z((1, 2, 3, 4))})
    index: int | None = None

    def __str__(self) -> str:
        shown = ",".join(f"{k}={v}" for k, v in self.args.items() if not isinstance(v, T | Z))
        op = type(self.op) if isinstance(self.op, nn.Module) else self.op
        name = op if isinstance(op, str) else getattr(op, "__name__", repr(op))
        return f"{name.removeprefix('aten.')}({shown})"

    @property
    def target(self) -> Callable[..., Any]:
        """The function that the name stands for."""
        if isinstance(self.op, str):
            return op_named(self.op, f"op={self.op!r}")
        if isinstance(self.op, type):
            raise InputError(f"give an instance of {self.op.__name__}, or the apply of a Function")
        if not callable(self.op):
            raise InputError(
                f"op={self.op!r} is none: give an op's name, 'aten.asinh.default', a function, an "
                "instance of a module or a Case"
            )
        return self.op

    def build(
        self, generator: torch.Generator, dtype: torch.dtype
    ) -> tuple[Call, list[torch.Size]]:
        """Return the call with random constants, and the shapes of its perturbed arguments."""
        shapes: list[torch.Size] = []

        def draw(arg: Any) -> Any:
            if isinstance(arg, Z):
                shapes.append(torch.Size(arg.shape))
                return Hole(len(shapes) - 1)
            if isinstance(arg, T):
                return arg.draw(generator, dtype)
            return [draw(a) for a in arg] if isinstance(arg, list) else arg

        if isinstance(self.op, nn.Module):
            return self._of_module(self.op, draw, dtype), shapes
        schema = getattr(self.target, "_schema", None)
        names = self.args if schema is None else {a.name: a.default_value for a in schema.arguments}
        unknown = set(self.args) - set(names)
        if unknown:
            raise InputError(f"{self.op} has no arguments {sorted(unknown)}; it has {list(names)}")
        args = {k: draw(self.args.get(k, default)) for k, default in dict(names).items()}
        return Call(self.target, args, self.index), shapes

    @property
    def takes(self) -> tuple[str, ...]:
        """The names of the op's arguments in order; none where only their places count."""
        if isinstance(self.op, nn.Module):
            return tuple(inspect.signature(self.op.forward).parameters)
        schema = getattr(self.target, "_schema", None)
        return () if schema is None else tuple(a.name for a in schema.arguments)

    def _of_module(self, module: nn.Module, draw: Callable[[Any], Any], dtype: torch.dtype) -> Call:
        """Return a call of a module with the arguments that a captured one has."""
        known = inspect.signature(module.forward).parameters
        held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        own = {name: tensor.detach().to(dtype) for name, tensor in held.items()}
        unknown = set(self.args) - {*known, *held}
        if unknown:
            raise InputError(f"{self}: forward takes {', '.join(known)}, not {', '.join(unknown)}")
        args = {**plain_attributes(module), **own, **{k: draw(a) for k, a in self.args.items()}}

        def run(*values: Any) -> Tensor:
            named = dict(zip(args, values, strict=True))
            given = {name: named[name] for name in self.args if name not in held}
            tensors = {name: named[name] for name in held}
            result: Tensor = torch.func.functional_call(module, tensors, kwargs=given)
            return result

        return Call(run, args)
