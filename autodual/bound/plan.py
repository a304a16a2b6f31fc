"""Graph + registry + method → Plan: which dual layer serves each node, what gets bounds, how."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from autodual.bound.flops import Flops
from autodual.bound.match import grows, match_all
from autodual.duals import Affine, Call, DualLayer, Registry
from autodual.duals.base import Hole
from autodual.errors import InputError, UnsupportedOpError
from autodual.front.ir import (
    Batch,
    Graph,
    Inexact,
    Node,
    Value,
    evaluate,
    leaves,
    map_leaves,
    resolve,
)
from autodual.front.passes.ranges import ranges_of
from autodual.front.stand_ins import stand_ins
from autodual.interval import Interval
from autodual.rounding import OWN, least, roundoff


@dataclass(frozen=True)
class Method:
    """How intermediate bounds are found, and the last one.

    Attributes:
        name: what ``certify(bounds=...)`` calls it.
        intervals: intervals inside the net come from interval arithmetic.
        rows: they come from rows of the dual network. If from both, they are intersected.
        last: the networks that the result is read off: the one of intervals, the dual one, or
            the better of the two.
        text: the same in words.
    """

    name: str
    intervals: bool
    rows: bool
    last: tuple[str, ...]
    text: str

    @property
    def origin(self) -> str:
        """Where an interval inside the net comes from if rows are given to it."""
        return "ibp&dual" if self.intervals else "dual"

    def __str__(self) -> str:
        return self.name


METHODS = {
    method.name: method
    for method in (
        Method(
            "ibp",
            intervals=True,
            rows=False,
            last=("ibp",),
            text="interval arithmetic inside; the last affine layers are merged with the spec",
        ),
        Method(
            "ibp+dual",
            intervals=True,
            rows=False,
            last=("dual",),
            text="interval arithmetic inside, one dual pass at the end",
        ),
        Method(
            "dual",
            intervals=False,
            rows=True,
            last=("dual",),
            text="AutoDual: every interval by a dual pass of its own",
        ),
        Method(
            "ibp&dual",
            intervals=True,
            rows=True,
            last=("dual", "ibp"),
            text="both, intersected at every node and in the result",
        ),
    )
}
"""Every method, by name."""

FUSED = replace(METHODS["ibp+dual"], last=("dual", "ibp"))
"""What a fused loss reads: the dual network, and that of intervals for the ends of its chords."""


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
        if self.rule.exact:
            return (self,)
        factor = self.rule.with_others_fixed()
        if factor is None:
            return ()
        names = [k for k, arg in self.node.args.items() if arg in self.variables]
        x, y = self.variables
        one = _fixed(self.node, names[1], centered(y))
        other = _fixed(self.node, names[0], centered(x))
        return (
            Step(one, factor, (x,), (centered(y), *self.own)),
            Step(other, factor, (y,), (centered(x), *self.own)),
        )

    def call(self, env: Mapping[Value, Tensor], batch: int) -> Call:
        """Return the node's op with all but its perturbed arguments bound from ``env``."""
        holes = iter(range(len(self.variables)))
        moving = self.variables

        def leaf(arg: Any) -> Any:
            if isinstance(arg, Value):
                return Hole(next(holes)) if arg in moving else env[arg]
            return resolve(arg, batch) if isinstance(arg, Batch) else arg

        args = dict(self.node.args)
        for name in self.node.varying:
            args[name] = map_leaves(args[name], leaf)
        call = Call(self.node.target, args, self.node.index)
        call.__dict__["open"] = self.moving
        return call

    @cached_property
    def moving(self) -> tuple[str, ...]:
        """The names of the arguments that hold a variable."""
        hold = {name: set(leaves(arg)) for name, arg in self.node.args.items()}
        return tuple(name for name, held in hold.items() if held.intersection(self.variables))


def centered(value: Value) -> Value:
    """Return the constant that stands for the center of a value's interval."""
    return replace(value, name=f"{value.name}.center")


def _fixed(node: Node, name: str, value: Value) -> Node:
    return replace(node, args={**node.args, name: value})


