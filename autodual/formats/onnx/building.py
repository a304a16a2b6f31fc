"""Go through a graph once: fold what is constant, and check what the rest makes of its shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autodual.errors import InputError
from autodual.formats.onnx.graph import Graph
from autodual.formats.onnx.ops_linear import thin, thinned
from autodual.formats.onnx.reading import attributes_of
from autodual.formats.onnx.registry import OPS, SOURCES, THIN
from autodual.formats.onnx.value import LARGEST, WORK, Node, Op, Value, known

if TYPE_CHECKING:
    from onnx import NodeProto

EXAMPLES = 2
"""How many examples shapes are worked out for."""

TOTAL = 2**26
"""Numbers that all nodes together may make for one example."""

PRODUCTS = WORK
"""Products that all of them together may sum for one example."""


@dataclass(frozen=True)
class Step:
    """A node, and the names of what it reads (empty where an input is left out) and makes."""

    node: Node
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass
class Built:
    """The nodes that depend on the input, the constants they read, the shape of what comes out."""

    steps: list[Step] = field(default_factory=list)
    constants: dict[str, Tensor] = field(default_factory=dict)
    shape: tuple[int, ...] = ()


def build(graph: Graph, dtype: torch.dtype | None) -> Built:
    """Work out what a graph computes.

    Raises:
        InputError: a node is given what it cannot use, or makes too much of it; the output does
            not depend on the input.
    """
    building = _Building(graph, dtype)
    for proto in graph.nodes:
        building.add(proto)
    found = building.shapes.get(graph.output)
    if found is None:
        raise InputError("its output does not depend on its input")
    steps = _needed(building.steps, graph.output)
    taken = {*building.shapes, *building.constants}
    steps = [_thinned(step, building.constants, taken) for step in steps]
    read = {name for step in steps for name in step.inputs}
    constants = {n: t for n, t in building.constants.items() if n in read}
    return Built(steps, constants, found.shape)


def entry(x: Tensor, shape: Sequence[int]) -> Value:
    """Return the input, for N examples whose shape in the file is ``shape``."""
    return Value(x, 0 if len(shape) > 1 and shape[0] == 1 else 1)


def shown(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of an example, without the file's leading 1 if other dimensions follow."""
    return tuple(shape[1:] if len(shape) > 1 and shape[0] == 1 else shape)


def compute(node: Node, values: Sequence[Value | None]) -> tuple[Value, ...]:
    """Return what a node makes."""
    op: Op = thin if node.op == THIN else OPS[node.op]
    made = op(node, *values)
    return tuple(value.inner for value in (made if isinstance(made, tuple) else (made,)))


