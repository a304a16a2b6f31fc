"""Graph + registry + method → Plan: which dual layer serves each node, what gets bounds, how."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from autodual.bound.match import grows, match_all
from autodual.duals import Affine, Bilinear, Call, DualLayer, Elementwise, IntervalRule, Registry
from autodual.duals.base import Hole
from autodual.errors import InputError, UnsupportedOpError
from autodual.front.ir import Batch, Graph, Node, Value, evaluate, map_leaves, resolve

METHODS = {
    "ibp": "interval arithmetic inside; the last affine layers are merged with the specification",
    "ibp+dual": "interval arithmetic inside, one dual pass at the end",
    "dual": "AutoDual: every interval by a dual pass of its own",
    "ibp&dual": "both, intersected at every node and in the result",
}
"""How intermediate bounds are found, by name."""


@dataclass(frozen=True, eq=False)
class Step:
    """One node that the perturbation reaches, and its dual layer.

    ``variables`` are its perturbed arguments, in order; ``own`` its constant arguments that
    differ from example to example.
    """

    node: Node
    rule: DualLayer
    variables: tuple[Value, ...]
    own: tuple[Value, ...]

    @property
    def out(self) -> Value:
        """The value it computes."""
        return self.node.out

    @cached_property
    def sides(self) -> tuple[Step, ...]:
        """The affine ops it is made of: itself, or a product as a function of each argument.

        The other argument is then the constant ``centered(other)``.
        """
        if isinstance(self.rule, Affine):
            return (self,)
        if not isinstance(self.rule, Bilinear):
            return ()
        names = [k for k, arg in self.node.args.items() if arg in self.variables]
        x, y = self.variables
        one = _fixed(self.node, names[1], centered(y))
        other = _fixed(self.node, names[0], centered(x))
        return (
            Step(one, self.rule.alone, (x,), (centered(y), *self.own)),
            Step(other, self.rule.alone, (y,), (centered(x), *self.own)),
        )

    def call(self, env: Mapping[Value, Tensor], batch: int) -> Call:
        """Return the node's op with all but its perturbed arguments bound from ``env``."""
        holes = iter(range(len(self.variables)))
        moving = set(self.variables)

        def bind(leaf: Any) -> Any:
            if isinstance(leaf, Value):
                return Hole(next(holes)) if leaf in moving else env[leaf]
            return resolve(leaf, batch) if isinstance(leaf, Batch) else leaf

        args = {name: map_leaves(arg, bind) for name, arg in self.node.args.items()}
        return Call(self.node.target, args, self.node.index)


def centered(value: Value) -> Value:
    """Return the constant that stands for the center of a value's interval."""
    return replace(value, name=f"{value.name}.center")


def _fixed(node: Node, name: str, value: Value) -> Node:
    return replace(node, args={**node.args, name: value})


@dataclass(frozen=True)
class Form:
    """What a row becomes as it passes the op that computes ``value``, and what that costs."""

    value: Value
    name: str
    width: int
    flops: int


@dataclass(frozen=True)
class RowCost:
    """The forms of one row on its way back to the input, and the bytes of one entry."""

    forms: tuple[Form, ...]
    element: int

    @property
    def widest_bytes(self) -> int:
        """The bytes of the widest form."""
        return max((form.width for form in self.forms), default=1) * self.element

    @property
    def total_bytes(self) -> int:
        """The bytes of all forms together."""
        return sum(form.width for form in self.forms) * self.element

    @property
    def flops(self) -> int:
        """The products and sums of all ops together."""
        return sum(form.flops for form in self.forms)


class Constants:
    """All that does not depend on the perturbation, for one batch.

    Attributes:
        env: values by name, in the model's layout.
        batch: the number of examples.
    """

    def __init__(self, env: dict[Value, Tensor], batch: int) -> None:
        self.env, self.batch = env, batch
        self._calls: dict[Value, Call] = {}

    def call(self, step: Step) -> Call:
        """Return the step's op for a single example."""
        if step.out not in self._calls:
            self._calls[step.out] = step.call(self.env, 1)
        return self._calls[step.out]

    def select(self, index: Tensor) -> Constants:
        """Return the same for the examples at ``index``."""

        def some(value: Value, tensor: Tensor) -> Tensor:
            if value.batch_dim is None:
                return tensor
            return value.in_layout(value.per_example(tensor, self.batch)[index])

        return Constants({v: some(v, t) for v, t in self.env.items()}, len(index))

    def own(self, value: Value) -> Tensor:
        """Return a value that differs from example to example, [N, *size(1)]."""
        return value.per_example(self.env[value], self.batch)


