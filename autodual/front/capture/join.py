"""Two programs, of a batch of 2 and one of 3 → one graph: what differs is the batch size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from autodual.errors import BatchError, ModelError
from autodual.front.capture.functional import Program, Ref, Step
from autodual.front.capture.outputs import Output, choose
from autodual.front.ir import Batch, Constant, Dim, Graph, Literal, Node, Parameter, Source, Value
from autodual.inputs import Inputs

aten = torch.ops.aten


@dataclass(frozen=True)
class Captured:
    """A graph, the order in which it takes the tensors of an ``Inputs``, and what it returns.

    ``leaf`` is the position of the graph's output among all that the model returns. An input with
    several slots holds these tensors side by side. ``shared`` are the positions of arguments that
    are as long as the batch and yet shared by its examples.
    """

    graph: Graph
    slots: tuple[int | tuple[int, ...], ...]
    leaf: int
    shared: frozenset[int] = frozenset()

    def bind(self, inputs: Inputs) -> dict[Value, Tensor]:
        """Map the graph's inputs to the tensors of a call."""
        leaves = inputs.leaves()

        def at(slot: int | tuple[int, ...]) -> Tensor:
            if isinstance(slot, int):
                tensor: Tensor = leaves[slot]
                return tensor
            return torch.cat([leaves[i].flatten(1) for i in slot], 1)

        return {v: at(i) for v, i in zip(self.graph.inputs, self.slots, strict=True)}

    def pick(self, returned: Any) -> Tensor:
        """Pick the graph's output from what the model returned."""
        tensor: Tensor = pytree.tree_leaves(returned)[self.leaf]
        return tensor


def join(
    two: Program,
    three: Program,
    names: Sequence[str],
    perturbed: int,
    device: torch.device,
    output: Output = None,
) -> Captured:
    """Make the graph of two runs.

    Args:
        two, three: the runs, with 2 and with 3 examples.
        names: what each leaf of the inputs is called.
        perturbed: the position of the leaf in the ball.
        device: where the graph runs.
        output: the way to the output that is bounded.

    Raises:
        BatchError: the runs differ in more than the number of examples.
        ModelError: which outputs there are, if ``output`` does not name one.
    """
    _refuse_other_path(two, three)
    joined = _Joined(two, three)
    inputs = {i: leaf for i, leaf in enumerate(two.inputs) if isinstance(leaf, Ref)}
    entries = tuple(joined.enter(ref.number, names[i], None) for i, ref in inputs.items())
    leaf, number = _output(two, three, joined, output)
    live = _live(two, number)
    constants = joined.constants(live)
    for a, b in zip(two.steps, three.steps, strict=True):
        if live.intersection(a.outs):
            joined.step(a, b, live)
    result = joined.read(number, True)
    assert isinstance(two.inputs[perturbed], Ref)
    graph = Graph(
        inputs=entries,
        perturbed=joined.values[two.inputs[perturbed].number],
        constants=constants,
        nodes=tuple(joined.nodes),
        output=result,
        device=device,
    )
    return Captured(graph, tuple(inputs), leaf)


def _output(two: Program, three: Program, joined: _Joined, output: Output) -> tuple[int, int]:
    found, packed = pytree.tree_flatten(two.returned)
    if packed != pytree.tree_structure(three.returned):
        raise _other_path("what it returns", None)

    def show(i: int) -> str:
        ref = found[i]
        if not isinstance(ref, Ref):
            return f"{ref}, no tensor"
        return joined.value("", ref.number, None).type

    leaf = choose(packed, output, show)
    if not isinstance(found[leaf], Ref):
        raise ModelError(f"the model returns {show(leaf)}; bounds need one tensor [N, K]")
    if found[leaf] != pytree.tree_leaves(three.returned)[leaf]:
        raise _other_path("what it returns", None)
    return leaf, found[leaf].number


def _live(program: Program, output: int) -> set[int | None]:
    """Return the numbers of all tensors from which the output is computed."""
    live: set[int | None] = {output}
    for step in reversed(program.steps):
        if live.intersection(step.outs):
            live.update(ref.number for ref in _refs(step.args))
    return live - {None}


def _refs(arg: Any) -> list[Ref]:
    return [leaf for leaf in pytree.tree_leaves(arg) if isinstance(leaf, Ref)]


def _refuse_other_path(two: Program, three: Program) -> None:
    """Raise unless both runs took the same ops in the same order."""
    for a, b in zip(two.steps, three.steps, strict=False):
        if a.target is not b.target or a.outs != b.outs:
            raise _other_path(f"{a.target} for two examples, {b.target} for three", a.source)
    if len(two.steps) != len(three.steps):
        longer = max(two.steps, three.steps, key=len)
        source = longer[min(len(two.steps), len(three.steps))].source
        raise _other_path("more steps for one than for the other", source)


