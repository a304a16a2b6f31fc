"""Plan → bound: intervals node by node, and the dual networks made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from autodual.cost import Record, choose_orders
from autodual.duals import Affine, Elementwise, IntervalRule
from autodual.errors import InputError
from autodual.estimate import Estimator, Exact, Geometric, Median
from autodual.evaluate import entries, run_nodes
from autodual.interval import Interval
from autodual.ir import Value
from autodual.network import DualNetwork
from autodual.plan import Constants, Plan
from autodual.rows import Specs, Units
from autodual.sums import (
    CauchyNoise,
    ExactSums,
    ForwardSums,
    GeometricSums,
    MedianSums,
    Sums,
    draw_seed,
)
from autodual.threat import ThreatModel
from autodual.threat.base import inner

Choice = str | Estimator
"""How a node is bounded: "ibp", "backward", "forward", or an estimator."""


def lower(sums: Sums, target: Value, spec: Tensor) -> Tensor:
    """Return lower bounds [N, S] on C·z for the rows C [N or 1, S, *] of ``spec``."""
    batch, count = sums.network.batch, spec.shape[1]
    rows = spec.reshape(*spec.shape[:2], *target.size(1))
    nominal = inner(rows, sums.network.at(target))
    seeds = Specs.per_example(target, rows.expand(batch, *rows.shape[1:]))
    fall = sums.spread(seeds, both=False)
    bound = nominal - fall[0].unflatten(0, (batch, count))
    return bound.masked_fill(bound.isnan(), -torch.inf)  # ∞ − ∞: nothing is known


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
    best = flat.map(lambda end: end[index]).intersect(_widen(interval(sums, units), look=False))

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
        network = self.sums[0].network
        units = Units.everywhere(target, network.batch, network.x.device)
        box = _unbounded(network.reference(target))
        for sums in self.sums:
            box = tighten(sums, box, units)
        return box


class BoundModule:
    """The emitted bound: from inputs and a threat model to a ``Relaxation``.

    It owns no parameters. Those of ``model`` are read at every call, so the bound follows the
    optimizer and gradients reach the model.
    """

    def __init__(
        self,
        plan: Plan,
        model: nn.Module,
        estimator: Estimator,
        memory: int,
        choose: Mapping[str, Choice],
        select: bool,
        free: bool = False,
    ) -> None:
        self.plan, self.model, self.estimator, self.memory = plan, model, estimator, memory
        self.select, self.free = select, free
        self.fixed = _by_value(plan, choose)
        self._bounds_by_rows = "dual" in plan.method.split("&")
        self._plans = self._bounds_by_rows and select and isinstance(estimator, Exact)
        self._orders: Mapping[Value, str] = {}
        self._decided_for = 0

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
        return self.relax(self._constants(inputs), threat, slopes or {}, draw_seed(self.estimator))

    @property
    def estimators(self) -> tuple[Estimator, ...]:
        """Every estimator in use, that of the whole bound first."""
        return self.estimator, *(c for c in self.fixed.values() if not isinstance(c, str))

    @torch.no_grad()
    def run(self, inputs: Mapping[Value, Tensor], threat: ThreatModel) -> Record:
        """Bound every output once; return a record of what was done and how long it took."""
        constants, output = self._constants(inputs), self.plan.graph.output
        record = Record()
        relaxed = self.relax(constants, threat, {}, draw_seed(self.estimator), record)
        network = relaxed.networks[0]
        rows = torch.eye(output.numel, dtype=network.x.dtype, device=network.x.device)
        relaxed.lower(output, rows.unsqueeze(0))
        seeds = Specs.per_example(output, rows[:1].unsqueeze(0))
        if isinstance(relaxed.sums[0], ExactSums):
            record.rows[output] = constants.batch * output.numel
            record.costs[output] = network.row_cost(seeds)
        return record

    def lower(self, inputs: Mapping[Value, Tensor], threat: ThreatModel, spec: Tensor) -> Tensor:
        """Return lower bounds [N, S] on C·z for the output z and the rows C of ``spec``.

        Projections that do not fit into memory are made for some examples at a time.
        """
        constants = self._constants(inputs)
        batch, seed = constants.batch, draw_seed(self.estimator)
        size = self._examples_at_once(constants)
        output, x = self.plan.graph.output, constants.env[self.plan.graph.perturbed]
        if size >= batch:
            return self.relax(constants, threat, {}, seed).lower(output, spec)
        spec = spec.expand(batch, *spec.shape[1:])
        noise = CauchyNoise(x, seed, keep=True)

        def part(index: Tensor) -> Tensor:
            some = constants.select(index), threat.select(x, index)
            return self.relax(*some, {}, seed, noise=noise).lower(output, spec[index])

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
        env = entries(self.plan.graph, self.model, inputs)
        return self.constants(env, len(inputs[self.plan.graph.perturbed]))

    def constants(self, env: Mapping[Value, Tensor], batch: int) -> Constants:
        """Add to the graph's entries what the perturbation does not reach."""
        env = dict(env)
        run_nodes(self.plan.graph.prelude, env, batch)
        return Constants(env, batch)

    def _examples_at_once(self, constants: Constants) -> int:
        """Return how many examples' samples fit into memory."""
        if not isinstance(self.estimator, Median):
            return constants.batch
        sizes = [step.out.numel for step in self.plan.steps]
        kept = sum(sizes) if torch.is_grad_enabled() else 2 * max(sizes)
        element = constants.env[self.plan.graph.perturbed].element_size()
        return max(1, self.memory // (2 * kept * self.estimator.r * element))

    def relax(
        self,
        constants: Constants,
        threat: ThreatModel,
        slopes: Mapping[Value, Tensor],
        seed: int,
        record: Record | None = None,
        noise: CauchyNoise | None = None,
    ) -> Relaxation:
        """Build the dual networks, step by step; ``noise`` is drawn by ``seed`` if not given."""
        env, batch = constants.env, constants.batch
        x = env[self.plan.graph.perturbed]
        method = self.plan.method
        flat, dual = (DualNetwork(self.plan, constants, x, threat) for _ in range(2))
        deciding = self._plans and record is None and batch > self._decided_for
        if deciding:
            record, self._orders = Record(), {}
        rough = ExactSums(flat, self.memory, self.select)
        book = {} if method == "ibp" else self._make_sums(dual, seed, noise)
        fine = () if method == "ibp" else (book[self._choice(self.plan.graph.output)],)
        used = (*fine, rough) if method in ("ibp", "ibp&dual") else fine
        if record is not None:
            dual.observe = flat.observe = lambda step, rows: record.tick(step)
        ibp = {self.plan.graph.perturbed: threat.interval(x)}
        boxes: dict[Value, Interval] = {}
        for step in self.plan.steps:
            call = step.call(env, batch)
            if isinstance(step.rule, Affine):
                if "ibp" in method:
                    ibp[step.out] = step.rule.interval(call, *(ibp[v] for v in step.variables))
                for network in (dual, flat):
                    network.add_affine(step, call)
            else:
                for value in dict.fromkeys(step.variables):
                    if value not in boxes:
                        if value in ibp:
                            ibp[value] = _widen(ibp[value], self.select)
                        else:
                            ibp[value] = _unbounded(dual.reference(value))
                        ibp[value] = self._tighten(book, dual, value, ibp, record)
                        boxes[value] = ibp[value]
                given = [boxes[v] for v in step.variables]
                if "ibp" in method:
                    ibp[step.out] = step.rule.interval(call, *given)
                    flat.add_box(step, ibp[step.out])
                if book and isinstance(step.rule, Elementwise):
                    slope = slopes.get(step.out)
                    free = self.free and slope is None
                    lines = (
                        step.rule.free_lines(call, *given)
                        if free
                        else step.rule.lines(call, *given, slope)
                    )
                    dual.add_lines(step, lines)
                elif book and isinstance(step.rule, IntervalRule):
                    dual.add_box(step, step.rule.interval(call, *given))
                elif book:
                    dual.add_product(step, call, *given)
            for sums in book.values():
                sums.extend(step)
            if record is not None:
                record.columns[step.out] = sum(sums.columns(step.out) for sums in book.values())
                record.note(step, dual)
        if deciding and record is not None:
            self._orders = choose_orders(self.plan, record, dual, self.memory)
            self._decided_for = batch if record.costs else 0
        return Relaxation(boxes, used)

    def _choice(self, value: Value) -> Choice:
        """Return how a value is served: by the user's word, the estimator, or the planner."""
        if value in self.fixed:
            return self.fixed[value]
        if not self._bounds_by_rows and value != self.plan.graph.output:
            return "ibp"
        if not isinstance(self.estimator, Exact):
            return self.estimator
        return self._orders.get(value, "backward")

    def _make_sums(
        self, network: DualNetwork, seed: int, noise: CauchyNoise | None
    ) -> dict[Choice, Sums]:
        """Return what finds the sums, by the choices that occur."""
        output, memory = self.plan.graph.output, self.memory
        targets = {v: self._choice(v) for v in (*self.plan.bounded, output)}
        book: dict[Choice, Sums] = {}
        for choice in targets.values():
            if choice == "ibp" or choice in book:
                continue
            served = [v for v, c in targets.items() if c == choice]
            if choice == "forward":
                book[choice] = ForwardSums(network, served)
            elif isinstance(choice, Geometric):
                book[choice] = GeometricSums(network, choice, seed, memory, len(served))
            elif isinstance(choice, Median):
                draw = CauchyNoise(network.x, seed + len(book))
                if noise is not None and choice is self.estimator:
                    draw = noise.rewind()
                book[choice] = MedianSums(network, choice, seed, draw)
            else:
                book[choice] = ExactSums(network, memory, self.select)
        return book

    def _tighten(
        self,
        book: Mapping[Choice, Sums],
        dual: DualNetwork,
        value: Value,
        known: Mapping[Value, Interval],
        record: Record | None,
    ) -> Interval:
        """Give rows to the entries of a value whose op is not yet exact on its interval."""
        choice, box = self._choice(value), known[value]
        if choice == "ibp" or value == self.plan.graph.perturbed:
            return box
        if self.select:
            units = Units.where(value, self._open(dual.constants, value, known))
        else:
            units = Units.everywhere(value, dual.batch, dual.x.device)
        if record is not None:
            record.how[value] = choice if isinstance(choice, str) else str(choice)
            record.rows[value] = len(units)
            if len(units) > 0 and choice == "backward":
                record.costs[value] = dual.row_cost(units)
        return box if len(units) == 0 else tighten(book[choice], box, units)

    @torch.no_grad()
    def _open(self, constants: Constants, value: Value, known: Mapping[Value, Interval]) -> Tensor:
        """Return where a tighter interval can make a tighter dual layer, [N, numel]."""
        box = known[value]
        loose = torch.zeros((), dtype=torch.bool, device=box.lower.device)
        for step in self.plan.bounded[value]:
            if isinstance(step.rule, Elementwise) and all(v in known for v in step.variables):
                call = step.call(constants.env, constants.batch)
                lines = step.rule.lines(call, *(known[v] for v in step.variables), None)
                loose = loose | ~lines.meet
            else:
                loose = loose | (box.lower != box.upper)
        return value.per_example(loose, constants.batch).flatten(1)


def _by_value(plan: Plan, choose: Mapping[str, Choice]) -> dict[Value, Choice]:
    """Look up the user's choices; a node is called by its name or by its module's."""
    names: dict[str, Value] = {}
    for step in plan.steps:
        if step.out in plan.bounded or step.out == plan.graph.output:
            module = "" if step.node.source is None else step.node.source.module
            names |= {module: step.out, step.out.name: step.out}
    chosen: dict[Value, Choice] = {}
    for name, choice in choose.items():
        orders = ("ibp", "backward", "forward")
        if name not in names:
            known = ", ".join(sorted(n for n in names if n))
            raise InputError(f"choose: no node {name!r} is bounded; there are {known}")
        if choice not in orders and not isinstance(choice, Median):
            raise InputError(
                f"choose[{name!r}] = {choice!r}: give one of {orders}, Cauchy(r) or Normal(r)"
            )
        if choice == "ibp" and ("ibp" not in plan.method or names[name] == plan.graph.output):
            raise InputError(f'choose[{name!r}] = "ibp" needs a node inside and bounds with "ibp"')
        chosen[names[name]] = choice
    return chosen


def _widen(box: Interval, look: bool) -> Interval:
    """Read NaN, the trace of an overflow, as unbounded."""
    if look and box.lower.device.type == "cpu":
        total = box.lower.detach().sum() + box.upper.detach().sum()
        if not total.isnan():  # any NaN would be in the sum; to look is cheaper than to write
            return box
    return Interval(
        box.lower.masked_fill(box.lower.isnan(), -torch.inf),
        box.upper.masked_fill(box.upper.isnan(), torch.inf),
    )


def _unbounded(like: Tensor) -> Interval:
    """Return the interval that says nothing."""
    return Interval(torch.full_like(like, -torch.inf), torch.full_like(like, torch.inf))
