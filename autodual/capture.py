"""nn.Module → Graph. The only file that knows torch.export.

The recipe: one named batch dimension, non-strict export under ``enable_grad``, ``no_grad``
regions made visible as ``detach``, then decomposition to functional ATen ops, keeping whole
every op that has a dual layer of its own.
"""

from __future__ import annotations

import copy
import inspect
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from autodual.diagnose import explain_failure, source_of
from autodual.errors import BatchError, CaptureError, InputError, ModelError
from autodual.ir import Batch, Constant, Dim, Graph, Literal, Node, Parameter, Value, map_leaves

aten = torch.ops.aten


class Inputs:
    """All arguments of a model's forward, where it takes more than one tensor.

    ``Inputs(x, adjacency, scale=s)`` stands for ``model(x, adjacency, scale=s)``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args
        self.kwargs = kwargs

    def __repr__(self) -> str:
        parts = [repr(type(a).__name__) for a in self.args] + [f"{k}=…" for k in self.kwargs]
        return f"Inputs({', '.join(parts)})"

    def get(self, which: int | str) -> Any:
        """Return the argument at a position or under a keyword."""
        try:
            return self.args[which] if isinstance(which, int) else self.kwargs[which]
        except (IndexError, KeyError):
            raise InputError(
                f"perturb={which!r} names no argument of this call: it has "
                f"{len(self.args)} positional and {sorted(self.kwargs)} keyword arguments"
            ) from None

    def map(self, f: Any) -> Inputs:
        """Apply ``f`` to every leaf."""
        args, kwargs = pytree.tree_map(f, (self.args, self.kwargs))
        return Inputs(*args, **kwargs)

    def leaves(self) -> list[Any]:
        """Return every leaf, in the order in which the graph takes them."""
        return pytree.tree_leaves((self.args, self.kwargs))

    def replace(self, which: int | str, value: Any) -> Inputs:
        """Return a copy with one argument replaced."""
        args, kwargs = list(self.args), dict(self.kwargs)
        (args if isinstance(which, int) else kwargs)[which] = value  # type: ignore[index]
        return Inputs(*args, **kwargs)


@dataclass(frozen=True)
class Captured:
    """A graph and the order in which it takes the tensors of an ``Inputs``."""

    graph: Graph
    slots: tuple[int, ...]

    def bind(self, inputs: Inputs) -> dict[Value, Tensor]:
        """Map the graph's inputs to the tensors of a call."""
        leaves = inputs.leaves()
        return {v: leaves[i] for v, i in zip(self.graph.inputs, self.slots, strict=True)}


