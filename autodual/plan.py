"""Graph + registry + method → Plan: which dual layer serves each node, what gets bounds, how."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from autodual.duals import Affine, Call, DualLayer, Elementwise, Registry
from autodual.duals.base import Hole
from autodual.errors import BatchError, InputError, UnsupportedOpError
from autodual.ir import Batch, Graph, Node, Value, evaluate, leaves, map_leaves, resolve

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


class Constants:
    """All that does not depend on the perturbation, for one batch.

    Attributes:
        env: values by name, in the model's layout.
        batch: the number of examples.
    """

    def __init__(self, env: Mapping[Value, Tensor], batch: int) -> None:
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
    widths: dict[Hashable, tuple[int, int]] = field(default_factory=dict)

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
            if isinstance(step.rule, Elementwise):
                value = step.variables[0]
                table[value] = (*table.get(value, ()), step)
        return table

    def rows_through(self, specs: int) -> Mapping[Value, int]:
        """Return, per step, how many rows per example pass it when ``specs`` are asked for."""
        count = dict.fromkeys((s.out for s in self.steps), 0)
        targets = [(self.graph.output, specs)] if self.method != "ibp" else []
        if "dual" in self.method.split("&"):
            targets += [(v, v.numel) for v in self.bounded]
        for value, rows in targets:
            for step in self.upstream[value]:
                count[step.out] += rows
        return count

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
            else:
                v = step.variables[0]
                text = f"{variables} += a_u[{out}]₊ + a_l[{out}]₋, h = b_u[{out}]₊ + b_l[{out}]₋"
                text += f", on [ℓ, u] of {v}"
            lines.append(f"  {text}    # {step.node.label}{_place(step.node)}")
        lines.append(f"  min C·{graph.output} ≥ J = −σ_B(ν[{graph.perturbed}]) − Σ h")
        return "\n".join(lines)


@dataclass(frozen=True)
class Explanation:
    """What a plan does and costs for one example: per node a row of strings, printable."""

    title: str
    rows: Sequence[Sequence[str]]
    header: Sequence[str] = field(
        default=("op", "source", "shape", "dual layer", "intervals", "rows", "MFLOP", "MB")
    )

    def __str__(self) -> str:
        table = [self.header, *self.rows]
        widths = [max(len(row[i]) for row in table) for i in range(len(self.header))]
        lines = [
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in table
        ]
        return "\n".join([self.title, *lines])


def make_plan(graph: Graph, registry: Registry, method: str) -> Plan:
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
    steps, missing = [], [_complaint(n, graph, None) for n in graph.prelude if _is_random(n)]
    for node in graph.body:
        _check_apart(node, graph)
        variables = tuple(v for v in node.inputs if v in graph.moving)
        rule = registry.get(node.op)
        kept = node.out.dtype == graph.perturbed.dtype
        if rule is None or not kept or not rule.covers(_arguments(node, graph), node.args):
            missing.append(_complaint(node, graph, rule))
            continue
        own = tuple(dict.fromkeys(v for v in node.inputs if v not in graph.moving and _grows(v)))
        steps.append(Step(node, rule, variables, own))
    if missing:
        raise UnsupportedOpError(
            f"{len(missing)} operation(s) have no dual layer:\n  "
            + "\n  ".join(missing)
            + "\nReplace them by ops that do, or add a dual layer (CONTRIBUTING.md shows how)."
        )
    return Plan(graph, tuple(steps), method)


def explain(plan: Plan, threat: object, specs: int) -> Explanation:
    """Tabulate a plan: per node the op, source line, rule, method, rows, FLOPs and bytes.

    FLOPs and bytes are predictions for one example: rows through the node times the cost of
    its transpose.
    """
    through = plan.rows_through(specs)
    flops = _flops(plan.graph)
    rows = []
    for step in plan.steps:
        out, count = step.out, through[step.out]
        read = max(v.numel for v in step.variables)
        size = torch.empty(0, dtype=out.dtype).element_size()
        is_affine = isinstance(step.rule, Affine)
        rows.append(
            (
                step.node.label,
                _place(step.node).strip() or "–",
                str(out.type),
                "affine, exact" if is_affine else "parallel lines",
                "–" if is_affine else plan.method.removesuffix("+dual"),
                str(count),
                f"{count * flops[out] / 1e6:.3f}",
                f"{count * read * size / 1e6:.3f}",
            )
        )
    return Explanation(f"{threat}, bounds={plan.method!r}, {specs} specifications", rows)


def _flops(graph: Graph) -> Mapping[Value, int]:
    """Count the FLOPs of each node of the body for one example."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    counts: dict[Value, int] = {}
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        env: dict[Value, Tensor] = {
            v: torch.empty(v.size(1), dtype=v.dtype, device=graph.device) for v in graph.entries
        }
        for node in graph.nodes:
            with FlopCounterMode(display=False) as counter:
                env[node.out] = evaluate(node, env, 1)
            counts[node.out] = counter.get_total_flops() or node.out.numel
    return counts


def _grows(value: Value) -> bool:
    return any(isinstance(dim, Batch) for dim in value.shape)


SIZES = frozenset({"size", "shape"})
"""The arguments in which the batch size may stand: elsewhere it would be a number like others."""


def _check_apart(node: Node, graph: Graph) -> None:
    """Raise if a node's value, or a constant it reads, does not split into examples."""
    own = [v for v in node.inputs if v not in graph.moving and _grows(v)]
    lost = next((v for v in (node.out, *own) if v.batch_dim is None), None)
    numbers = [name for name, arg in node.args.items() if name not in SIZES and _counts(arg)]
    if lost is not None or numbers:
        what = f"has {lost.type}" if lost else f"uses the batch size as its {numbers[0]}"
        raise BatchError(
            f"the examples of a batch are mixed at {node.source or node.out.name}: {node.label} "
            f"{what}. A bound holds for one example at a time: keep the batch dimension, and "
            "reduce over the others only."
        )


def _counts(arg: Any) -> bool:
    """Return whether the batch size stands in an argument."""
    if isinstance(arg, list | tuple):
        return any(map(_counts, arg))
    return isinstance(arg, Batch)


def _is_random(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _arguments(node: Node, graph: Graph) -> list[str]:
    """Return the schema names of the arguments that hold something perturbed, once per place."""
    names = []
    for name, arg in node.args.items():
        moving = [v for v in leaves(arg) if v in graph.moving]
        names += [name] * (1 if isinstance(arg, list) and moving else len(moving))
    return names


def _complaint(node: Node, graph: Graph, rule: DualLayer | None) -> str:
    where = node.source or node.out.name
    if _is_random(node):
        return f"{node.op} at {where}: random numbers have no bound; call .eval()"
    if rule is None:
        return f"{node.op} at {where}"
    if node.out.dtype != graph.perturbed.dtype:
        return f"{node.op} at {where}: gives {node.out.dtype}, the input is {graph.perturbed.dtype}"
    names = ", ".join(_arguments(node, graph))
    return f"{node.op} of a perturbed {names} (not affine there) at {where}"


def _place(node: Node) -> str:
    return "" if node.source is None else f" {node.source.place}"
