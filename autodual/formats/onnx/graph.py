"""What a model's graph holds: nodes in order, constants, one input and one output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autodual.errors import InputError
from autodual.formats.onnx.reading import DTYPES, FLOATS, tensor_of
from autodual.formats.onnx.registry import OPS, SOURCES

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

OPSETS = range(7, 29)
"""Versions of the operators whose meanings are known; before 7, others held for broadcasting."""

MOST = 100_000
"""Nodes of the largest graph that is read."""


@dataclass(frozen=True, eq=False)
class Graph:
    """A graph whose parts are all known; what it computes is not yet.

    Attributes:
        nodes: in an order in which each reads what is before it.
        constants: the stored tensors.
        opset: the version of the operators.
        input, output: their names.
        shape: that of the input for one example, as the file has it.
        stored: the type of the input's numbers.
    """

    nodes: Sequence[NodeProto]
    constants: Mapping[str, Tensor]
    opset: int
    input: str
    shape: tuple[int, ...]
    stored: torch.dtype
    output: str


def graph_of(model: ModelProto, dtype: torch.dtype | None) -> Graph:
    """Return what a model holds; constant floats in ``dtype``, if it is given.

    Raises:
        InputError: it has operators that are not read, all of which are named; several inputs or
            outputs; parts that are missing, or out of order.
    """
    graph, opset = model.graph, _opset(model)
    if not graph.node or len(graph.node) > MOST:
        raise InputError(f"has {len(graph.node)} nodes; 1 to {MOST} are read")
    _check_known(graph.node)
    if model.functions or graph.sparse_initializer:
        raise InputError("has functions or sparse tensors of its own, which are not read")
    constants = {proto.name: tensor_of(proto, dtype) for proto in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise InputError(
            f"has {len(inputs)} inputs and {len(graph.output)} outputs; one of each is read"
        )
    shape, stored = _example(inputs[0])
    name, output = inputs[0].name, graph.output[0].name
    _check_order(graph, {*constants, name}, output)
    if len(constants) < len(graph.initializer):
        raise InputError("stores two tensors under one name")
    return Graph(graph.node, constants, opset, name, shape, stored, output)


def _opset(model: ModelProto) -> int:
    """Return the version of the operators."""
    found = {entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")}
    if len(found) != 1 or not found <= {*OPSETS}:
        versions = ", ".join(map(str, sorted(found)[:4])) or "none"
        raise InputError(
            f"has operators of version {versions}, and versions {OPSETS[0]} to {OPSETS[-1]} are "
            "read (onnx.version_converter makes others of them)"
        )
    return found.pop()


def _check_known(nodes: Iterable[NodeProto]) -> None:
    """Refuse operators that are not read, all at once, and names that are no text."""
    nodes = list(nodes)
    for node in nodes:
        names = node.op_type, node.domain, node.name, *node.input, *node.output
        if not all(isinstance(name, str) for name in names):
            raise InputError(f"has a name that is not UTF-8: {names!r:.80}")
    unknown: dict[str, int] = {}
    for node in nodes:
        own = node.domain in ("", "ai.onnx")
        if not own or (node.op_type not in OPS and node.op_type not in SOURCES):
            op = (node.op_type if own else f"{node.domain}.{node.op_type}")[:80]
            unknown[op] = unknown.get(op, 0) + 1
    if unknown:
        listed = ", ".join(f"{op} ({count})" for op, count in sorted(unknown.items())[:40])
        raise InputError(f"has operators that are not read: {listed}")


def _check_order(graph: GraphProto, known: set[str], output: str) -> None:
    """Refuse names that are made twice, or read before they are made."""
    for node in graph.node:
        missing = [name for name in node.input if name and name not in known]
        if missing:
            raise InputError(
                f"{node.op_type} {node.name[:80]!r} reads {missing[0][:80]!r}, which nothing "
                "before it makes (the graph is not in order, or lacks a part)"
            )
        made = [name for name in node.output if name]
        if known.intersection(made) or len({*made}) < len(made):
            raise InputError(f"makes {made[0][:80]!r} twice, or something beside it")
        known.update(made)
    if output not in known:
        raise InputError(f"its output {output[:80]!r} is made by no node")


def _example(value: ValueInfoProto) -> tuple[tuple[int, ...], torch.dtype]:
    """Return the shape of the input for one example, and the type of its numbers.

    A first dimension without a size counts examples, and is 1 here. All others must have one.
    """
    kind = value.type.tensor_type
    stored = DTYPES.get(kind.elem_type)
    if stored not in FLOATS or stored is None:
        raise InputError(f"its input {value.name[:80]!r} has no floating-point numbers")
    if not kind.HasField("shape"):
        raise InputError(f"does not say what shape its input {value.name[:80]!r} has")
    sizes = [dim.dim_value for dim in kind.shape.dim]
    if len(sizes) > 1 and not kind.shape.dim[0].HasField("dim_value"):
        sizes[0] = 1
    if any(size <= 0 for size in sizes) or len(sizes) > 16:
        names = [dim.dim_param[:20] or dim.dim_value for dim in kind.shape.dim][:16]
        raise InputError(
            f"its input {value.name[:80]!r} is {names}: only a first dimension, of several, may be "
            "without a size (it counts examples)"
        )
    return tuple(sizes), stored