@dataclass(frozen=True, eq=False)
class Plan:
    """The steps of a graph in order, and the method for the intervals its nonlinear ops need."""

    graph: Graph
    steps: tuple[Step, ...]
    method: str
    row_costs: dict[Hashable, RowCost] = field(default_factory=dict)

    @cached_property
    def upstream(self) -> Mapping[Value, tuple[Step, ...]]:
        """For each value, the steps it depends on, last first: the order in which rows travel."""
        table: dict[Value, tuple[Step, ...]] = {self.graph.perturbed: ()}
        for i, step in enumerate(self.steps):
            needed = {step.out}
            path = []
            for earlier in reversed(self.steps[: i + 1]):
                if earlier.out in needed:
                    needed.update(earlier.variables)
                    path.append(earlier)
            table[step.out] = tuple(path)
        return table

    @cached_property
    def flops(self) -> Mapping[Value, int]:
        """The FLOPs of each node for one example."""
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.utils.flop_counter import FlopCounterMode

        graph, counts = self.graph, dict[Value, int]()
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            env: dict[Value, Tensor] = {
                v: torch.empty(v.size(1), dtype=v.dtype, device=graph.device) for v in graph.entries
            }
            for node in graph.nodes:
                with FlopCounterMode(display=False) as counter:
                    env[node.out] = evaluate(node, env, 1)
                counts[node.out] = counter.get_total_flops() or node.out.numel
        return counts

    @cached_property
    def last_reads(self) -> Mapping[Value, tuple[Value, ...]]:
        """For the output of each step, the values that no later step reads."""
        reader = {v: step.out for step in self.steps for v in step.variables}
        table: dict[Value, tuple[Value, ...]] = {}
        for value, out in reader.items():
            table[out] = (*table.get(out, ()), value)
        return table

    @cached_property
    def bounded(self) -> Mapping[Value, tuple[Step, ...]]:
        """The values whose intervals are needed, each with the nonlinear steps that read it."""
        table: dict[Value, tuple[Step, ...]] = {}
        for step in self.steps:
            if not isinstance(step.rule, Affine):
                for value in dict.fromkeys(step.variables):
                    table[value] = (*table.get(value, ()), step)
        return table

    @cached_property
    def inner(self) -> frozenset[Value]:
        """What bounded values depend on, and they themselves: not what only the output reads."""
        return frozenset(step.out for value in self.bounded for step in self.upstream[value])

    @property
    def program(self) -> Program:
        """The dual network, printable."""
        return Program(self)


@dataclass(frozen=True, eq=False)
class Program:
    """The dual network as the paper writes it: one line per dual layer, from the output back."""

    plan: Plan

    def __str__(self) -> str:
        graph = self.plan.graph
        lines = [f"dual network, intervals by {self.plan.method}", f"  ν[{graph.output}] = −C"]
        for step in reversed(self.plan.steps):
            out, variables = f"ν[{step.out}]", ", ".join(f"ν[{v}]" for v in step.variables)
            if isinstance(step.rule, Affine):
                text = f"{variables} += Aᵀ{out}, h = bᵀ{out}"
            elif isinstance(step.rule, Elementwise):
                text = f"{variables} += a_u[{out}]₊ + a_l[{out}]₋, h = b_u[{out}]₊ + b_l[{out}]₋"
                text += f", on [ℓ, u] of {', '.join(map(str, step.variables))}"
            elif isinstance(step.rule, IntervalRule):
                text = f"{variables} += 0, h = u[{out}]₊ + ℓ[{out}]₋, ℓ and u by intervals"
            else:
                x, y = step.variables
                text = f"{variables} += f(·, c)ᵀ{out}, f(c, ·)ᵀ{out}, h = f(r, r)ᵀ|{out}|"
                text += f" − f(c, c)ᵀ{out}, on c ± r of {x}, {y}"
            lines.append(f"  {text}    # {step.node.label}{place(step.node)}")
        lines.append(f"  min C·{graph.output} ≥ J = −σ_B(ν[{graph.perturbed}]) − Σ h")
        return "\n".join(lines)


def make_plan(graph: Graph, registry: Registry, method: str, intervals: bool = False) -> Plan:
    """Choose a dual layer for every node that the perturbation reaches.

    Raises:
        InputError: no such method.
        UnsupportedOpError: ops without a dual layer, all at once, each with its source line.
        BatchError: a value that does not belong to one example.
    """
    if method not in METHODS:
        options = "; ".join(f'"{name}": {what}' for name, what in METHODS.items())
        raise InputError(f"bounds={method!r} is no method. There are {options}.")
    if graph.output not in graph.moving:
        raise InputError("the model's output does not depend on the perturbed input")
    matches = match_all(graph, registry, intervals)
    missing = [str(found) for found in matches if found.rule is None]
    if missing:
        raise UnsupportedOpError(
            f"{len(missing)} operation(s) have no dual layer:\n  " + "\n  ".join(missing)
        )
    return Plan(graph, tuple(_step(m.node, m.rule, graph) for m in matches if m.rule), method)


def _step(node: Node, rule: DualLayer, graph: Graph) -> Step:
    variables = tuple(v for v in node.inputs if v in graph.moving)
    own = tuple(dict.fromkeys(v for v in node.inputs if v not in graph.moving and grows(v.shape)))
    return Step(node, rule, variables, own)


def place(node: Node) -> str:
    """Return where a node comes from, to stand behind something."""
    return "" if node.source is None else f" {node.source.place}"
