"""Plan → bound: intervals node by node, and the dual networks made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from autodual.bound.cost import Record, choose_orders
from autodual.bound.estimate import Estimator, Exact, Geometric, Median
from autodual.bound.network import DualNetwork
from autodual.bound.parts import in_parts
from autodual.bound.plan import Constants, Plan, Step
from autodual.bound.relaxation import Relaxation, tighten, unbounded, widen
from autodual.bound.rows import Specs, Units
from autodual.bound.sums import (
    CauchyNoise,
    ExactSums,
    ForwardSums,
    GeometricSums,
    MedianSums,
    Sums,
    draw_seed,
)
from autodual.duals import Affine, Bilinear, Call, Elementwise, IntervalRule
from autodual.errors import InputError
from autodual.front.evaluate import entries, run_nodes
from autodual.front.ir import Value
from autodual.interval import Interval
from autodual.threat import ThreatModel

Choice = str | Estimator
"""How a node is bounded: "ibp", "backward", "forward", or an estimator."""

HELD = 16
"""How many tensors of a value's size its intervals, lines, references and rows' lists are."""


LEAN = 0.1
"""How far from the middle of the box towards z⁰ free lines are compared. The planes of a product
are equally close in the middle; for other ops the middle decides."""


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
        x, seed = constants.env[self.plan.graph.perturbed], draw_seed(self.estimator)
        record = Record()
        rows = torch.eye(output.numel, dtype=x.dtype, device=x.device).unsqueeze(0)
        for index in self._parts(constants):
            some, around = constants.select(index), threat.select(x, index)
            relaxed = self.relax(some, around, {}, seed, record)
            relaxed.lower(output, rows)
            if isinstance(relaxed.sums[0], ExactSums):
                seeds = Specs.per_example(output, rows[:, :1])
                record.ask(output, some.batch * output.numel)
                record.costs[output] = relaxed.networks[0].row_cost(seeds)
        return record

    def lower(self, inputs: Mapping[Value, Tensor], threat: ThreatModel, spec: Tensor) -> Tensor:
        """Return lower bounds [N, S] on C·z for the output z and the rows C of ``spec``.

        A batch that does not fit into memory is bounded some examples at a time.
        """
        constants = self._constants(inputs)
        batch, seed = constants.batch, draw_seed(self.estimator)
        parts = self._parts(constants)
        output, x = self.plan.graph.output, constants.env[self.plan.graph.perturbed]
        if len(parts) == 1:
            return self.relax(constants, threat, {}, seed).lower(output, spec)
        spec = spec.expand(batch, *spec.shape[1:])
        noise = CauchyNoise(x, seed, keep=True) if isinstance(self.estimator, Median) else None

        def part(others: Mapping[int, Tensor], index: Tensor) -> Tensor:
            env = {v: others.get(id(t), t) for v, t in constants.env.items()}
            around = threat.replace(others).select(env[self.plan.graph.perturbed], index)
            some = Constants(env, batch).select(index)
            rows = others.get(id(spec), spec)[index]
            return self.relax(some, around, {}, seed, noise=noise).lower(output, rows)

        return in_parts(part, parts, [*constants.env.values(), *threat.tensors(), spec])

    def _constants(self, inputs: Mapping[Value, Tensor]) -> Constants:
        env = entries(self.plan.graph, self.model, inputs)
        return self.constants(env, len(inputs[self.plan.graph.perturbed]))

    def constants(self, env: Mapping[Value, Tensor], batch: int) -> Constants:
        """Add to the graph's entries what the perturbation does not reach."""
        env = dict(env)
        run_nodes(self.plan.graph.prelude, env, batch)
        return Constants(env, batch)

    def _parts(self, constants: Constants) -> Sequence[Tensor]:
        """Return which examples are bounded together, part by part."""
        device = constants.env[self.plan.graph.perturbed].device
        everyone = torch.arange(constants.batch, device=device)
        return everyone.split(self._examples_at_once(constants))

    def _examples_at_once(self, constants: Constants) -> int:
        """Return how many examples fit, with their samples, beside the rows of a chunk."""
        sizes = [step.out.numel for step in self.plan.steps]
        held = HELD * sum(sizes)
        if isinstance(self.estimator, Median):
            kept = sum(sizes) if torch.is_grad_enabled() else 2 * max(sizes)
            held += kept * self.estimator.r
        x = constants.env[self.plan.graph.perturbed]
        room = self.memory // 2 if x.is_cuda else 3 * self.memory // 4
        return max(1, room // (held * x.element_size()))

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
                if "ibp" in method and step.out in self.plan.inner:
                    ibp[step.out] = step.rule.interval(call, *(ibp[v] for v in step.variables))
                for network in (dual, flat):
                    network.add_affine(step, call)
            else:
                for value in dict.fromkeys(step.variables):
                    if value not in boxes:
                        if value in ibp:
                            ibp[value] = widen(ibp[value], self.select)
                        else:
                            ibp[value] = unbounded(dual.reference(value))
                        ibp[value] = self._tighten(book, dual, value, ibp, record)
                        boxes[value] = ibp[value]
                given = [boxes[v] for v in step.variables]
                if "ibp" in method:
                    ibp[step.out] = step.rule.interval(call, *given)
                    flat.add_box(step, ibp[step.out])
                if book:
                    self._extend(dual, step, call, given, slopes.get(step.out))
            for sums in book.values():
                sums.extend(step)
            if record is not None:
                record.push(step.out, sum(sums.columns(step.out) for sums in book.values()))
                record.note(step, dual)
        if deciding and record is not None:
            self._orders = choose_orders(self.plan, record, dual, self.memory)
            self._decided_for = batch if record.costs else 0
        return Relaxation(boxes, used)

    def _extend(
        self,
        dual: DualNetwork,
        step: Step,
        call: Call,
        boxes: Sequence[Interval],
        slope: Tensor | None,
    ) -> None:
        """Extend a dual network by a nonlinear op on these boxes."""
        rule = step.rule
        free = self.free and slope is None
        if free and isinstance(rule, Bilinear) and rule.planes is not None:
            rule = rule.planes
        if isinstance(rule, Elementwise) and free:
            nominal = map(dual.reference, step.variables)
            point = [torch.lerp(b.center, z, LEAN) for b, z in zip(boxes, nominal, strict=True)]
            dual.add_lines(step, rule.free_lines(call, *boxes, at=point))
        elif isinstance(rule, Elementwise):
            dual.add_lines(step, rule.lines(call, *boxes, slope))
        elif isinstance(rule, IntervalRule):
            dual.add_box(step, rule.interval(call, *boxes))
        else:
            dual.add_product(step, call, *boxes)

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
            record.ask(value, len(units))
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
