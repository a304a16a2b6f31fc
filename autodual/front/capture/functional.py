"""Tape → program: the same ops without views and writes, in ATen ops that have dual layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from autodual.errors import CaptureError
from autodual.front.capture.decompositions import Table
from autodual.front.capture.tape import Call, Tape, on_tensors, tensors_in
from autodual.front.ir import Constant, Source
from autodual.front.stand_ins import Uncompiled

aten = torch.ops.aten


@dataclass(frozen=True)
class Ref:
    """A tensor of a program, by its number."""

    number: int


@dataclass(frozen=True, eq=False)
class Result:
    """A tensor of a program: what it looks like in this run."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, eq=False)
class Step:
    """One functional op. ``args`` hold ``Ref``s by schema name, defaults filled in.

    ``outs`` are the numbers of its results; ``single`` says whether it returns a bare tensor.
    """

    target: OpOverload
    args: Mapping[str, Any]
    outs: tuple[int | None, ...]
    single: bool
    grad: bool
    source: Source | None


@dataclass
class Program:
    """One run of a model, without side effects.

    ``inputs`` and ``returned`` are leaves: a ``Ref`` for each tensor, and whatever else.
    """

    inputs: list[Any] = field(default_factory=list)
    constants: dict[int, Constant] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    returned: Any = None


def functional(tape: Tape, table: Table) -> Program:
    """Write a tape as a program, with ops taken apart by the table.

    Raises:
        CaptureError: an op that torch cannot write without side effects.
    """
    writer = Writer(table)
    plain = not any(call.target._schema.is_mutable for call in tape.calls)
    scene = _Plain(tape, writer) if plain else _Wrapped(tape, writer)
    with torch.no_grad(), tape.fake:
        for call in tape.calls:
            writer.at(call)
            with _explained(call):
                scene.play(call)
        return writer.finish(tape, scene)


@contextmanager
def _explained(call: Call) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        text = str(error).strip().splitlines() or [type(error).__name__]
        place = f" at {call.source}" if call.source else ""
        raise CaptureError(
            f"{call.target}{place} cannot be written without side effects: {text[0]}"
        ) from error


