"""The graph that everything downstream reads: frozen values, nodes and graphs.

A value is a name with a shape and a dtype. A node computes one value from others with one
ATen op. A graph lists its nodes in order of execution. Parameters are names, looked up in the
live model at run time, so a graph never goes stale when the optimizer steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autodual.errors import GraphError
from autodual.front.stand_ins import stand_ins


@dataclass(frozen=True)
class Batch:
    """A size that grows with the batch: ``Batch(3)`` is 3·N."""

    multiple: int = 1

    def __str__(self) -> str:
        return "N" if self.multiple == 1 else f"{self.multiple}N"


Dim = int | Batch


def resolve(dim: Dim, batch: int) -> int:
    """Return the size of ``dim`` in a batch of ``batch`` examples."""
    return dim.multiple * batch if isinstance(dim, Batch) else dim


_DTYPES = {torch.float32: "f32", torch.float64: "f64", torch.int64: "i64", torch.bool: "bool"}


@dataclass(frozen=True)
class Value:
    """A tensor in the graph: its name, its shape (with the batch symbolic) and its dtype."""

    name: str
    shape: tuple[Dim, ...]
    dtype: torch.dtype

    def __hash__(self) -> int:
        return hash(self.name)

    def size(self, batch: int) -> tuple[int, ...]:
        """Return the shape in a batch of ``batch`` examples."""
        return tuple(resolve(dim, batch) for dim in self.shape)

    @cached_property
    def batch_dim(self) -> int | None:
        """The dimension that grows with the batch, if there is exactly one."""
        dims = [i for i, dim in enumerate(self.shape) if isinstance(dim, Batch)]
        return dims[0] if len(dims) == 1 else None

    def per_example(self, tensor: Tensor, batch: int) -> Tensor:
        """Bring the batch dimension of this value's tensor to the front: [N, *size(1)].

        A dimension of size k·N holds k entries per example, examples outermost.
        """
        if self.batch_dim is None:
            return tensor.expand(self.size(1)).unsqueeze(0)
        return tensor.unflatten(self.batch_dim, (batch, -1)).movedim(self.batch_dim, 0)

    def in_layout(self, examples: Tensor) -> Tensor:
        """Undo ``per_example`` for a value that has a batch dimension."""
        assert self.batch_dim is not None
        return examples.movedim(0, self.batch_dim).flatten(self.batch_dim, self.batch_dim + 1)

    def spread(self, examples: Tensor) -> Tensor:
        """Return what is said of each example [N] for all of its entries, in the value's layout."""
        wide = examples.reshape(-1, *[1] * len(self.shape))
        return self.in_layout(wide.expand(-1, *self.size(1)))

    @cached_property
    def numel(self) -> int:
        """The number of elements that belong to one example."""
        return int(torch.Size(self.size(1)).numel())

    @property
    def type(self) -> str:
        """The printed type, like ``f32[N, 16, 14, 14]``."""
        dtype = _DTYPES.get(self.dtype, str(self.dtype).removeprefix("torch."))
        return f"{dtype}[{', '.join(map(str, self.shape))}]"

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"{self.name}: {self.type}"


@dataclass(frozen=True)
class Source:
    """Where in the user's program a node comes from: a line, the module it ran in, or both."""

    file: str
    line: int
    code: str = ""
    module: str = ""

    @property
    def place(self) -> str:
        """The short form, ``model.py:12 (layer1.0)``."""
        line = f"{Path(self.file).name}:{self.line}" if self.file else ""
        module = f"({self.module})" if self.module else ""
        return f"{line} {module}".strip()

    def __str__(self) -> str:
        line = f"{self.file}:{self.line} `{self.code}`" if self.file else ""
        module = f"(in module {self.module!r})" if self.module else ""
        return f"{line} {module}".strip()


@dataclass(frozen=True)
class Parameter:
    """A constant that lives in the model under this qualified name."""

    name: str


@dataclass(frozen=True, eq=False)
class Literal:
    """A constant tensor written in the user's code."""

    tensor: Tensor


Constant = Parameter | Literal


