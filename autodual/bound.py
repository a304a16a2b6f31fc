"""Plan → bound: intervals node by node, and the dual networks made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from autodual.duals import Affine, Elementwise
from autodual.estimate import Cauchy, Estimator, Normal
from autodual.evaluate import entries, run_nodes
from autodual.interval import Interval
from autodual.ir import Value
from autodual.network import DualNetwork
from autodual.plan import Constants, Plan
from autodual.rows import Specs, Units
from autodual.sums import ExactSums, Sums, draw_seed, make_sums
from autodual.threat import ThreatModel
from autodual.threat.base import inner


def lower(sums: Sums, target: Value, spec: Tensor) -> Tensor:
    """Return lower bounds [N, S] on C·z for the rows C [N or 1, S, *] of ``spec``."""
    batch, count = sums.network.batch, spec.shape[1]
    rows = spec.reshape(*spec.shape[:2], *target.size(1))
    nominal = inner(rows, sums.network.at(target))
    rows = rows.expand(batch, *rows.shape[1:]).flatten(0, 1)
    owner = torch.arange(batch, device=spec.device).repeat_interleave(count)
    fall = sums.spread(Specs(target, owner, rows), both=False)
    return nominal - fall[0].unflatten(0, (batch, count))


def interval(sums: Sums, units: Units) -> Interval:
    """Return bounds [R] on the entries that ``units`` lists."""
    z = sums.network.at(units.value).flatten(1)[units.owner, units.unit]
    ends = sums.spread(units, both=True)
    return Interval(z - ends[0], z + ends[-1])


def tighten(sums: Sums, box: Interval, units: Units) -> Interval:
    """Intersect ``box``, in its value's layout, with bounds of the network's own at ``units``."""
    value, batch = units.value, sums.network.batch
    index = units.owner * value.numel + units.unit
    flat = box.map(lambda end: value.per_example(end, batch).flatten())
    best = flat.map(lambda end: end[index]).intersect(_widen(interval(sums, units)))

    def put(end: Tensor, new: Tensor) -> Tensor:
        examples = end.index_copy(0, index, new).reshape(batch, *value.size(1))
        return value.in_layout(examples)

    return Interval(put(flat.lower, best.lower), put(flat.upper, best.upper))


@dataclass(frozen=True, eq=False)
class Relaxation:
    """The ingredients of a bound: the intervals, the lines and the networks made of them.

    ``boxes`` maps each value that a nonlinear op reads to its interval, in the model's layout.
    ``sums`` hold a dual network each; a bound is the best any of them gives.
    """

    boxes: Mapping[Value, Interval]
    sums: tuple[Sums, ...]

    @property
    def networks(self) -> tuple[DualNetwork, ...]:
        """The dual networks."""
        return tuple(sums.network for sums in self.sums)

    def lower(self, target: Value, spec: Tensor) -> Tensor:
        """Return lower bounds [N, S] on C·z for the rows C of ``spec``."""
        best, *others = (lower(sums, target, spec) for sums in self.sums)
        for other in others:
            best = torch.maximum(best, other)
        return best

    def interval(self, target: Value) -> Interval:
        """Return bounds on every entry of ``target``, in the model's layout."""
        batch = self.sums[0].network.batch
        everywhere = torch.ones(batch, target.numel, dtype=torch.bool)
        units = Units.where(target, everywhere.to(self.sums[0].network.x.device))
        box = _unbounded(self.sums[0].network.reference(target))
        for sums in self.sums:
            box = tighten(sums, box, units)
        return box


