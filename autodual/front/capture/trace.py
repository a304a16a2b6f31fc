"""nn.Module → Graph, by two concrete runs on fake tensors.

The recipe: run the model for real, then record it on fakes of 2 and of 3 examples, take views and
writes out of each record, and join both: an integer that differs stands for the batch.
"""

from __future__ import annotations

import inspect
import itertools
import logging
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from autodual.errors import AutodualError, InputError
from autodual.front.capture.decompositions import Table
from autodual.front.capture.diagnose import explain_failure
from autodual.front.capture.functional import Program, functional
from autodual.front.capture.join import Captured, join
from autodual.front.capture.merge import merge
from autodual.front.capture.outputs import Output
from autodual.front.capture.record import Names, record
from autodual.front.capture.rehearse import rehearse
from autodual.front.capture.untouched import call_untouched, untouched
from autodual.front.capture.whole import Kind, Site, fold, marked, same_sites
from autodual.front.stand_ins import is_straight
from autodual.inputs import Inputs, Keys, is_batched

ONE_AT_A_TIME = threading.RLock()
"""Held while a model is captured: the output streams and torch's settings are everybody's."""

TRACED = 2, 3
"""The batch sizes of the two runs. With one example, a size could be taken for a number."""


def capture(
    model: nn.Module,
    inputs: Inputs,
    perturb: Keys = 0,
    output: Output = None,
    kinds: Iterable[Kind] = (),
    shared: frozenset[int] = frozenset(),
) -> Captured:
    """Capture ``model`` as a graph that holds for any batch size.

    Args:
        model: the module, already unwrapped.
        inputs: example arguments; tensors whose size along dimension 0 is the batch size of
            the perturbed one are taken to be batched, but for those that are ``shared``.
        perturb: the position or keyword of the perturbed argument, or of several.
        output: the way to the output that is bounded, if there are several.
        kinds: classes of modules, autograd Functions and ops, each call of which is one node.
        shared: the positions of arguments that all examples share.

    Raises:
        ModelError: which outputs there are, if that does not name one.
        CaptureError: what in the model prevents one graph, where, and what to write instead.
    """
    perturbed = inputs.get(perturb)
    keys = perturb if isinstance(perturb, tuple) else (perturb,)
    positions = [inputs.position(key) for key in keys]
    names = _leaf_names(model, inputs)
    two, three = (some(inputs, perturbed.shape[0], n, shared) for n in TRACED)
    table = Table(kind for kind in kinds if isinstance(kind, OpOverload))
    try:
        with ONE_AT_A_TIME, _quietly(model):
            rehearse(model, two, three)
            (a, sites), (b, others) = (
                _program(model, given, kinds, table) for given in (two, three)
            )
    except AutodualError:
        raise
    except Exception as error:
        failures = [_run_alone(model, given) for given in (inputs, two, three)]
        name = names[positions[0]]
        raise explain_failure(error, failures[0], failures[1] or failures[2], name) from error
    same_sites(sites, others)
    captured = join(a, b, names, positions[0], perturbed.device, output)
    graph = replace(fold(captured.graph, sites), straight=is_straight(model))
    captured = replace(captured, graph=graph, shared=shared)
    return merge(captured, positions) if isinstance(perturb, tuple) else captured


def _program(
    model: nn.Module, given: Inputs, kinds: Iterable[Kind], table: Table
) -> tuple[Program, list[Site]]:
    """Run the model on fakes of these arguments; also return which calls are to be one node."""
    with untouched(model) as kept, marked(model, kinds) as sites:
        tape = record(model, given, Names(model, kept.modules), table.kept)
    return functional(tape, table), sites


def _run_alone(model: nn.Module, inputs: Inputs) -> Exception | None:
    """Return what the model itself raises on these inputs."""
    try:
        call_untouched(model, inputs)
    except Exception as error:
        return error
    return None


def some(inputs: Inputs, batch: int, count: int, shared: frozenset[int]) -> Inputs:
    """Return a few examples of the batch, repeated in turn where there are too few.

    Arguments at the positions in ``shared`` stay as they are.
    """
    position = itertools.count()

    def some(leaf: Any) -> Any:
        if next(position) in shared or not is_batched(leaf, batch):
            return leaf
        index = torch.arange(count, device=leaf.device) % batch
        return leaf.detach().index_select(0, index)

    return inputs.map(some)


def _leaf_names(model: nn.Module, inputs: Inputs) -> list[str]:
    """Return what forward calls each leaf of its arguments.

    Raises:
        InputError: forward does not take these arguments.
    """
    try:
        bound = inspect.signature(model.forward).bind(*inputs.args, **inputs.kwargs)
    except TypeError as error:
        raise InputError(
            f"{type(model).__name__}.forward does not take these arguments: {error}. "
            "Pass several with autodual.Inputs(x, other, name=...)."
        ) from error
    given: list[tuple[str, Any]] = []
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            given += [(f"{name}_{i}", item) for i, item in enumerate(value)]
        elif kind is inspect.Parameter.VAR_KEYWORD:
            given += value.items()
        else:
            given.append((name, value))
    of = {id(value): name for name, value in reversed(given)}
    names = []
    for value in (*inputs.args, *inputs.kwargs.values()):
        leaves = len(pytree.tree_leaves(value))
        name = of.get(id(value), "input")
        names += [name] if leaves == 1 else [f"{name}_{i}" for i in range(leaves)]
    return names


@contextmanager
def _quietly(model: nn.Module) -> Iterator[None]:
    """Capture without torch's chatter, and without running compiled code.

    ``Module.compile()`` leaves a compiled call on each submodule; it is set aside meanwhile. So is
    the fused kernel that attention takes where nothing needs a gradient.
    """
    compiled = {
        m: m._compiled_call_impl for m in model.modules() if m._compiled_call_impl is not None
    }
    disabled = logging.root.manager.disable
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
