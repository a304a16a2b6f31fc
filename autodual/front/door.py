"""The one way in: from a model and its inputs to a captured graph that is known to hold now.

Unwrap, check, capture, simplify, compare: whoever bounds a model comes through ``admit``. Captures
are remembered for each model while it lives; a memory that changes no result, since what is
remembered holds no tensor of the model's and is compared with the model before it is relied on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from autodual.errors import CaptureError, GraphError, ModelError
from autodual.front.arguments import check_x
from autodual.front.capture import (
    Captured,
    Kind,
    Output,
    call_untouched,
    capture,
    close,
    unwrap,
)
from autodual.front.evaluate import entries, run
from autodual.front.fidelity import check_apart, check_batch, check_ranges
from autodual.front.fingerprint import Attribute, Fingerprint, fingerprint, freeze
from autodual.front.ir import Graph, Value, alike
from autodual.front.passes import simplify
from autodual.inputs import Inputs, Keys, as_inputs, is_batched
from autodual.threat.base import wide

Program = TypeVar("Program")

MOST = 16
"""How many captures of one model are remembered."""

NOW_AND_THEN = 64
"""After how many training steps, at the latest, a graph is compared with its model again."""


@dataclass(frozen=True)
class Question:
    """Which graph of a model is wanted.

    Attributes:
        perturb: the position or name of the perturbed argument, or of several.
        output: the way to the output that is bounded, if there are several.
        kinds: classes of modules, autograd Functions and ops, each call of which is one node.
        shared: the positions of arguments that all examples share although they are as long as
            the batch.
    """

    perturb: Keys = 0
    output: Output = None
    kinds: frozenset[Kind] = frozenset()
    shared: frozenset[int] = frozenset()


@dataclass(eq=False)
class _Held:
    """A capture, and what has been made of it, by the options it was made with."""

    captured: Captured
    print: Fingerprint
    programs: dict[Hashable, Any] = field(default_factory=dict)
    checked: bool = False
    uses: int = 0


@dataclass(eq=False)
class _Captures:
    """What is remembered of one model: captures by kind of input, the latest last.

    ``idle`` are attributes whose change has changed no graph, such as a counter of steps.
    ``shared`` says for a kind of input which arguments were found to be shared.
    """

    held: dict[Hashable, _Held] = field(default_factory=dict)
    idle: set[Attribute] = field(default_factory=set)
    shared: dict[Hashable, frozenset[int]] = field(default_factory=dict)


_MEMORY: WeakKeyDictionary[nn.Module, _Captures] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Admitted(Generic[Program]):
    """A model with inputs, its graph, and what was made of that.

    Attributes:
        model: the module itself, without wrappers.
        inputs, x: all arguments, and the perturbed one, or several side by side, [N, D].
        shapes: of one example's perturbed arguments.
        captured: its graph.
        program: what was made of the graph.
        env: all that the graph is given: inputs and live parameters.
        nominal: the model's output at x; None where it was not compared with the graph's.
    """

    model: nn.Module
    inputs: Inputs
    x: Tensor
    captured: Captured
    program: Program
    env: Mapping[Value, Tensor]
    shapes: tuple[torch.Size, ...]
    nominal: Tensor | None = None

    @property
    def graph(self) -> Graph:
        """The graph."""
        return self.captured.graph

    def output(self) -> Tensor:
        """Return the model's output at x, or the graph's where they were not compared."""
        return run(self.graph, self.env) if self.nominal is None else self.nominal

    def undefined(self) -> Tensor | None:
        """Return the examples [N] for which the model's output at x is not finite, if any is so."""
        lost = ~self.graph.output.per_example(self.output(), len(self.x)).isfinite()
        lost = lost.flatten(1).any(1)
        return lost if bool(lost.any()) else None

    def known(self, bound: Tensor) -> Tensor:
        """Return a bound [N, *] that says nothing of the examples that are ``undefined``."""
        lost = self.undefined()
        return bound if lost is None else bound.masked_fill(wide(lost, bound), -torch.inf)