def _other_path(what: str, source: Source | None) -> BatchError:
    place = f", at {source}" if source else ""
    return BatchError(
        f"the model fixes the batch size{place}: it computes something else for two examples than "
        f"for three ({what}). Write x.size(0) or x.flatten(1) instead of a number, and do not "
        "branch on the batch size."
    )


class _Joined:
    """The values and nodes of the graph, as they are made."""

    def __init__(self, two: Program, three: Program) -> None:
        self.two, self.three = two, three
        self.values: dict[int, Value] = {}
        self.nodes: list[Node] = []
        self.stopped: dict[int, Value | None] = {}
        self.taken: dict[str, int] = {}

    def value(self, name: str, number: int, source: Source | None) -> Value:
        """Return the value that a tensor of both runs is."""
        a, b = self.two.results[number], self.three.results[number]
        if len(a.shape) != len(b.shape) or a.dtype != b.dtype:
            raise _other_path("tensors of another kind", source)
        shape = tuple(_dim(x, y, source) for x, y in zip(a.shape, b.shape, strict=True))
        return Value(name, shape, a.dtype)

    def enter(self, number: int, name: str, source: Source | None) -> Value:
        """Give a tensor its name in the graph."""
        count = self.taken.get(name, 0)
        self.taken[name] = count + 1
        unique = f"{name}_{count}" if count else name
        while count and unique in self.taken:
            unique += "_"
        self.taken.setdefault(unique, 1)
        self.values[number] = self.value(unique, number, source)
        return self.values[number]

    def constants(self, live: set[int | None]) -> dict[Value, Constant]:
        """Enter the constants that are needed."""
        found: dict[Value, Constant] = {}
        for number, constant in self.two.constants.items():
            if number not in live:
                continue
            other = self.three.constants.get(number)
            if isinstance(constant, Parameter):
                if other != constant:
                    raise _other_path(f"it reads {constant.name}", None)
                found[self.enter(number, f"self.{constant.name}", None)] = constant
            else:
                if not isinstance(other, Literal) or not _equal(constant.tensor, other.tensor):
                    raise BatchError(
                        "a constant tensor is made by hand for each batch size. Make it from "
                        "x by tensor ops, for instance x.new_zeros(x.size(0), 1)."
                    )
                found[self.enter(number, "constant", None)] = constant
        return found

    def step(self, a: Step, b: Step, live: set[int | None]) -> None:
        """Add the nodes of one step."""
        args = {name: self._arg(arg, b.args[name], a, name) for name, arg in a.args.items()}
        for i, number in enumerate(a.outs):
            if number is None or number not in live:
                continue
            out = self.enter(number, a.target._opname, a.source)
            index = None if a.single else i
            self.nodes.append(Node(out, str(a.target), a.target, args, index, a.source))
            if not a.grad:
                self.stopped[number] = None

    def read(self, number: int, grad: bool) -> Value:
        """Return a value as it is read: through ``detach`` where it leaves a no_grad region."""
        if not grad or number not in self.stopped:
            return self.values[number]
        if self.stopped[number] is None:
            value = self.values[number]
            out = Value(f"{value.name}.detached", value.shape, value.dtype)
            op, source = aten.detach.default, self.nodes[-1].source
            made = next((n.source for n in reversed(self.nodes) if n.out == value), source)
            self.nodes.append(Node(out, str(op), op, {"self": value}, None, made))
            self.stopped[number] = out
        stopped = self.stopped[number]
        assert stopped is not None
        return stopped

    def _arg(self, a: Any, b: Any, step: Step, name: str) -> Any:
        if isinstance(a, list | tuple):
            if not isinstance(b, list | tuple) or len(a) != len(b):
                raise _other_path(f"{name} of {step.target}", step.source)
            return [self._arg(x, y, step, name) for x, y in zip(a, b, strict=True)]
        if isinstance(a, Ref) and a == b:
            return self.read(a.number, step.grad)
        if type(a) is int and type(b) is int:
            return _dim(a, b, step.source)
        if type(a) is type(b) and (a == b or (a != a and b != b)):
            return a
        raise _other_path(f"{name} of {step.target} is {a} and then {b}", step.source)


def _equal(a: Tensor, b: Tensor) -> bool:
    if a is b:
        return True
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
        return False
    same = a == b
    return bool((same | ((a != a) & (b != b))).all())


def _dim(two: int, three: int, source: Source | None) -> Dim:
    """Read a size as a number or a multiple of the batch size."""
    if two == three:
        return two
    if two == 2 * (three - two):
        return Batch(three - two)
    place = f", at {source}" if source else ""
    raise BatchError(
        f"a size is {two} for two examples and {three} for three{place}. Only multiples of the "
        "batch size keep the examples of a batch apart."
    )