@dataclass(frozen=True, eq=False)
class Node:
    """One op: ``out = op(**args)``, or its ``index``-th result when it returns several.

    ``args`` maps the op's schema names to values, numbers and lists of them, defaults filled in.
    """

    out: Value
    op: str
    target: Callable[..., Any]
    args: Mapping[str, Any]
    index: int | None = None
    source: Source | None = None

    @cached_property
    def inputs(self) -> tuple[Value, ...]:
        """The values it reads, in order, repeated where they are repeated."""
        return tuple(leaf for arg in self.args.values() for leaf in leaves(arg))

    @cached_property
    def varying(self) -> tuple[str, ...]:
        """The arguments that hold values or batch sizes: the others are what they are."""
        return tuple(name for name, arg in self.args.items() if holds(arg, Value | Batch))

    @property
    def label(self) -> str:
        """The op's everyday name: ``aten.add.Tensor`` is ``add``."""
        return self.op.split(".")[1 if hasattr(self.target, "_schema") else -1]

    @property
    def where(self) -> str:
        """The op, and where in the user's program it stands, to speak of in a message."""
        return f"{self.op} at {self.source or self.out.name}"

    def __str__(self) -> str:
        args = ", ".join(f"{k}={_show(v)}" for k, v in self.args.items() if v is not None)
        index = "" if self.index is None else f"[{self.index}]"
        place = "" if self.source is None else f"    # {self.source.place}"
        return f"{self.out.name} = {self.label}({args}){index} : {self.out.type}{place}"

    __repr__ = __str__


@dataclass(frozen=True)
class Inexact:
    """How far from a value v lies what libraries compute for it, by one formula or another.

    By no more than u (relative·|v| + absolute + Σ c·Π|w|), u a rounding and |w| the largest entry
    that an example has of another value.

    Attributes:
        relative, absolute: see above.
        terms: c and the w's of each product.
        range: where all that libraries compute lies.
    """

    relative: float = 0.0
    absolute: float = 0.0
    terms: tuple[tuple[float, tuple[Value, ...]], ...] = ()
    range: tuple[float, float] = (-math.inf, math.inf)

    def plus(self, other: Inexact) -> Inexact:
        """Return how far both together lead."""
        return Inexact(
            self.relative + other.relative,
            self.absolute + other.absolute,
            self.terms + other.terms,
            (max(self.range[0], other.range[0]), min(self.range[1], other.range[1])),
        )

    def renamed(self, same: Mapping[Value, Value]) -> Inexact:
        """Return the same for a graph in which values have other names."""
        terms = tuple((c, tuple(same.get(v, v) for v in values)) for c, values in self.terms)
        return replace(self, terms=terms)


@dataclass(frozen=True, eq=False)
class Graph:
    """A captured model. ``perturbed`` is the input that lies in the threat model's set.

    ``nominal``, where a pass needs it, is that input without its perturbation.
    ``caveats`` say why a bound on this graph would not be a certificate for the model. ``ranges``
    are intervals in which values lie for every input, by the way they are made. The graph of a
    ``straight`` model is looked over on real tensors; see ``stand_ins``. ``inexact``
    are values that stand for an op of the model's which libraries compute by formulas of their own.
    ``rewritten`` are ops in whose place stand others that are rounded nobody knows how differently.
    """

    inputs: tuple[Value, ...]
    perturbed: Value
    constants: Mapping[Value, Constant]
    nodes: tuple[Node, ...]
    output: Value
    device: torch.device
    nominal: Value | None = None
    caveats: tuple[str, ...] = ()
    straight: bool = False
    ranges: Mapping[Value, tuple[float, float]] = field(default_factory=dict)
    inexact: Mapping[Value, Inexact] = field(default_factory=dict)
    rewritten: tuple[str, ...] = ()

    @property
    def entries(self) -> tuple[Value, ...]:
        """What must be given to run the nodes: inputs, constants, the nominal input."""
        nominal = () if self.nominal is None else (self.nominal,)
        return (*self.inputs, *self.constants, *nominal)

    @cached_property
    def moving(self) -> frozenset[Value]:
        """The values that depend on the perturbed input."""
        moving = {self.perturbed}
        for node in self.nodes:
            if moving.intersection(node.inputs):
                moving.add(node.out)
        return frozenset(moving)

    @cached_property
    def producers(self) -> Mapping[Value, Node]:
        """The node that computes each value."""
        return {node.out: node for node in self.nodes}

    @property
    def prelude(self) -> tuple[Node, ...]:
        """The nodes that the perturbation cannot reach: evaluated once, live, per call."""
        return tuple(node for node in self.nodes if node.out not in self.moving)

    @property
    def body(self) -> tuple[Node, ...]:
        """The nodes that the perturbation reaches: each needs a dual layer."""
        return tuple(node for node in self.nodes if node.out in self.moving)

    def __str__(self) -> str:
        inputs = ", ".join(f"{v.name}: {v.type}" for v in self.inputs)
        lines = [f"graph({inputs}) -> {self.output.name}    # perturbed: {self.perturbed.name}"]
        lines += [f"  {v.name} : {v.type}" for v in self.constants]
        if self.prelude:
            lines += ["  -- not reached by the perturbation"]
            lines += [f"  {node}" for node in self.prelude]
            lines += ["  -- reached by the perturbation"]
        lines += [f"  {node}" for node in self.body]
        lines += [f"  caveat: {caveat}" for caveat in self.caveats]
        return "\n".join(lines)

    __repr__ = __str__