def _may_multiply(target: Callable[..., Any]) -> bool:
    """Return whether FLOPs are counted in an op: in products, and what may consist of some."""
    if not isinstance(target, torch._ops.OpOverload):
        return True
    consists = torch._C.DispatchKey.CompositeImplicitAutograd
    return target._overloadpacket in flop_registry or target.has_kernel_for_dispatch_key(consists)


def _counted(node: Node, device: torch.device) -> int:
    """Return the FLOPs of a node for one example, under a mode of stand-ins."""
    env = {v: torch.zeros(v.size(1), dtype=v.dtype, device=device) for v in node.inputs}
    with Flops() as flops:
        evaluate(node, env, 1)
    return flops.total


FLOPS_PER_BYTE = 20
"""How many products a core makes in the time that a byte of a row takes on its way."""


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

    @property
    def work(self) -> float:
        """The FLOPs, and those that could be done in the time its bytes take on their way."""
        return self.flops + FLOPS_PER_BYTE * self.total_bytes


@dataclass(frozen=True, eq=False)
class Plan:
    """The steps of a graph in order, and the method for the intervals its nonlinear ops need.

    With ``rounding`` bounds hold whatever is rounded, see ``outward``.
    """

    graph: Graph
    steps: tuple[Step, ...]
    method: Method
    rounding: str | None = None
    row_costs: dict[Hashable, RowCost] = field(default_factory=dict)
    paths: dict[frozenset[Value], tuple[Step, ...]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Plan: {len(self.steps)} steps, intervals by {self.method}>"

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
    def inexact(self) -> Mapping[Value, Inexact]:
        """How far what a library computes lies from values, if that is to be bounded."""
        return {} if self.own is None else self.graph.inexact

    @property
    def own(self) -> float | None:
        """How the network's own results are rounded, see ``OWN``; None if they are not."""
        return None if self.rounding is None else OWN[self.rounding]

    @cached_property
    def ranges(self) -> Mapping[Value, tuple[float, float]]:
        """Where values lie for every input, by the way they are made, and computed."""
        graph, dtype = self.graph, self.graph.perturbed.dtype
        found = graph.ranges
        if self.own is not None:
            made = replace(graph, ranges={v: how.range for v, how in graph.inexact.items()})
            found = ranges_of(made, 4 * roundoff(dtype) + 2 * self.own, least(dtype))
        most = torch.finfo(dtype).max
        return {
            v: (low if low > -most else -math.inf, high if high < most else math.inf)
            for v, (low, high) in found.items()
            if v in graph.ranges
        }

    def within(self, value: Value, box: Interval) -> Interval:
        """Return what of an interval lies in the value's range, where one is known."""
        if value not in self.ranges:
            return box
        low, high = self.ranges[value]
        return Interval(box.lower.clamp(min=low, max=high), box.upper.clamp(min=low, max=high))

    def path(self, values: frozenset[Value]) -> tuple[Step, ...]:
        """Return the steps that any of some values depends on, last first."""
        if values not in self.paths:
            needed = {step for value in values for step in self.upstream[value]}
            self.paths[values] = tuple(step for step in reversed(self.steps) if step in needed)
        return self.paths[values]

    @cached_property
    def flops(self) -> Mapping[Value, int]:
        """The FLOPs of each node for one example."""
        graph = self.graph
        counts = {node.out: node.out.numel for node in graph.nodes}
        with stand_ins(graph.straight), torch.no_grad():
            for node in graph.nodes:
                if _may_multiply(node.target):
                    counts[node.out] = _counted(node, graph.device) or node.out.numel
        return counts

    @cached_property
    def dense(self) -> Mapping[Value, tuple[Form, ...]]:
        """What a row that is written out in full becomes at each step."""
        forms = dict[Value, tuple[Form, ...]]()
        for step in self.steps:
            each = self.flops[step.out] // (len(step.variables) if step.rule.exact else 1)
            forms[step.out] = tuple(Form(step.out, "dense", v.numel, each) for v in step.variables)
        return forms

    @property
    def sizes(self) -> int:
        """How many numbers a row's sum is made of at most, one after the other."""
        widest = max([2 * self.graph.perturbed.numel, *(step.out.numel for step in self.steps)])
        return widest + 4 * len(self.steps) + 32

    @cached_property
    def last_reads(self) -> Mapping[Value, tuple[Value, ...]]:
        """For the output of each step, the values that no later step reads."""
        reader = {v: step.out for step in self.steps for v in step.variables}
        table: dict[Value, tuple[Value, ...]] = {}
        for value, out in reader.items():
            table[out] = (*table.get(out, ()), value)
        return table

    @cached_property
    def reads(self) -> Mapping[Value, int]:
        """How often each value is read by steps."""
        return Counter(value for step in self.steps for value in step.variables)

    @cached_property
    def bounded(self) -> Mapping[Value, tuple[Step, ...]]:
        """The values whose intervals are needed, each with the nonlinear steps that read it."""
        table: dict[Value, tuple[Step, ...]] = {}
        for step in self.steps:
            if not step.rule.exact:
                for value in dict.fromkeys(step.variables):
                    table[value] = (*table.get(value, ()), step)
        return table

    @cached_property
    def at_jumps(self) -> Mapping[Value, Step | None]:
        """The values inside that ops read which may jump, each with the step that computes it."""
        made = {step.out: step for step in self.steps}
        jumped = [v for v, readers in self.bounded.items() if any(s.rule.jumps for s in readers)]
        return {v: made.get(v) for v in jumped if v != self.graph.perturbed}

    @cached_property
    def by_intervals(self) -> frozenset[Value]:
        """The values of which interval arithmetic says all there is to say, on sets that are boxes.

        Each of their entries is one affine function of entries of the input, and no two ways lead
        to one of these.
        """
        single, exact = {self.graph.perturbed}, {self.graph.perturbed}
        for step in self.steps:
            rule, (first, *more) = step.rule, step.variables
            if more or not isinstance(rule, Affine):
                continue
            twice = rule.repeats or step.out.numel > first.numel
            if rule.reads_one and first in single and not twice:
                single.add(step.out)
            if first in single or (rule.reads_one and first in exact):
                exact.add(step.out)
        return frozenset(exact)

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
            text = step.rule.formula(f"ν[{step.out}]", [f"ν[{v}]" for v in step.variables])
            if not step.rule.exact:
                text += f", on [ℓ, u] of {', '.join(map(str, step.variables))}"
            lines.append(f"  {text}    # {step.node.label}{place(step.node)}")
        lines.append(f"  min C·{graph.output} ≥ J = −σ_B(ν[{graph.perturbed}]) − Σ h")
        return "\n".join(lines)

    __repr__ = __str__


def make_plan(
    graph: Graph,
    registry: Registry,
    method: Method,
    intervals: bool = False,
    rounding: str | None = None,
) -> Plan:
    """Choose a dual layer for every node that the perturbation reaches.

    Raises:
        InputError: the output does not depend on the perturbed input.
        UnsupportedOpError: ops without a dual layer, all at once, each with its source line.
        BatchError: a value that does not belong to one example.
    """
    if graph.output not in graph.moving:
        raise InputError("the model's output does not depend on the perturbed input")
    matches = match_all(graph, registry, intervals)
    missing = [str(found) for found in matches if found.rule is None]
    if missing:
        raise UnsupportedOpError(
            f"{len(missing)} operation(s) have no dual layer:\n  " + "\n  ".join(missing)
        )
    steps = tuple(_step(m.node, m.rule, graph) for m in matches if m.rule)
    return Plan(graph, steps, method, rounding)


def _step(node: Node, rule: DualLayer, graph: Graph) -> Step:
    variables = tuple(v for v in node.inputs if v in graph.moving)
    own = tuple(dict.fromkeys(v for v in node.inputs if v not in graph.moving and grows(v.shape)))
    return Step(node, rule, variables, own)


def place(node: Node) -> str:
    """Return where a node comes from, to stand behind something."""
    return "" if node.source is None else f" {node.source.place}"