def admit(
    model: object,
    x: object,
    question: Question,
    make: Callable[[Graph], Program],
    key: Hashable = None,
    *,
    confirm: bool = True,
    looks: Callable[[Tensor], bool] = lambda x: True,
) -> Admitted[Program]:
    """Let a model and its inputs in.

    Args:
        model, x: what the user gave.
        question: which graph is wanted.
        make: makes of a graph what is wanted of it; done once for each ``key``.
        key: what ``make`` depends on.
        confirm: compare the graph with the model at x. Where they differ the model is captured
            anew, once. If not asked for it is done now and then.
        looks: whether the host may look at the values of a tensor.

    Raises:
        ModelError, InputError: no module, or no batch of inputs.
        CaptureError: the model cannot be captured, and why; or its graph does not hold at x.
    """
    module, inputs = unwrap(model), as_inputs(x)
    question = replace(question, perturb=inputs.key(question.perturb, module))
    keys = question.perturb if isinstance(question.perturb, tuple) else (question.perturb,)
    for key_ in keys:
        check_x(inputs.get(key_), module, looks)
    tensor = inputs.get(question.perturb)
    captures = _MEMORY.setdefault(module, _Captures())
    arrival = _Arrival(module, inputs, tensor, fingerprint(module), captures)
    usual, refused = _kind(inputs, question), None
    known = captures.shared.get(usual)
    perturbed = {inputs.position(key_) for key_ in keys}
    readings = sorted(_readings(inputs, perturbed, len(tensor)), key=lambda read: read != known)
    for shared in readings:
        try:
            asked = replace(question, shared=shared)
            found = _admit(arrival, asked, make, key, confirm, looks)
        except (CaptureError, ModelError, GraphError) as error:
            refused = refused or error
            continue
        captures.shared[usual] = shared
        return found
    assert refused is not None
    raise refused


def _readings(inputs: Inputs, perturbed: set[int], batch: int) -> Iterator[frozenset[int]]:
    """Yield which arguments to take for shared: none as long as the batch, then some, then all.

    What is longer or shorter is shared anyhow.
    """
    leaves = enumerate(inputs.leaves())
    alike = [i for i, leaf in leaves if i not in perturbed and is_batched(leaf, batch)]
    for count in range(len(alike) + 1):
        if count <= 1 or count == len(alike):
            yield from map(frozenset, itertools.combinations(alike, count))


@dataclass(frozen=True, eq=False)
class _Arrival:
    """Who asks to be let in."""

    model: nn.Module
    inputs: Inputs
    x: Tensor
    print: Fingerprint
    captures: _Captures


def _admit(
    arrival: _Arrival,
    question: Question,
    make: Callable[[Graph], Program],
    key: Hashable,
    confirm: bool,
    looks: Callable[[Tensor], bool],
) -> Admitted[Program]:
    """Let a model and its inputs in, with these of them shared by all examples."""
    module, inputs, captures = arrival.model, arrival.inputs, arrival.captures
    kind = _kind(inputs, question)
    for last in (False, True):
        held, name = _find(captures, module, inputs, question, arrival.print, kind)
        try:
            if key not in held.programs:
                held.programs[key] = make(held.captured.graph)
            env = entries(held.captured.graph, module, held.captured.bind(inputs))
            program, shapes = held.programs[key], inputs.shapes(question.perturb)
            found = Admitted(module, inputs, arrival.x, held.captured, program, env, shapes)
            held.uses += 1
            if held.checked and not (confirm or (_is_due(held) and looks(arrival.x))):
                return found
            nominal = _compare(found)
            if not held.checked:
                check_apart(found.graph, env)
                check_ranges(found.graph, env)
                held.checked = True
            return replace(found, nominal=nominal)
        except (DisagreementError, ModelError) as error:
            del captures.held[name]
            if last or held.uses <= 1:
                if isinstance(error, DisagreementError):
                    check_batch(held.captured, module, inputs)
                raise
    raise AssertionError("unreachable")