def alike(a: Graph, b: Graph) -> bool:
    """Return whether two graphs do the same with the same parameters, as far as they show it."""
    if str(a) != str(b):
        return False
    for one, other in zip(a.constants.values(), b.constants.values(), strict=True):
        if isinstance(one, Literal) and isinstance(other, Literal):
            if not torch.equal(one.tensor, other.tensor):
                return False
        elif one != other:
            return False
    return True


def leaves(arg: Any) -> Iterator[Value]:
    """Yield the values inside an argument, depth first."""
    if isinstance(arg, Value):
        yield arg
    elif isinstance(arg, list | tuple):
        for item in arg:
            yield from leaves(item)


def holds(arg: Any, kind: Any) -> bool:
    """Return whether an argument is of a kind, or a list with something of it inside."""
    if isinstance(arg, list | tuple):
        return any(holds(item, kind) for item in arg)
    return isinstance(arg, kind)


def map_leaves(arg: Any, f: Callable[[Any], Any]) -> Any:
    """Rebuild an argument with ``f`` applied to everything that is not a list or tuple."""
    if isinstance(arg, list | tuple):
        return [map_leaves(item, f) for item in arg]
    return f(arg)


@cache
def _keywords(target: Callable[..., Any]) -> frozenset[str]:
    """Return the arguments of an op that are given by keyword only."""
    schema = getattr(target, "_schema", None)
    return frozenset(a.name for a in schema.arguments if a.kwarg_only) if schema else frozenset()


def invoke(target: Callable[..., Any], args: Mapping[str, Any], index: int | None = None) -> Any:
    """Call an op with arguments by schema name, and pick one of its results."""
    keywords = _keywords(target) if isinstance(target, torch._ops.OpOverload) else ()
    if keywords:
        positional = [v for k, v in args.items() if k not in keywords]
        result = target(*positional, **{k: v for k, v in args.items() if k in keywords})
    else:
        result = target(*args.values())
    return result if index is None else result[index]


def bind(node: Node, env: Mapping[Value, Tensor], batch: int) -> dict[str, Any]:
    """Return a node's arguments with tensors for values and numbers for batch sizes."""

    def leaf(arg: Any) -> Any:
        if isinstance(arg, Value):
            return env[arg]
        return resolve(arg, batch) if isinstance(arg, Batch) else arg

    args = dict(node.args)
    for name in node.varying:
        args[name] = map_leaves(args[name], leaf)
    return args


def evaluate(node: Node, env: Mapping[Value, Tensor], batch: int) -> Tensor:
    """Run one node on the tensors in ``env`` for a batch of ``batch`` examples."""
    result = invoke(node.target, bind(node, env, batch), node.index)
    if not isinstance(result, Tensor):
        raise GraphError(f"{node.op} gave a {type(result).__name__}, not a tensor")
    return result


def check(graph: Graph) -> Graph:
    """Return ``graph`` if it is well formed: defined once, defined before use, shapes right.

    Shapes and dtypes are inferred anew from tensors that stand for a batch of 3.

    Raises:
        GraphError: what is wrong, and at which node.
    """
    with stand_ins(graph.straight), torch.no_grad():
        env: dict[Value, Tensor] = {
            v: torch.zeros(v.size(3), dtype=v.dtype, device=graph.device) for v in graph.entries
        }
        if len(env) != len(graph.entries):
            raise GraphError("an input or constant is defined twice")
        for node in graph.nodes:
            missing = [v.name for v in node.inputs if v not in env]
            if missing:
                raise GraphError(f"{node} uses {', '.join(missing)} before definition")
            if node.out in env:
                raise GraphError(f"{node.out.name} is defined twice")
            result = evaluate(node, env, 3)
            if result.shape != node.out.size(3) or result.dtype != node.out.dtype:
                raise GraphError(f"{node} gives {result.dtype} {tuple(result.shape)} for N = 3")
            env[node.out] = result
    if graph.output not in env or graph.perturbed not in graph.inputs:
        raise GraphError("the output or the perturbed input is not defined")
    return graph


def _show(arg: Any) -> str:
    if isinstance(arg, list | tuple):
        return f"[{', '.join(map(_show, arg))}]"
    return str(arg)