class Writer(Uncompiled, TorchDispatchMode):
    """Writes down what runs on the inner tensors, taken apart by the table."""

    def __init__(self, table: Table) -> None:
        super().__init__()
        self.table = table
        self.program = Program()
        self.numbers: dict[int, int] = {}
        self.alive: list[Tensor] = []
        self.grad = True
        self.source: Source | None = None

    def at(self, call: Call) -> None:
        """Take over where in the model the next steps come from."""
        self.grad, self.source = call.grad, call.source

    def enter(self, tensor: Tensor) -> int:
        """Give a new tensor its number."""
        self.alive.append(tensor)
        self.numbers[id(tensor)] = len(self.program.results)
        self.program.results.append(Result(tuple(tensor.shape), tensor.dtype))
        return self.numbers[id(tensor)]

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Take an op apart, or run it and write it down."""
        return self.write(func, args, kwargs or {})

    def write(self, func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Take an op apart, or run it and write it down."""
        if func.namespace == "prim":  # asks for a device or the like
            return func(*args, **kwargs)
        parts = self.table.parts(func)
        if parts is not None:
            with self:
                result = parts(*args, **kwargs)
            if result is not NotImplemented:
                return result
        if func._schema.is_mutable:
            raise RuntimeError(f"{func} writes to its argument")
        result = func(*args, **kwargs)
        outs = result if isinstance(result, tuple | list) else (result,)
        new = any(isinstance(out, Tensor) and id(out) not in self.numbers for out in outs)
        if new:
            bound, single = self._bind(func, args, kwargs), isinstance(result, Tensor)
            numbers = tuple(self.enter(out) if isinstance(out, Tensor) else None for out in outs)
            self.program.steps.append(Step(func, bound, numbers, single, self.grad, self.source))
        return result

    def ref(self, leaf: Any) -> Any:
        """Return the number that stands for a tensor, and anything else as it is."""
        if not isinstance(leaf, Tensor):
            return leaf
        if id(leaf) not in self.numbers:
            raise CaptureError(
                f"at {self.source}: a tensor comes from where no graph can follow"
                if self.source
                else "a tensor comes from where no graph can follow"
            )
        return Ref(self.numbers[id(leaf)])

    def _bind(
        self, func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> dict[str, Any]:
        bound = {}
        for i, argument in enumerate(func._schema.arguments):
            default = kwargs.get(argument.name, argument.default_value)
            given = args[i] if i < len(args) else default
            if argument.name == "end" and given == OPEN_END:
                given = None
            bound[argument.name] = _map(given, self.ref)
        return bound

    def finish(self, tape: Tape, scene: Scene) -> Program:
        """Return the program, with what it starts from and what it returns."""
        numbers = {key: self.ref(scene.first(key)).number for key in tape.starts}
        self.program.inputs = [
            Ref(numbers[id(leaf)]) if isinstance(leaf, Tensor) else leaf for leaf in tape.inputs
        ]
        self.program.constants = {numbers[k]: c for k, c in tape.constants.items()}
        self.grad, self.source = True, None
        self.program.returned = pytree.tree_map_only(
            Tensor, lambda t: self.ref(scene.now(t)), tape.returned
        )
        return self.program


OPEN_END = 2**63 - 1
"""How torch writes the missing end of a slice; some transposes overflow on it."""


def _map(arg: Any, f: Callable[[Any], Any]) -> Any:
    if isinstance(arg, list | tuple):
        return [_map(item, f) for item in arg]
    return f(arg)


class _Plain:
    """Nothing is written to: every view may be taken for a copy."""

    def __init__(self, tape: Tape, writer: Writer) -> None:
        self.writer = writer
        self.inner = dict(tape.starts)
        for tensor in tape.starts.values():
            writer.enter(tensor)

    def first(self, key: int) -> Tensor:
        return self.inner[key]

    def now(self, tensor: Tensor) -> Tensor:
        return self.inner[id(tensor)]

    def play(self, call: Call) -> None:
        args, kwargs = on_tensors(self.now, (call.args, call.kwargs))
        result = self.writer.write(call.target, args, kwargs)
        _pair(call, result, lambda old, new: self.inner.__setitem__(id(old), new))


class _Wrapped:
    """torch's own functionalisation turns views and writes into functional ops."""

    def __init__(self, tape: Tape, writer: Writer) -> None:
        self.writer = writer
        self.firsts = dict(tape.starts)
        self.wrapped = {key: torch._to_functional_tensor(t) for key, t in tape.starts.items()}
        for tensor in tape.starts.values():
            writer.enter(tensor)

    def first(self, key: int) -> Tensor:
        return self.firsts[key]

    def now(self, tensor: Tensor) -> Tensor:
        wrapper = self.wrapped[id(tensor)]
        with self.writer:
            torch._sync(wrapper)  # type: ignore[attr-defined]
        return torch._from_functional_tensor(wrapper)

    def play(self, call: Call) -> None:
        if _is_functional(call.target):
            args, kwargs = on_tensors(self.now, (call.args, call.kwargs))
            result = self.writer.write(call.target, args, kwargs)
            result = on_tensors(torch._to_functional_tensor, result)
        else:
            args, kwargs = on_tensors(lambda t: self.wrapped[id(t)], (call.args, call.kwargs))
            with _functionalizing(), self.writer:
                result = call.target._op_dk(torch._C.DispatchKey.Functionalize, *args, **kwargs)
                for leaf in tensors_in(result):
                    torch._sync(leaf)  # type: ignore[attr-defined] # now: the line is this call's
        given = {id(t) for t in tensors_in((call.args, call.kwargs))}

        def keep(old: Tensor, new: Tensor) -> None:
            if id(old) not in given:
                self.wrapped[id(old)] = new

        _pair(call, result, keep)


Scene = _Plain | _Wrapped


@contextmanager
def _functionalizing() -> Iterator[None]:
    """Let torch's functionalisation kernels write views as views, not as copies."""
    before = torch._functionalize_enable_reapply_views(True)  # type: ignore[attr-defined]
    include = torch._C._dispatch_tls_local_include_set()
    exclude = torch._C._dispatch_tls_local_exclude_set()
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.Functionalize)
    try:
        with torch._C._ForceDispatchKeyGuard(
            include | key, exclude.remove(torch._C.DispatchKey.Functionalize)
        ):
            yield
    finally:
        torch._disable_functionalization()
        torch._functionalize_enable_reapply_views(before)  # type: ignore[attr-defined]


def _is_functional(op: OpOverload) -> bool:
    schema = op._schema
    if schema.is_mutable:
        return False
    return all(a.alias_info is None for a in (*schema.arguments, *schema.returns))


def _pair(call: Call, new: Any, take: Callable[[Tensor, Tensor], None]) -> None:
    """Hand over each tensor that a call made, with that of the program."""
    made = zip(tensors_in(call.result), tensors_in(new), call.sizes, strict=True)
    for a, b, size in made:
        if size != b.shape or a.dtype != b.dtype:
            raise RuntimeError(f"gives {list(b.shape)} in place of {list(size)}")
        take(a, b)
