"""nn.Module → ExportedProgram → Graph.

The recipe: one named batch dimension, non-strict export under ``enable_grad``, ``no_grad``
regions made visible as ``detach``, then decomposition to functional ATen ops, keeping whole
every op that has a dual layer of its own.
"""

from __future__ import annotations

import copy
import inspect
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from autodual.errors import CaptureError, InputError, ModelError
from autodual.front.capture.convert import Captured, to_graph
from autodual.front.capture.decompositions import decompositions
from autodual.front.capture.diagnose import explain_failure, source_of
from autodual.front.capture.outputs import Output
from autodual.front.capture.stand_ins import put_originals, put_stand_ins
from autodual.front.capture.whole import Kind, fold, marked
from autodual.front.inputs import Inputs

aten = torch.ops.aten


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


def capture(
    model: nn.Module,
    inputs: Inputs,
    perturb: int | str = 0,
    output: Output = None,
    kinds: Iterable[Kind] = (),
) -> Captured:
    """Capture ``model`` as a graph that holds for any batch size.

    Args:
        model: the module, already unwrapped.
        inputs: example arguments; tensors whose size along dimension 0 is the batch size of
            the perturbed one are taken to be batched.
        perturb: the position or keyword of the perturbed argument.
        output: the way to the output that is bounded, if there are several.
        kinds: classes of modules, autograd Functions and ops, each call of which is one node.

    Raises:
        ModelError: which outputs there are, if that does not name one.
        CaptureError: what in the model prevents one graph, where, and what to write instead.
    """
    perturbed = inputs.get(perturb)
    batch = perturbed.shape[0]
    example = inputs.map(lambda leaf: _example(leaf, batch))
    try:
        with _quietly(model), marked(model, kinds) as sites:
            whole = [kind for kind in kinds if isinstance(kind, OpOverload)]
            exported = _export(model, example, _dynamic_shapes(model, inputs, batch), whole)
    except Exception as error:
        failures = [_run_alone(model, given) for given in (inputs, example)]
        raise explain_failure(error, *failures) from error
    captured = to_graph(exported, inputs.position(perturb), perturbed.device, output)
    return replace(captured, graph=fold(put_originals(captured.graph), sites))


def _run_alone(model: nn.Module, inputs: Inputs) -> Exception | None:
    """Return what the model itself raises on these inputs."""
    try:
        call_untouched(model, inputs)
    except Exception as error:
        return error
    return None


@torch.no_grad()
def call_untouched(model: nn.Module, inputs: Inputs) -> Any:
    """Call the model on copies of its inputs and buffers, with the random state put back."""
    buffers = {name: copy.deepcopy(b) for name, b in model.named_buffers()}
    own = inputs.clone()
    with torch.random.fork_rng(devices=[]):
        return torch.func.functional_call(model, buffers, own.args, own.kwargs)


def _example(leaf: Any, batch: int) -> Any:
    """Two examples: export would take a batch of one for a constant."""
    if not _batched(leaf, batch):
        return leaf
    one = leaf.detach()[:1]
    return one.expand(2, *one.shape[1:]).clone()


def _batched(leaf: Any, batch: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == batch


def _dynamic_shapes(model: nn.Module, inputs: Inputs, batch: int) -> dict[str, Any]:
    dim = torch.export.Dim("batch", max=MOST_EXAMPLES)
    try:
        bound = inspect.signature(model.forward).bind(*inputs.args, **inputs.kwargs)
    except TypeError as error:
        raise InputError(
            f"{type(model).__name__}.forward does not take these arguments: {error}. "
            "Pass several with autodual.Inputs(x, other, name=...)."
        ) from error
    _refuse_collected(model, bound.arguments)
    return {
        name: pytree.tree_map(lambda leaf: {0: dim} if _batched(leaf, batch) else None, value)
        for name, value in bound.arguments.items()
    }


def _refuse_collected(model: nn.Module, given: Iterable[str]) -> None:
    """Raise if arguments arrive in a ``**kwargs``, for which torch.export fails."""
    for name, parameter in inspect.signature(model.forward).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD and name in given:
            raise CaptureError(
                f"torch.export takes no arguments that {type(model).__name__}.forward collects in "
                f"**{name}. Name them in its signature, or pass them by position."
            )


def _export(
    model: nn.Module, example: Inputs, shapes: dict[str, Any], whole: Iterable[OpOverload]
) -> torch.export.ExportedProgram:
    with torch.enable_grad():
        exported = torch.export.export(
            model, example.args, example.kwargs, dynamic_shapes=shapes, strict=False
        )
    _show_no_grad(exported.graph_module)
    put_stand_ins(exported.graph_module)
    decomposed: torch.export.ExportedProgram = exported.run_decompositions(decompositions(whole))
    return decomposed


MOST_EXAMPLES = 2**32
"""A limit on the batch size, far below the number by which slices without an end are written."""


def _show_no_grad(module: fx.GraphModule) -> None:
    """Inline ``no_grad`` regions, with ``detach`` on what leaves them.

    Decomposition would otherwise drop them without a word.
    """
    graph = module.graph
    for node in list(graph.nodes):
        if "wrap_with_autocast" in str(node.target) and node.args[2]:
            inside = getattr(module, node.args[4].target).graph.nodes
            place = next(filter(None, map(source_of, inside)), node)
            raise CaptureError(
                f"autocast at {place}: it rounds what depends on x to another dtype. A "
                "bound is computed in the dtype of x: leave autocast out, or pass enabled=False."
            )
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

    ``Module.compile()`` leaves a compiled call on each submodule; it is set aside meanwhile. So is
    the fused kernel that attention takes where nothing needs a gradient.
    """
    compiled = {
        m: m._compiled_call_impl for m in model.modules() if m._compiled_call_impl is not None
    }
    state, disabled = torch.get_rng_state(), logging.root.manager.disable
    fused = torch.backends.mha.get_fastpath_enabled()
    logging.disable(max(logging.CRITICAL, disabled))
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for module in compiled:
            module._compiled_call_impl = None
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, call in compiled.items():
            module._compiled_call_impl = call
        logging.disable(disabled)
        torch.set_rng_state(state)
