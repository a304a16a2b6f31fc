"""The dual network: its layers, and rows that travel back through them.

Every bound is evaluated about reference values z⁰ of the network. At the input z⁰ is the set's
center; an affine op maps it exactly; after an elementwise op it is the midpoint of the two planes
there; after a product, the value of its linear part. Then J = −σ_B(ν₁) − Σ h telescopes to

    J = C z⁰ − deviation_B(ν₁) − Σⱼ rⱼ|νⱼ|,

where the sum runs over the outputs of nonlinear ops and rⱼ is half the distance of their two
planes at z⁰, or how far a product can lie from its linear part. Biases and x enter through the one
forward pass for z⁰; only |ν| needs the rows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from autodual.bound.plan import Constants, Form, Plan, RowCost, Step, centered
from autodual.bound.rows import Memo, Rows, Seeds, add, pull_affine, to_dense
from autodual.duals import Bilinear, Call, Elementwise, Planes
from autodual.front.ir import Value
from autodual.interval import Interval
from autodual.threat import ThreatModel

Observer = Callable[[Step, "Rows"], None]


class DualNetwork:
    """The dual of the network so far, extended node by node.

    Attributes:
        lines: per elementwise op its two lines or planes, [N, *size(1)]; None where rows stop.
        constants: all that does not depend on the perturbation, and the centers of what
            products multiply.
        undefined: the examples [N] whose set may hold points where some op is not defined. They
            have no bound: z⁰ is NaN for them.
    """

    def __init__(self, plan: Plan, constants: Constants, x: Tensor, threat: ThreatModel) -> None:
        self.plan, self.x, self.threat = plan, x, threat
        self.constants = Constants(dict(constants.env), constants.batch)
        self.batch = constants.batch
        self.weights = threat.weights(x)
        self.observe: Observer | None = None
        self._reference = {plan.graph.perturbed: threat.center(x)}
        self._affine: dict[Value, tuple[Step, Call]] = {}
        self.lines: dict[Value, Planes | None] = {}
        self._radius: dict[Value, Tensor] = {}
        self._boxes: dict[Value, Interval] = {}
        self.undefined: Tensor | None = None

    def add_affine(self, step: Step, call: Call) -> None:
        """Extend by an affine op: exact."""
        self._affine[step.out] = step, call

    def add_lines(self, step: Step, lines: Planes) -> None:
        """Extend by an elementwise op that the two lines or planes enclose."""
        self._note_undefined(step, Interval(lines.lower_intercept, lines.upper_intercept))
        ends = lines.at(*map(self.reference, step.variables))
        self._reference[step.out] = ends.center
        self._radius[step.out] = step.out.per_example(ends.radius, self.batch)
        self.lines[step.out] = lines.map(lambda t: step.out.per_example(t, self.batch))

    def add_product(self, step: Step, call: Call, x: Interval, y: Interval) -> None:
        """Extend by a product, about the centers of its arguments' intervals."""
        center = x.center, y.center
        at_x, at_y = map(self.reference, step.variables)
        linear = call(at_x, center[1]) + call(center[0], at_y) - call(*center)
        self._reference[step.out] = linear
        rest = Bilinear.rest(call, x, y)
        self._radius[step.out] = step.out.per_example(rest, self.batch)
        self.constants.env.update(zip(map(centered, step.variables), center, strict=True))

    def add_box(self, step: Step, box: Interval) -> None:
        """Extend by a nonlinear op of which only an interval is kept: rows stop there."""
        self._note_undefined(step, box)
        self._boxes[step.out] = box
        self.lines[step.out] = None

    def reference(self, value: Value) -> Tensor:
        """Return z⁰ at a value, in the model's layout; found when first asked for."""
        if value in self._reference:
            return self._reference[value]
        if value in self._boxes:
            found = self._boxes[value].center
        else:
            step, call = self._affine[value]
            found = call(*map(self.reference, step.variables))
        self._reference[value] = found
        return found

    def radius(self, value: Value) -> Tensor | None:
        """Return r [N, *size(1)] where a nonlinear op computes the value, else None."""
        if value in self._boxes and value not in self._radius:
            self._radius[value] = value.per_example(self._boxes[value].radius, self.batch)
        return self._radius.get(value)

    def at(self, value: Value) -> Tensor:
        """Return z⁰ at a value, [N, *size(1)]."""
        z = value.per_example(self.reference(value), self.batch)
        if self.undefined is None:
            return z
        return z.masked_fill(self.undefined.reshape(-1, *[1] * (z.dim() - 1)), torch.nan)

    def _note_undefined(self, step: Step, box: Interval) -> None:
        """Remember the examples for which a partial op says nothing about some entry."""
        if isinstance(step.rule, Elementwise) and step.rule.partial:
            nothing = box.lower.isneginf() & box.upper.isposinf()
            lost = step.out.per_example(nothing, self.batch).flatten(1).any(1)
            self.undefined = lost if self.undefined is None else self.undefined | lost

    def symmetric(self, target: Value) -> bool:
        """Return whether C·z can rise as far above C·z⁰ as it can fall below."""
        layers = [self.lines.get(step.out) for step in self.plan.upstream[target]]
        return self.threat.symmetric and all(n is None or n.are_parallel for n in layers)

    def spread(self, seeds: Seeds, memo: Memo, both: bool) -> Tensor:
        """Return how far each row's C·z can fall below C·z⁰, and if ``both``, rise above, [E, R].

        E is 1 if ``both`` is not asked for or the two are equal.
        """
        rows = seeds.rows(self.x)
        fall = self._fall(seeds.value, -rows, memo)
        if not both or self.symmetric(seeds.value):
            return fall.unsqueeze(0)
        return torch.stack([fall, self._fall(seeds.value, rows, memo)])

    def _fall(self, target: Value, rows: Rows, memo: Memo) -> Tensor:
        nu: dict[Value, Rows] = {target: rows}
        total = torch.zeros(len(rows), dtype=self.x.dtype, device=self.x.device)
        for step in self.plan.upstream[target]:
            out = nu.pop(step.out, None)
            if out is None:
                continue
            radius = self.radius(step.out)
            if radius is not None:
                total = total + out.weigh(radius, memo)
            for value, pulled in zip(step.variables, self._pull(step, out, memo), strict=False):
                nu[value] = add(nu[value], pulled) if value in nu else pulled
                if self.observe is not None:
                    self.observe(step, pulled)
        entry = nu.get(self.plan.graph.perturbed)
        return total if entry is None else total + self._deviation(entry, memo)

    def _pull(self, step: Step, out: Rows, memo: Memo) -> list[Rows]:
        if step.out in self.lines:
            lines = self.lines[step.out]
            return [] if lines is None else list(out.pull_lines(lines, memo))
        return [p for side in step.sides for p in pull_affine(out, side, self.constants, memo)]

    def _deviation(self, rows: Rows, memo: Memo) -> Tensor:
        if self.weights is not None:
            return rows.weigh(self.weights, memo)
        nu = to_dense(rows).full().reshape(len(rows), 1, *self.x.shape[1:])
        around = self.threat.select(self.x, rows.owner)
        return around.deviation(self.x[rows.owner], nu).squeeze(1)

    def row_cost(self, seeds: Seeds) -> RowCost:
        """Return what one more row costs on its way; the plan remembers it."""
        key = type(seeds), seeds.value, None in self.lines.values()
        if key not in self.plan.row_costs:
            last = torch.tensor([0, -1], device=self.x.device)
            one, two = self._forms(seeds.take(last[1:])), self._forms(seeds.take(last))
            more = [replace(b, flops=b.flops - a.flops) for a, b in zip(one, two, strict=True)]
            self.plan.row_costs[key] = RowCost(tuple(more), self.x.element_size())
        return self.plan.row_costs[key]

    @torch.no_grad()
    def _forms(self, seeds: Seeds) -> list[Form]:
        """Send rows on their way and note their forms, and what these cost all rows together."""
        probe, memo, forms, before = copy.copy(self), Memo(False, 0), list[Form](), 0

        def observe(step: Step, rows: Rows) -> None:
            nonlocal before
            flops = counter.get_total_flops()
            forms.append(Form(step.out, type(rows).__name__.lower(), rows.width, flops - before))
            before = flops

        probe._fall(seeds.value, seeds.rows(self.x), memo)  # fills the memo
        probe.observe = observe
        with FlopCounterMode(display=False) as counter:
            probe._fall(seeds.value, seeds.rows(self.x), memo)
        return forms

    def tensors(self, target: Value) -> list[Tensor]:
        """Return every tensor that ``spread`` reads for rows at ``target``, each once."""
        found = [self.x, *([] if self.weights is None else [self.weights]), *self.threat.tensors()]
        for step in self.plan.upstream[target]:
            lines = self.lines.get(step.out)
            if lines is not None:
                found += [*lines.lower_slopes, *lines.upper_slopes]
            for side in () if step.out in self.lines else step.sides:
                constant = [v for v in side.node.inputs if v not in side.variables]
                found += [self.constants.env[v] for v in constant]
            radius = self.radius(step.out)
            if radius is not None:
                found.append(radius)
        return list({id(tensor): tensor for tensor in found}.values())

    def until(self, target: Value) -> DualNetwork:
        """Return the network up to a value, which no longer grows.

        What a backward pass keeps must hold nothing that comes after it: through autograd's graph
        that would hold what keeps it, and neither would ever be freed.
        """
        known = {step.out for step in self.plan.upstream[target]} | {self.plan.graph.perturbed}
        part = copy.copy(self)
        part.constants = Constants(dict(self.constants.env), self.batch)
        for name in ("lines", "_radius", "_boxes", "_affine", "_reference"):
            setattr(part, name, {v: t for v, t in getattr(self, name).items() if v in known})
        return part

    def replace(self, others: Mapping[int, Tensor]) -> DualNetwork:
        """Return this network with tensors replaced, by their identity."""

        def swap(tensor: Tensor) -> Tensor:
            return others.get(id(tensor), tensor)

        twin = copy.copy(self)
        env = {v: swap(t) for v, t in self.constants.env.items()}
        twin.constants = Constants(env, self.batch)
        twin.x = swap(self.x)
        twin.weights = None if self.weights is None else swap(self.weights)
        twin._radius = {v: swap(t) for v, t in self._radius.items()}
        twin.lines = {
            v: None
            if n is None
            else Planes(
                tuple(map(swap, n.lower_slopes)),
                n.lower_intercept,
                tuple(map(swap, n.upper_slopes)),
                n.upper_intercept,
            )
            for v, n in self.lines.items()
        }
        twin.threat = self.threat.replace(others)
        return twin