def unwrap(model: Any) -> nn.Module:
    """Return the module inside torch.compile, DDP and DataParallel wrappers.

    Raises:
        ModelError: not a module, or a ScriptModule, which torch.export cannot read.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"certify needs a torch.nn.Module, not {type(model).__name__}. "
            "Put the function in the forward of a module."
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError("a ScriptModule cannot be captured. Pass the module it was scripted from.")
    if hasattr(model, "_orig_mod"):
        return unwrap(model._orig_mod)
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrap(model.module)
    return model


def capture(model: nn.Module, inputs: Inputs, perturb: int | str = 0) -> Captured:
    """Capture ``model`` as a graph that holds for any batch size.

    Args:
        model: the module, already unwrapped.
        inputs: example arguments; tensors whose size along dimension 0 is the batch size of
            the perturbed one are taken to be batched.
        perturb: the position or keyword of the perturbed argument.

    Raises:
        CaptureError: what in the model prevents one graph, where, and what to write instead.
    """
    perturbed = inputs.get(perturb)
    batch = perturbed.shape[0]
    example = inputs.map(lambda leaf: _example(leaf, batch))
    try:
        with _quietly(model):
            exported = _export(model, example, _dynamic_shapes(model, inputs, batch))
    except Exception as error:
        failures = [_run_alone(model, given) for given in (inputs, example)]
        raise explain_failure(error, *failures) from error
    return _to_graph(exported, inputs, perturbed)


def _run_alone(model: nn.Module, inputs: Inputs) -> Exception | None:
    """Return what the model itself raises on these inputs, leaving its buffers untouched."""
    buffers = {name: copy.deepcopy(b) for name, b in model.named_buffers()}
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.func.functional_call(model, buffers, inputs.args, inputs.kwargs)
    except Exception as error:
        return error
    return None


def _example(leaf: Any, batch: int) -> Any:
    """Two examples: export would take a batch of one for a constant."""
    if not _batched(leaf, batch):
        return leaf
    one = leaf.detach()[:1]
    return one.expand(2, *one.shape[1:]).clone()


def _batched(leaf: Any, batch: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == batch


def _dynamic_shapes(model: nn.Module, inputs: Inputs, batch: int) -> dict[str, Any]:
    dim = torch.export.Dim("batch")
    try:
        bound = inspect.signature(model.forward).bind(*inputs.args, **inputs.kwargs)
    except TypeError as error:
        raise InputError(
            f"{type(model).__name__}.forward does not take these arguments: {error}. "
            "Pass several with autodual.Inputs(x, other, name=...)."
        ) from error
    return {
        name: pytree.tree_map(lambda leaf: {0: dim} if _batched(leaf, batch) else None, value)
        for name, value in bound.arguments.items()
    }


def _export(
    model: nn.Module, example: Inputs, shapes: dict[str, Any]
) -> torch.export.ExportedProgram:
    with torch.enable_grad():
        exported = torch.export.export(
            model, example.args, example.kwargs, dynamic_shapes=shapes, strict=False
        )
    _show_no_grad(exported.graph_module)
    decomposed: torch.export.ExportedProgram = exported.run_decompositions(_decompositions())
    return decomposed


OPEN_END = 2**63 - 1
"""How export writes the missing end of a slice; some transposes overflow on it."""

_KEEP = (
    aten.linear.default,
    aten.matmul.default,
    aten.pad.default,
    aten.detach.default,
    aten.relu6.default,
    aten.upsample_nearest1d.vec,
    aten.upsample_nearest2d.vec,
    aten.upsample_nearest3d.vec,
    aten.upsample_bilinear2d.vec,
)
"""Ops whose own dual layer is better than that of their parts."""


def _decompositions() -> Any:
    table = torch.export.default_decompositions()
    for op in _KEEP:
        table.pop(op, None)
    table[aten.copy.default] = lambda self, src, non_blocking=False: (
        src.to(self.dtype).expand(self.shape).clone()
    )
    return table


def _show_no_grad(module: fx.GraphModule) -> None:
    """Inline ``no_grad`` regions, with ``detach`` on what leaves them.

    Decomposition would otherwise drop them without a word.
    """
    graph = module.graph
    for node in list(graph.nodes):
        if node.op != "call_function" or "wrap_with_set_grad_enabled" not in str(node.target):
            continue
        enabled, inner, *args = node.args
        body = getattr(module, inner.target)
        _show_no_grad(body)
        with graph.inserting_before(node):
            mapping: dict[fx.Node, Any] = dict(
                zip(body.graph.find_nodes(op="placeholder"), args, strict=True)
            )
            for step in body.graph.nodes:
                if step.op == "call_function":
                    mapping[step] = graph.node_copy(step, mapping.__getitem__)
            (results,) = body.graph.output_node().args
            outs = [mapping[out] if enabled else _detached(graph, mapping[out]) for out in results]
        for user in list(node.users):
            user.replace_all_uses_with(outs[user.args[1]])
            graph.erase_node(user)
        graph.erase_node(node)
    module.recompile()


def _detached(graph: fx.Graph, node: fx.Node) -> fx.Node:
    detached = graph.call_function(aten.detach.default, (node,))
    detached.meta = dict(node.meta)
    return detached


@contextmanager
def _quietly(model: nn.Module) -> Iterator[None]:
    """Capture without torch's chatter, without drawing random numbers or running compiled code.

    ``Module.compile()`` leaves a compiled call on each submodule; it is set aside meanwhile.
    """
    compiled = {
        m: m._compiled_call_impl for m in model.modules() if m._compiled_call_impl is not None
    }
    state, disabled = torch.get_rng_state(), logging.root.manager.disable
    logging.disable(max(logging.CRITICAL, disabled))
    try:
        for module in compiled:
            module._compiled_call_impl = None
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for module, call in compiled.items():
            module._compiled_call_impl = call
        logging.disable(disabled)
        torch.set_rng_state(state)


def _to_graph(
    exported: torch.export.ExportedProgram, inputs: Inputs, perturbed: Tensor
) -> Captured:
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
    which = next(i for i, leaf in enumerate(inputs.leaves()) if leaf is perturbed)
    entry = arguments[which]
    assert entry is not None
    graph = Graph(
        inputs=tuple(value for value in arguments if value is not None),
        perturbed=entry,
        constants=constants,
        nodes=tuple(nodes),
        output=_output(exported, env),
        device=perturbed.device,
    )
    return Captured(graph, slots)


def _output(exported: torch.export.ExportedProgram, env: Mapping[fx.Node, Any]) -> Value:
    specs = exported.graph_signature.output_specs
    (results,) = exported.graph.output_node().args
    user = [r for spec, r in zip(specs, results, strict=True) if spec.kind.name == "USER_OUTPUT"]
    if len(user) != 1 or not exported.call_spec.out_spec.is_leaf():
        raise ModelError(
            f"the model returns {len(user)} values in a {exported.call_spec.out_spec.type!s}; "
            "bounds need one tensor. Wrap the model in a module that returns the one to certify."
        )
    if not isinstance(user[0], fx.Node) or not isinstance(env.get(user[0]), Value):
        raise ModelError("the model does not return a tensor; bounds need one tensor [N, K]")
    output: Value = env[user[0]]
    return output


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
    if isinstance(size, int):
        return size
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


def parameters(graph: Graph, model: nn.Module) -> dict[Value, Tensor]:
    """Look the graph's constants up in the live model."""
    found: dict[Value, Tensor] = {}
    for value, constant in graph.constants.items():
        tensor = constant.tensor if isinstance(constant, Literal) else _lookup(model, constant.name)
        if math.prod(tensor.shape) != math.prod(value.size(1)) or tensor.dtype != value.dtype:
            raise ModelError(
                f"{value.name} was {value.type} when the model was captured and is now "
                f"{tensor.dtype} {list(tensor.shape)}. Call certify again."
            )
        found[value] = tensor
    return found


def _lookup(model: nn.Module, name: str) -> Tensor:
    path, _, leaf = name.rpartition(".")
    tensor = getattr(model.get_submodule(path), leaf)
    assert isinstance(tensor, Tensor)
    return tensor