class DisagreementError(CaptureError):
    """A graph and its model give different results."""


def _is_due(held: _Held) -> bool:
    """Return whether a graph is to be compared although nobody asked for it."""
    return held.uses & (held.uses - 1) == 0 or held.uses % NOW_AND_THEN == 0


@torch.no_grad()
def _compare(found: Admitted[Any]) -> Tensor:
    """Return the model's output at x; raise if its graph gives another where that is finite."""
    output, batch = found.graph.output, len(found.x)
    graphs = run(found.graph, found.env)
    returned = found.captured.pick(call_untouched(found.model, found.inputs))
    if torch.equal(returned, graphs):
        return returned
    if returned.shape == graphs.shape:
        theirs, ours = (output.per_example(t, batch) for t in (returned, graphs))
        finite = theirs.isfinite().flatten(1).all(1)
        if not bool(finite.all()):
            theirs, ours = theirs[finite], ours[finite]
        if close(theirs, ours):
            return returned
        told = _apart(theirs, ours)
    else:
        told = f"it returns {list(returned.shape)}, its graph {list(graphs.shape)}"
    raise DisagreementError(
        f"the captured graph and the model disagree on this input: {told}. Does forward depend on "
        "the number of examples, on the time, or on a state that it changes itself? Make that "
        "state an argument. Or do large numbers cancel, or overflow? An op may be captured as "
        "others, which are rounded otherwise: certify model.double(), or move and scale the input."
    )


def _apart(theirs: Tensor, ours: Tensor) -> str:
    """Say how far a model's results and those of its graph are apart."""
    if not bool(ours.isfinite().all()):
        return "the graph comes to ∞ or NaN, and the model does not"
    if theirs.dtype != ours.dtype or not theirs.is_floating_point():
        return f"{theirs.dtype} and {ours.dtype}"
    gap = (theirs - ours).abs().flatten()
    at = int(gap.argmax())
    return f"{float(theirs.flatten()[at]):.9g} and {float(ours.flatten()[at]):.9g}, for one entry"


def _find(
    captures: _Captures,
    model: nn.Module,
    inputs: Inputs,
    question: Question,
    print_: Fingerprint,
    kind: Hashable,
) -> tuple[_Held, Hashable]:
    """Return the capture for this kind of input, and its name; capture where there is none."""
    watched = {k: v for k, v in print_.attributes.items() if k not in captures.idle}
    base = kind, print_.structure
    name = *base, frozenset(watched.items())
    held = captures.held.pop(name, None)
    if held is None:
        asked = question.perturb, question.output, question.kinds, question.shared
        made = capture(model, inputs, *asked)
        held = _Held(replace(made, graph=simplify(made.graph)), print_)
        for other in [n for n in captures.held if n[:2] == base]:  # type: ignore[index]
            before = captures.held[other]
            if alike(before.captured.graph, held.captured.graph):
                captures.idle |= before.print.changes(print_)
                del captures.held[other]
        name = (
            *base,
            frozenset((k, v) for k, v in print_.attributes.items() if k not in captures.idle),
        )
    captures.held[name] = held
    while len(captures.held) > MOST:
        del captures.held[next(iter(captures.held))]
    return held, name


def _kind(inputs: Inputs, question: Question) -> Hashable:
    """Return what of the inputs and their surroundings can change the graph."""
    batch = len(inputs.get(question.perturb))

    def kind(i: int, leaf: Any) -> Hashable:
        if not isinstance(leaf, Tensor):
            return freeze(leaf)
        batched = is_batched(leaf, batch) and i not in question.shared
        return (batched, leaf.shape[1:] if batched else leaf.shape, leaf.dtype, leaf.device)

    leaves = tuple(kind(i, leaf) for i, leaf in enumerate(inputs.leaves()))
    autocast = torch.is_autocast_enabled(), torch.is_autocast_enabled("cpu")
    return leaves, tuple(inputs.kwargs), question, autocast
