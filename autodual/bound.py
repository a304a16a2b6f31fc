"""Plan → bound: intervals node by node, and the dual networks made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autodual.duals import Affine, Elementwise
from autodual.evaluate import entries, run_nodes
from autodual.interval import Interval
from autodual.ir import Value
from autodual.network import DualNetwork
from autodual.plan import Constants, Plan
from autodual.rows import Specs, Units
from autodual.spread import spread
from autodual.threat import ThreatModel
from autodual.threat.base import inner


def lower(network: DualNetwork, target: Value, spec: Tensor, memory: int) -> Tensor:
    """Return lower bounds [N, S] on C·z for the rows C [N or 1, S, *] of ``spec``."""
    batch, count = network.batch, spec.shape[1]
    rows = spec.expand(batch, *spec.shape[1:]).reshape(batch * count, *target.size(1))
    owner = torch.arange(batch, device=spec.device).repeat_interleave(count)
    nominal = inner(spec.reshape(*spec.shape[:2], *target.size(1)), network.at(target))
    fall = spread(network, Specs(target, owner, rows), False, memory)
    return nominal - fall[0].unflatten(0, (batch, count))


def interval(network: DualNetwork, units: Units, memory: int) -> Interval:
    """Return bounds [R] on the entries that ``units`` lists."""
    z = network.at(units.value).flatten(1)[units.owner, units.unit]
    ends = spread(network, units, True, memory)
    return Interval(z - ends[0], z + ends[-1])


def tighten(network: DualNetwork, box: Interval, units: Units, memory: int) -> Interval:
    """Intersect ``box``, in its value's layout, with bounds of the network's own at ``units``."""
    value, batch = units.value, network.batch
    index = units.owner * value.numel + units.unit
    flat = box.map(lambda end: value.per_example(end, batch).flatten())
    best = flat.map(lambda end: end[index]).intersect(_widen(interval(network, units, memory)))

    def put(end: Tensor, new: Tensor) -> Tensor:
        examples = end.index_copy(0, index, new).reshape(batch, *value.size(1))
        return value.in_layout(examples)

    return Interval(put(flat.lower, best.lower), put(flat.upper, best.upper))


@dataclass(frozen=True, eq=False)
class Relaxation:
    """The ingredients of a bound: the intervals, the lines and the networks made of them.

    ``boxes`` maps each value that a nonlinear op reads to its interval, in the model's layout.
    ``networks`` hold dual networks; a bound is the best any of them gives. ``memory`` is the
    budget in bytes.
    """

    boxes: Mapping[Value, Interval]
    networks: tuple[DualNetwork, ...]
    memory: int

    def lower(self, target: Value, spec: Tensor) -> Tensor:
        """Return lower bounds [N, S] on C·z for the rows C of ``spec``."""
        best, *others = (lower(n, target, spec, self.memory) for n in self.networks)
        for other in others:
            best = torch.maximum(best, other)
        return best


class BoundModule:
    """The emitted bound: from inputs and a threat model to a ``Relaxation``.

    It owns no parameters. Those of ``model`` are read at every call, so the bound follows the
    optimizer and gradients reach the model.
    """

    def __init__(self, plan: Plan, model: nn.Module, memory: int) -> None:
        self.plan, self.model, self.memory = plan, model, memory

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
        constants = Constants(env, len(x))
        flat, dual = (DualNetwork(self.plan, constants, x, threat) for _ in range(2))
        method = self.plan.method
        used = {"ibp": (flat,), "ibp&dual": (dual, flat)}.get(method, (dual,))
        ibp = {self.plan.graph.perturbed: threat.interval(x)}
        boxes: dict[Value, Interval] = {}
        for step in self.plan.steps:
            call = step.call(env, x.shape[0])
            if isinstance(step.rule, Affine):
                if "ibp" in method:
                    ibp[step.out] = step.rule.interval(call, *(ibp[v] for v in step.variables))
                for network in used:
                    network.add_affine(step, call)
                continue
            value = step.variables[0]
            if value not in boxes:
                box = _widen(ibp[value]) if value in ibp else _unbounded(dual.reference(value))
                if "dual" in method.split("&"):
                    box = self._tighten(dual, value, box, env)
                boxes[value] = ibp[value] = box
            if "ibp" in method:
                ibp[step.out] = step.rule.interval(call, boxes[value])
            for network in used:
                if network is dual:
                    lines = step.rule.lines(call, boxes[value], (slopes or {}).get(step.out))
                    dual.add_lines(step, lines)
                else:
                    flat.add_box(step, ibp[step.out])
        return Relaxation(boxes, used, self.memory)

    def _tighten(
        self, dual: DualNetwork, value: Value, box: Interval, env: Mapping[Value, Tensor]
    ) -> Interval:
        """Give rows to the entries of a value whose op is not yet exact on its interval."""
        if value == self.plan.graph.perturbed:
            return box
        units = Units.where(value, self._open(value, box, env))
        return box if len(units) == 0 else tighten(dual, box, units, self.memory)

    @torch.no_grad()
    def _open(self, value: Value, box: Interval, env: Mapping[Value, Tensor]) -> Tensor:
        """Return where a tighter interval can make tighter lines, [N, numel]."""
        batch = len(env[self.plan.graph.perturbed])
        loose = torch.zeros((), dtype=torch.bool, device=box.lower.device)
        for step in self.plan.bounded[value]:
            assert isinstance(step.rule, Elementwise)
            lines = step.rule.lines(step.call(env, batch), box, None)
            exact = (lines.lower_slope == lines.upper_slope) & (
                lines.lower_intercept == lines.upper_intercept
            )
            loose = loose | ~exact
        return value.per_example(loose, batch).flatten(1)


def _widen(box: Interval) -> Interval:
    """Read NaN, the trace of an overflow, as unbounded."""
    return Interval(
        box.lower.masked_fill(box.lower.isnan(), -torch.inf),
        box.upper.masked_fill(box.upper.isnan(), torch.inf),
    )


def _unbounded(like: Tensor) -> Interval:
    """Return the interval that says nothing."""
    return Interval(torch.full_like(like, -torch.inf), torch.full_like(like, torch.inf))