class BoundModule:
    """The emitted bound: from inputs and a threat model to a ``Relaxation``.

    It owns no parameters. Those of ``model`` are read at every call, so the bound follows the
    optimizer and gradients reach the model.
    """

    def __init__(self, plan: Plan, model: nn.Module, estimator: Estimator, memory: int) -> None:
        self.plan, self.model, self.estimator, self.memory = plan, model, estimator, memory

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
        return self._relax(self._constants(inputs), threat, slopes or {}, draw_seed(self.estimator))

    def lower(self, inputs: Mapping[Value, Tensor], threat: ThreatModel, spec: Tensor) -> Tensor:
        """Return lower bounds [N, S] on C·z for the output z and the rows C of ``spec``.

        Projections that do not fit into memory are made for some examples at a time.
        """
        constants = self._constants(inputs)
        batch, seed = constants.batch, draw_seed(self.estimator)
        size = self._examples_at_once(constants)
        output, x = self.plan.graph.output, constants.env[self.plan.graph.perturbed]
        if size >= batch:
            return self._relax(constants, threat, {}, seed).lower(output, spec)
        spec = spec.expand(batch, *spec.shape[1:])

        def part(index: Tensor) -> Tensor:
            some = constants.select(index), threat.select(x, index)
            return self._relax(*some, {}, seed).lower(output, spec[index])

        parts = torch.arange(batch, device=x.device).split(size)
        if not torch.is_grad_enabled():
            return torch.cat([part(index) for index in parts])
        return torch.cat(
            [
                checkpoint(part, index, use_reentrant=False, preserve_rng_state=False)
                for index in parts
            ]
        )

    def _constants(self, inputs: Mapping[Value, Tensor]) -> Constants:
        batch = len(inputs[self.plan.graph.perturbed])
        env = entries(self.plan.graph, self.model, inputs)
        run_nodes(self.plan.graph.prelude, env, batch)
        return Constants(env, batch)

    def _examples_at_once(self, constants: Constants) -> int:
        """Return how many examples' samples fit into memory."""
        if not isinstance(self.estimator, Cauchy | Normal):
            return constants.batch
        sizes = [step.out.numel for step in self.plan.steps]
        kept = sum(sizes) if torch.is_grad_enabled() else 2 * max(sizes)
        element = constants.env[self.plan.graph.perturbed].element_size()
        return max(1, self.memory // (2 * kept * self.estimator.r * element))

    def _relax(
        self,
        constants: Constants,
        threat: ThreatModel,
        slopes: Mapping[Value, Tensor],
        seed: int,
    ) -> Relaxation:
        env, batch = constants.env, constants.batch
        x = env[self.plan.graph.perturbed]
        method = self.plan.method
        flat, dual = (DualNetwork(self.plan, constants, x, threat) for _ in range(2))
        rough: Sums = ExactSums(flat, self.memory)
        fine: Sums = rough
        if method != "ibp":
            targets = 1 + (len(self.plan.bounded) if "dual" in method.split("&") else 0)
            fine = make_sums(dual, self.estimator, self.memory, seed, targets)
        used = {"ibp": (rough,), "ibp&dual": (fine, rough)}.get(method, (fine,))
        ibp = {self.plan.graph.perturbed: threat.interval(x)}
        boxes: dict[Value, Interval] = {}
        for step in self.plan.steps:
            call = step.call(env, batch)
            if isinstance(step.rule, Affine):
                if "ibp" in method:
                    ibp[step.out] = step.rule.interval(call, *(ibp[v] for v in step.variables))
                for sums in used:
                    sums.network.add_affine(step, call)
                    sums.extend(step)
                continue
            value = step.variables[0]
            if value not in boxes:
                box = _widen(ibp[value]) if value in ibp else _unbounded(dual.reference(value))
                if "dual" in method.split("&"):
                    box = self._tighten(fine, value, box)
                boxes[value] = ibp[value] = box
            if "ibp" in method:
                ibp[step.out] = step.rule.interval(call, boxes[value])
            for sums in used:
                if sums is rough:
                    flat.add_box(step, ibp[step.out])
                else:
                    dual.add_lines(step, step.rule.lines(call, boxes[value], slopes.get(step.out)))
                sums.extend(step)
        return Relaxation(boxes, used)

    def _tighten(self, sums: Sums, value: Value, box: Interval) -> Interval:
        """Give rows to the entries of a value whose op is not yet exact on its interval."""
        if value == self.plan.graph.perturbed:
            return box
        units = Units.where(value, self._open(sums.network.constants, value, box))
        return box if len(units) == 0 else tighten(sums, box, units)

    @torch.no_grad()
    def _open(self, constants: Constants, value: Value, box: Interval) -> Tensor:
        """Return where a tighter interval can make tighter lines, [N, numel]."""
        loose = torch.zeros((), dtype=torch.bool, device=box.lower.device)
        for step in self.plan.bounded[value]:
            assert isinstance(step.rule, Elementwise)
            lines = step.rule.lines(step.call(constants.env, constants.batch), box, None)
            exact = (lines.lower_slope == lines.upper_slope) & (
                lines.lower_intercept == lines.upper_intercept
            )
            loose = loose | ~exact
        return value.per_example(loose, constants.batch).flatten(1)


def _widen(box: Interval) -> Interval:
    """Read NaN, the trace of an overflow, as unbounded."""
    return Interval(
        box.lower.masked_fill(box.lower.isnan(), -torch.inf),
        box.upper.masked_fill(box.upper.isnan(), torch.inf),
    )


def _unbounded(like: Tensor) -> Interval:
    """Return the interval that says nothing."""
    return Interval(torch.full_like(like, -torch.inf), torch.full_like(like, torch.inf))
