"""Plan → bound: the dual network, built one node at a time, and the bounds it gives.

Every bound is evaluated about reference values z⁰ of the network. At the input z⁰ is the set's
center; an affine op maps it exactly; after an elementwise op it is the midpoint of the two lines
there. Then J = −σ_B(ν₁) − Σ h telescopes to

    J = C z⁰ − deviation_B(ν₁) − Σⱼ rⱼ|νⱼ|,

where the sum runs over the outputs of elementwise ops and rⱼ is half the distance of their two
lines at z⁰. Biases and x enter through the one forward pass for z⁰; only |ν| needs the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autodual.duals import Affine, Call, Elementwise, Lines
from autodual.evaluate import entries, run_nodes
from autodual.interval import Interval
from autodual.ir import Value
from autodual.plan import Plan, Step
from autodual.rows import Dense
from autodual.threat import ThreatModel
from autodual.threat.base import inner

CHUNK_BYTES = 2**24
"""How many bytes the rows at one node may take at a time where no gradient is recorded."""


class DualNetwork:
    """The dual of the network so far: extended node by node, asked for bounds at any of them."""

    def __init__(
        self, plan: Plan, env: Mapping[Value, Tensor], x: Tensor, threat: ThreatModel
    ) -> None:
        self.plan, self.env, self.x, self.threat = plan, env, x, threat
        self.batch = x.shape[0]
        self.reference = {plan.graph.perturbed: threat.center(x)}
        self.lines: dict[Value, Lines | None] = {}
        self.radius: dict[Value, Tensor] = {}

    def add_affine(self, step: Step, call: Call) -> None:
        """Extend by an affine op: exact."""
        self.reference[step.out] = call(*(self.reference[v] for v in step.variables))

    def add_lines(self, step: Step, lines: Lines) -> None:
        """Extend by an elementwise op that the two lines enclose."""
        ends = lines.at(self.reference[step.variables[0]])
        self.reference[step.out] = ends.center
        self.radius[step.out] = step.out.per_example(ends.radius, self.batch)
        self.lines[step.out] = lines.map(lambda t: step.out.per_example(t, self.batch))

    def add_box(self, step: Step, box: Interval) -> None:
        """Extend by an elementwise op of which only an interval is kept: rows stop there."""
        self.reference[step.out] = box.center
        self.radius[step.out] = step.out.per_example(box.radius, self.batch)
        self.lines[step.out] = None

    def margins(self, target: Value, rows: Dense) -> tuple[Tensor, Tensor | None]:
        """Return how far C·z can fall below C·z⁰ for each row of C, and rise above, [N, S].

        The second is None where it takes rows of its own (some lines are not parallel).
        """
        nu = {target: -rows}
        spread = torch.zeros((), dtype=self.x.dtype, device=self.x.device)
        both = True
        for step in self.plan.upstream[target]:
            out = nu.pop(step.out, None)
            if out is None:
                continue
            for value, pulled in zip(step.variables, self._pull(step, out), strict=False):
                nu[value] = nu[value] + pulled if value in nu else pulled
            if step.out in self.radius:
                spread = spread + out.weigh(self.radius[step.out])
                lines = self.lines[step.out]
                both = both and (lines is None or lines.are_parallel)
        entry = nu.get(self.plan.graph.perturbed)
        if entry is None:
            return spread, spread
        fall = spread + self._deviation(entry)
        if self.threat.symmetric:
            return fall, fall if both else None
        return fall, spread + self._deviation(-entry) if both else None

    def _pull(self, step: Step, out: Dense) -> list[Dense]:
        if isinstance(step.rule, Affine):
            return list(out.pull_affine(step, self.env, self.batch))
        lines = self.lines[step.out]
        return [] if lines is None else [out.pull_lines(lines)]

    def _deviation(self, rows: Dense) -> Tensor:
        return self.threat.deviation(self.x, rows.data.flatten(2).unflatten(2, self.x.shape[1:]))

    def lower(self, target: Value, spec: Tensor) -> Tensor:
        """Return lower bounds [N, S] on C·z for the rows C [N or 1, S, *] of ``spec``."""
        z = target.per_example(self.reference[target], self.batch)
        rows = spec.reshape(*spec.shape[:2], *target.size(1))
        parts = []
        for chunk in self._chunks(target, rows.shape[1], torch.is_grad_enabled()):
            part = rows[:, chunk]
            parts.append(inner(part, z) - self.margins(target, Dense(part))[0])
        return torch.cat(parts, dim=1)

    def interval(self, target: Value) -> Interval:
        """Return bounds on every entry of ``target``, in its own layout."""
        if target == self.plan.graph.perturbed:
            return self.threat.interval(self.x)
        index = torch.arange(target.numel, device=self.x.device)
        return self.entries(target, index).map(lambda flat: self._in_layout(target, flat))

    def tighten(self, target: Value, box: Interval, index: Tensor) -> Interval:
        """Intersect ``box`` with bounds of its own on the entries at ``index`` [S]."""
        if target == self.plan.graph.perturbed or len(index) == 0:
            return box
        flat = box.map(lambda end: target.per_example(end, self.batch).flatten(1))
        found = _widen(self.entries(target, index))
        best = flat.map(lambda end: end[:, index]).intersect(found)
        return Interval(
            self._in_layout(target, flat.lower.index_copy(1, index, best.lower)),
            self._in_layout(target, flat.upper.index_copy(1, index, best.upper)),
        )

    def entries(self, target: Value, index: Tensor) -> Interval:
        """Return bounds [N, S] on the entries of ``target`` at the flat positions ``index``."""
        z = target.per_example(self.reference[target], self.batch).flatten(1)[:, index]
        falls, rises = [], []
        for chunk in self._chunks(target, len(index), torch.is_grad_enabled()):
            rows = Dense.identity(target, index[chunk], self.x)
            fall, rise = self.margins(target, rows)
            falls.append(fall)
            rises.append(self.margins(target, -rows)[0] if rise is None else rise)
        return Interval(z - torch.cat(falls, 1), z + torch.cat(rises, 1))

    def _in_layout(self, target: Value, flat: Tensor) -> Tensor:
        return target.in_layout(flat.reshape(self.batch, *target.size(1)))

    def _chunks(self, target: Value, rows: int, whole: bool) -> Iterator[slice]:
        """Split rows so that none of the values they pass takes more than the chunk size.

        While gradients are recorded all rows are kept anyway.
        """
        widest = max([v.numel for s in self.plan.upstream[target] for v in s.variables], default=1)
        bytes_per_row = self.batch * widest * self.x.element_size()
        size = rows if whole else max(1, CHUNK_BYTES // bytes_per_row)
        for start in range(0, rows, max(1, size)):
            yield slice(start, start + size)


@dataclass(frozen=True, eq=False)
class Relaxation:
    """The ingredients of a bound: the intervals, the lines and the networks made of them.

    ``boxes`` maps each value that a nonlinear op reads to its interval, in the model's layout.
    ``networks`` hold dual networks; a bound is the best any of them gives.
    """

    boxes: Mapping[Value, Interval]
    networks: tuple[DualNetwork, ...]

    def lower(self, target: Value, spec: Tensor) -> Tensor:
        """Return lower bounds [N, S] on C·z for the rows C of ``spec``."""
        best = self.networks[0].lower(target, spec)
        for network in self.networks[1:]:
            best = torch.maximum(best, network.lower(target, spec))
        return best


class BoundModule:
    """The emitted bound: from inputs and a threat model to a ``Relaxation``.

    It owns no parameters. Those of ``model`` are read at every call, so the bound follows the
    optimizer and gradients reach the model.
    """

    def __init__(self, plan: Plan, model: nn.Module) -> None:
        self.plan, self.model = plan, model

    def __call__(
        self,
        inputs: Mapping[Value, Tensor],
        threat: ThreatModel,
        slopes: Mapping[Value, Tensor] | None = None,
    ) -> Relaxation:
        """Build the dual networks for a batch.

        Args:
            inputs: the graph's inputs.
            threat: the set around the perturbed one.
            slopes: slopes from outside, by the output of the nonlinear op; any are sound.
        """
        x = inputs[self.plan.graph.perturbed]
        env = entries(self.plan.graph, self.model, inputs)
        run_nodes(self.plan.graph.prelude, env, len(x))
        flat, dual = (DualNetwork(self.plan, env, x, threat) for _ in range(2))
        method = self.plan.method
        used = {"ibp": (flat,), "ibp&dual": (dual, flat)}.get(method, (dual,))
        by_ibp = "ibp" in method
        ibp = {self.plan.graph.perturbed: threat.interval(x)}
        boxes: dict[Value, Interval] = {}
        for step in self.plan.steps:
            call = step.call(env, x.shape[0])
            if isinstance(step.rule, Affine):
                if by_ibp:
                    ibp[step.out] = step.rule.interval(call, *(ibp[v] for v in step.variables))
                for network in used:
                    network.add_affine(step, call)
                continue
            value = step.variables[0]
            if value not in boxes:
                box = _widen(ibp[value] if by_ibp else dual.interval(value))
                if method == "ibp&dual":
                    box = dual.tighten(value, box, self._open(value, box, env))
                boxes[value] = ibp[value] = box
            if by_ibp:
                ibp[step.out] = _widen(step.rule.interval(call, boxes[value]))
            for network in used:
                if network is dual:
                    lines = step.rule.lines(call, boxes[value], (slopes or {}).get(step.out))
                    dual.add_lines(step, lines)
                else:
                    flat.add_box(step, ibp[step.out])
        return Relaxation(boxes, used)

    @torch.no_grad()
    def _open(self, value: Value, box: Interval, env: Mapping[Value, Tensor]) -> Tensor:
        """Return the flat positions where some example's op is not yet exact on its interval.

        Only there can a tighter interval make tighter lines.
        """
        batch = len(env[self.plan.graph.perturbed])
        loose = torch.zeros((), dtype=torch.bool, device=box.lower.device)
        for step in self.plan.bounded[value]:
            assert isinstance(step.rule, Elementwise)
            lines = step.rule.lines(step.call(env, batch), box, None)
            exact = (lines.lower_slope == lines.upper_slope) & (
                lines.lower_intercept == lines.upper_intercept
            )
            loose = loose | ~exact
        return value.per_example(loose, batch).flatten(1).any(0).nonzero().flatten()


def _widen(box: Interval) -> Interval:
    """Read NaN, the trace of an overflow, as unbounded."""
    return Interval(
        torch.nan_to_num(box.lower, nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf),
        torch.nan_to_num(box.upper, nan=torch.inf, posinf=torch.inf, neginf=-torch.inf),
    )