class _Building:
    """The state of one way through a graph: tensors that vary have shapes here, and no memory."""

    def __init__(self, graph: Graph, dtype: torch.dtype | None) -> None:
        if math.prod(graph.shape) > LARGEST:
            raise InputError(f"its input {list(graph.shape)} is too large")
        size = EXAMPLES, *shown(graph.shape)
        self.opset, self.dtype = graph.opset, dtype
        x = torch.zeros((), dtype=dtype or graph.stored).expand(size)
        self.shapes: dict[str, Value] = {graph.input: entry(x, graph.shape)}
        self.constants: dict[str, Tensor] = dict(graph.constants)
        self.steps: list[Step] = []
        self.total, self.products = 0, 0.0

    def add(self, proto: NodeProto) -> None:
        """Fold a node, or make a step of it."""
        label = proto.name or next((name for name in proto.output if name), "")
        held = [self.constants.get(name) for name in proto.input]
        fixed = [None if tensor is None else known(tensor) for tensor in held]
        try:
            attributes = attributes_of(proto, self.dtype)
            node = Node(
                proto.op_type, label, self.opset, attributes, fixed, len(proto.output), self.dtype
            )
            self._add(node, tuple(proto.input), tuple(proto.output))
        except InputError as error:
            named = str(error).startswith(proto.op_type)
            raise (
                error if named else InputError(f"{proto.op_type} {label[:80]!r}: {error}")
            ) from None
        except (TypeError, AttributeError):  # one input too many or too few, or left out
            raise InputError(f"{proto.op_type} {label[:80]!r}: its inputs do not fit") from None
        except Exception as error:  # torch has an error of its own for each op that does not fit
            said = " ".join(str(error).split())[:200]
            raise InputError(f"{proto.op_type} {label[:80]!r} cannot be read: {said}") from None

    def _add(self, node: Node, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        values = [self._read(name) for name in inputs]
        if node.op in SOURCES:
            made = SOURCES[node.op](node, [v for v in values if v is not None])
            self._count([made.numel()], 0)
            self.constants[outputs[0]] = made
            return
        varies = any(value is not None and value.varies for value in values)
        values = values if varies else _alone(values)
        found = compute(node, values)
        self._check(node, values, found, EXAMPLES if varies else 1)
        if varies:
            self.steps.append(Step(node, inputs, outputs))
            self.shapes.update(zip(outputs, map(_weightless, found), strict=False))
        else:
            folded = (value.stacked[0].contiguous() for value in found)
            self.constants.update(zip(outputs, folded, strict=False))

    def _read(self, name: str) -> Value | None:
        """Return what a node reads."""
        if not name:
            return None
        if name in self.shapes:
            return self.shapes[name]
        if name not in self.constants:
            raise InputError(f"reads {name[:80]!r}, an output which is not computed")
        return Value(self.constants[name], None)

    def _check(
        self, node: Node, values: Sequence[Value | None], made: Sequence[Value], count: int
    ) -> None:
        """Refuse what is too large, or does not belong to the examples one by one."""
        if any(len(value.tensor) != count for value in made):
            raise InputError("mixes examples")
        sizes = [math.prod(v.shape) for v in made]
        self._count(sizes, sum(math.prod(v.shape) for v in values if v is not None))
        self.products += max(sizes, default=0) * _reduced(node, values, made)
        if self.products > PRODUCTS:
            raise InputError(f"sums {self.products:.0e} products, with all before it: too many")

    def _count(self, sizes: Sequence[int], given: int) -> None:
        """Refuse what is too large."""
        self.total += sum(sizes)
        if sum(sizes) > max(LARGEST, given) or self.total > TOTAL:
            raise InputError(
                f"makes {sum(sizes)} numbers, too many (or too many with all before it)"
            )


def _weightless(value: Value) -> Value:
    """Return a value of the same shape that takes no memory."""
    return value.like(value.tensor.new_zeros(()).expand(value.tensor.shape))


def _alone(values: Sequence[Value | None]) -> list[Value | None]:
    """Return constants, the first of them in place of one example's."""
    first = next((i for i, value in enumerate(values) if value is not None), -1)
    return [
        Value(v.tensor.unsqueeze(0), 1) if i == first and v is not None else v
        for i, v in enumerate(values)
    ]


def _reduced(node: Node, values: Sequence[Value | None], made: Sequence[Value]) -> float:
    """Return how many products are in each number that a node makes, or more."""
    shapes = [() if value is None else value.shape for value in values]
    if node.op in ("MatMul", "Gemm"):
        return max(shapes[0][-2:], default=1)
    if node.op == "Conv":
        return math.prod(shapes[1][1:])
    if node.op == "ConvTranspose":
        return math.prod(shapes[0]) * math.prod(shapes[1][1:]) / max(math.prod(made[0].shape), 1)
    return math.prod(node.ints("kernel_shape") or [1])


def _needed(steps: Sequence[Step], output: str) -> list[Step]:
    """Return the steps that the output depends on."""
    wanted, kept = {output}, []
    for step in reversed(steps):
        if wanted.intersection(step.outputs):
            wanted.update(step.inputs)
            kept.append(step)
    return kept[::-1]


def _thinned(step: Step, constants: dict[str, Tensor], taken: set[str]) -> Step:
    """Return a step, a product with few entries that are not 0 as one that leaves out the zeros.

    What it reads then gets names that nothing in the file has: ``taken`` are those that it has.
    """
    left, *others = (*step.inputs, "", "")[:3]
    if step.node.op not in ("MatMul", "Gemm") or left in constants or others[0] not in constants:
        return step
    weight, bias = constants[others[0]], constants.get(others[1])
    found = None if others[1] and bias is None else thinned(step.node, weight, bias)
    if found is None:
        return step
    name = f"{others[0]} of {step.outputs[0]}"
    while taken & {f"{name}, places", f"{name}, entries"}:
        name += "'"
    parts = [f"{name}, places", f"{name}, entries"]
    taken.update(parts)
    constants.update(zip(parts, found, strict=True))
    return Step(replace(step.node, op=THIN), (left, *parts, *step.inputs[2:]), step.outputs)


def last_readers(steps: Sequence[Step], output: str) -> Mapping[int, tuple[str, ...]]:
    """Return for each step the names that nothing reads after it."""
    last: dict[str, int] = {}
    for i, step in enumerate(steps):
        last.update({name: i for name in (*step.outputs, *step.inputs) if name})
    last.pop(output, None)
    unread: dict[int, list[str]] = {}
    for name, at in last.items():
        unread.setdefault(at, []).append(name)
    return {at: tuple(names) for at, names in unread.items()}
