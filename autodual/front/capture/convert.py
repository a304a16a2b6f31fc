"""ExportedProgram → Graph: sizes become dimensions, op arguments get their schema names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from autodual.errors import BatchError, CaptureError, ModelError
from autodual.front.capture.diagnose import depends_on_values, source_of
from autodual.front.capture.outputs import Output, choose
from autodual.front.inputs import Inputs
from autodual.front.ir import (
    Batch,
    Constant,
    Dim,
    Graph,
    Literal,
    Node,
    Parameter,
    Value,
    map_leaves,
)

OPEN_END = 2**63 - 1
"""How export writes the missing end of a slice; some transposes overflow on it."""


@dataclass(frozen=True)
class Captured:
    """A graph, the order in which it takes the tensors of an ``Inputs``, and what it returns.

    ``leaf`` is the position of the graph's output among all that the model returns.
    """

    graph: Graph
    slots: tuple[int, ...]
    leaf: int

    def bind(self, inputs: Inputs) -> dict[Value, Tensor]:
        """Map the graph's inputs to the tensors of a call."""
        leaves = inputs.leaves()
        return {v: leaves[i] for v, i in zip(self.graph.inputs, self.slots, strict=True)}

    def pick(self, returned: Any) -> Tensor:
        """Pick the graph's output from what the model returned."""
        tensor: Tensor = pytree.tree_leaves(returned)[self.leaf]
        return tensor


def to_graph(
    exported: torch.export.ExportedProgram,
    perturbed: int,
    device: torch.device,
    output: Output = None,
) -> Captured:
    """Convert a decomposed program.

    ``perturbed`` is the position of the leaf in the ball, ``output`` the way to the one bounded.
    """
    names = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
    env: dict[fx.Node, Any] = {}
    constants: dict[Value, Constant] = {}
    arguments: list[Value | None] = []
    nodes: list[Node] = []
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            spec = names[node.name]
            if spec.kind.name == "USER_INPUT":
                value = _value(node) if isinstance(node.meta["val"], Tensor) else None
                arguments.append(value)
            else:
                value, constants_entry = _constant(exported, node, spec)
                constants[value] = constants_entry
            env[node] = value
        elif node.op == "call_function":
            env[node] = _convert(node, env, nodes)
        elif node.op == "get_attr":
            literal = Literal(_attribute(exported.graph_module, str(node.target)))
            value = Value(str(node.target), tuple(literal.tensor.shape), literal.tensor.dtype)
            constants[value] = literal
            env[node] = value
    slots = tuple(i for i, value in enumerate(arguments) if value is not None)
    entry = arguments[perturbed]
    assert entry is not None
    leaf, result = _output(exported, env, output)
    graph = Graph(
        inputs=tuple(value for value in arguments if value is not None),
        perturbed=entry,
        constants=constants,
        nodes=tuple(nodes),
        output=result,
        device=device,
    )
    return Captured(graph, slots, leaf)


def _output(
    exported: torch.export.ExportedProgram, env: Mapping[fx.Node, Any], output: Output
) -> tuple[int, Value]:
    specs = exported.graph_signature.output_specs
    (results,) = exported.graph.output_node().args
    user = [r for spec, r in zip(specs, results, strict=True) if spec.kind.name == "USER_OUTPUT"]
    found = [env.get(r) if isinstance(r, fx.Node) else r for r in user]

    def show(i: int) -> str:
        value = found[i]
        return value.type if isinstance(value, Value) else f"{value}, no tensor"

    leaf = choose(exported.call_spec.out_spec, output, show)
    value = found[leaf]
    if not isinstance(value, Value):
        raise ModelError(f"the model returns {show(leaf)}; bounds need one tensor [N, K]")
    return leaf, value


def _constant(
    exported: torch.export.ExportedProgram, node: fx.Node, spec: Any
) -> tuple[Value, Constant]:
    if spec.kind.name in ("PARAMETER", "BUFFER"):
        return _value(node, f"self.{spec.target}"), Parameter(spec.target)
    if spec.kind.name == "CONSTANT_TENSOR":
        return _value(node), Literal(exported.constants[spec.target])
    raise CaptureError(f"the model holds a {spec.kind.name.lower()}, which has no place in a graph")


def _attribute(root: Any, path: str) -> Tensor:
    for part in path.split("."):
        root = getattr(root, part)
    if not isinstance(root, Tensor):
        raise CaptureError(f"the model keeps control flow inside one op ({path}); unroll it")
    return root


def _convert(node: fx.Node, env: Mapping[fx.Node, Any], nodes: list[Node]) -> Any:
    """Convert one fx node: a size becomes a ``Dim``, a tensor a ``Value`` with its ``Node``.

    An op with several results stays pending until ``getitem`` picks one of them.
    """
    meta = node.meta.get("val")
    if isinstance(meta, torch.SymFloat | torch.SymBool):
        raise depends_on_values(f"at {source_of(node)}")
    if isinstance(meta, torch.SymInt | int):
        return _dim(meta, node)
    if getattr(node.target, "__name__", "") == "getitem":
        source, index = node.args
        assert isinstance(source, fx.Node)
        assert isinstance(index, int)
        return _emit(source, _value(node), env, nodes, index)
    if isinstance(meta, Tensor):
        return _emit(node, _value(node), env, nodes, None)
    return None


def _emit(
    node: fx.Node, out: Value, env: Mapping[fx.Node, Any], nodes: list[Node], index: int | None
) -> Value:
    assert callable(node.target)
    args = _bind(node, env)
    nodes.append(Node(out, str(node.target), node.target, args, index, source_of(node)))
    return out


def _bind(node: fx.Node, env: Mapping[fx.Node, Any]) -> dict[str, Any]:
    """Return the arguments by schema name, with defaults filled in."""

    def leaf(arg: Any) -> Any:
        if isinstance(arg, fx.Node):
            return env[arg]
        return _dim(arg, node) if isinstance(arg, torch.SymInt) else arg

    args = [map_leaves(list(a) if isinstance(a, list | tuple) else a, leaf) for a in node.args]
    kwargs = {k: map_leaves(a, leaf) for k, a in node.kwargs.items()}
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {**{f"arg{i}": a for i, a in enumerate(args)}, **kwargs}
    bound: dict[str, Any] = {}
    for i, argument in enumerate(schema.arguments):
        given = args[i] if i < len(args) else kwargs.get(argument.name, argument.default_value)
        open_end = argument.name == "end" and given == OPEN_END
        bound[argument.name] = None if open_end else given
    return bound


def _value(node: fx.Node, name: str | None = None) -> Value:
    meta = node.meta["val"]
    return Value(name or node.name, tuple(_dim(d, node) for d in meta.shape), meta.dtype)


def _dim(size: Any, node: fx.Node) -> Dim:
    """Read a size as a number or a multiple of the batch size."""
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

    if isinstance(size, int):
        return size
    if free_unbacked_symbols(size):
        raise depends_on_values(f"at {source_of(node)}")
    expr = size.node.expr
    symbols: Sequence[Any] = sorted(expr.free_symbols, key=str)
    if not symbols:
        return int(expr)
    ratio = expr / symbols[0]
    if len(symbols) == 1 and ratio.is_Integer:
        return Batch(int(ratio))
    raise BatchError(
        f"a size depends on the batch size N as {expr}, at {source_of(node)}. "
        "Only multiples of N keep the examples of a batch apart."
    )
