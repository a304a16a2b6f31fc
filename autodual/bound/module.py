"""Plan → bound: intervals value by value, and the relaxed networks made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial, reduce
from typing import Any

import torch
from torch import Tensor

from autodual.bound.building import Building, Job
from autodual.bound.combination import of_each
from autodual.bound.cost import Record, choose_orders, total
from autodual.bound.estimators import CauchyNoise, Estimator, Exact, ExactSums
from autodual.bound.forecast import at_most, forecast, pace
from autodual.bound.layer import example_layout
from autodual.bound.memory import default_memory, give_back
from autodual.bound.options import Options, Serving
from autodual.bound.plan import Plan
from autodual.bound.reading import Bound
from autodual.bound.recompute import Others, Piece, in_pieces, recomputed
from autodual.bound.relaxation import check_slopes
from autodual.bound.rows import Units
from autodual.bound.travel import row_cost
from autodual.duals import Choice, Sides
from autodual.errors import InputError
from autodual.front.evaluate import run_nodes
from autodual.front.ir import Value
from autodual.interrupts import finish, keeping
from autodual.interval import Interval
from autodual.threat import ThreatModel
from autodual.working import PATIENCE, heard, metered

Ask = Callable[[Bound, Value, Tensor], Tensor]
"""(a bound, the output, a question [N, *] about it) → the answer [N, *]."""

Env = Mapping[Value, Tensor]
"""Tensors by value; those that are given: inputs, live parameters, literals."""

PART = 1e12
"""How much work examples that are bounded together may take, if there is no gradient."""

FAR = 16
"""How many times less than its budget all rows of an example must take by the sizes of the graph,
in which rows are dense, if they are not to be counted: small patches take more than that."""

HELD = 16
"""How many tensors of a value's size its intervals, lines, references and rows' lists are."""


class BoundModule:
    """The compiled bound: from all that the graph is given and a threat model to a ``Bound``.

    It holds no tensor of the model. Parameters are given at every call, so that the bound follows
    the optimizer and gradients reach the model.
    """

    def __init__(self, plan: Plan, options: Options, device: torch.device) -> None:
        self.plan, self.options = plan, options
        self.memory = options.memory or default_memory(device)
        self.fixed = _by_value(plan, options.choose)
        exact = type(options.estimator) is Exact
        self._plans = plan.method.rows and options.select and exact
        self._orders: dict[type, Mapping[Value, str]] = {}
        self._decided_for: dict[type, int] = {}
        self.straight: object = None

    @property
    def estimators(self) -> tuple[Estimator, ...]:
        """Every estimator in use, that of the whole bound first."""
        fixed = (s for s in self.fixed.values() if isinstance(s, Estimator))
        return self.options.estimator, *fixed

    @property
    def caveats(self) -> tuple[str, ...]:
        """Why the bound guarantees nothing, if it does not."""
        estimated = (e.caveat for e in self.estimators if e.caveat is not None)
        return self.plan.graph.caveats + tuple(estimated)

    def __call__(
        self,
        env: Env,
        threat: ThreatModel,
        slopes: Mapping[Value | str, Choice] | None = None,
        given: Mapping[Value | str, Interval] | None = None,
        room: Mapping[Value, Tensor] | None = None,
    ) -> Bound:
        """Relax the network for a batch.

        Args:
            env: all that the graph is given.
            threat: the set around the perturbed input.
            slopes: slopes from outside, by the value that a nonlinear op computes or its name; any
                are sound.
            given: intervals known from elsewhere, by the value that a nonlinear op reads; they are
                intersected with the bound's own before the op is relaxed.
            room: by how much more values inside may be off than is known, [1, *size(1)]: for what
                is rounded where no ``rounding`` charges it.
        """
        sloped, known = _named(self.plan, slopes or {}), _named(self.plan, given or {})
        check_slopes(self.plan, sloped)
        if sloped and "dual" not in self.plan.method.last:
            raise InputError(f'bounds="{self.plan.method}" has no dual network that takes slopes')
        _check_given(self.plan, known)
        seed = self.options.estimator.seed()
        whole = self.complete(env)
        return self.relax(whole, threat, seed, slopes=sloped, given=known, room=room)

    @torch.no_grad()
    def run(self, env: Env, threat: ThreatModel) -> Record:
        """Bound every output once; return a record of what was done and how long it took."""
        env, output = self.complete(env), self.plan.graph.output
        x, seed = env[self.plan.graph.perturbed], self.options.estimator.seed()
        record = Record()
        for part in self.parts(x):
            some, around = self.select(env, part), threat.select(x, part)
            bound = self.relax(some, around, seed, record)
            bound.interval(output)
            if isinstance(bound.sums[0], ExactSums):
                units = Units.everywhere(output, len(part), x.device)
                record.ask(output, len(units))
                record.costs[output] = row_cost(bound.networks[0], units)
        return record

    @torch.no_grad()
    def forecast(self, env: Env, threat: ThreatModel) -> Record:
        """Return what ``run`` would record, at most, without rows and their times."""
        env, record = self.complete(env), Record()
        x, kind = env[self.plan.graph.perturbed], type(threat)
        job = self._job(self._servings(self._orders.get(kind, {})), 0)
        for part in self.parts(x):
            some, around = self.select(env, part), threat.select(x, part)
            forecast(job, record, some, around, not self.options.select)
        return record

    def lower(self, env: Env, threat: ThreatModel, spec: Tensor) -> Tensor:
        """Return lower bounds [N, S] on C·z for the output z and the rows C of ``spec``.

        Those of a union hold for every member. A batch that does not fit into memory is bounded
        some examples at a time.
        """
        return self.ask(env, threat, spec, least)

    def margins(self, env: Env, threat: ThreatModel, labels: Tensor) -> Tensor:
        """Return lower bounds [N, K, *cells] on z_y − z_k for logits z and labels y [N, *cells].

        Unions and batches are as for ``lower``.
        """
        return self.ask(env, threat, labels, Bound.margins)

    def interval(self, env: Env, threat: ThreatModel) -> Interval:
        """Return bounds on every output, in the model's layout; unions are as for ``lower``."""
        output, x = self.plan.graph.output, env[self.plan.graph.perturbed]

        def ends(bound: Bound, output: Value, _: Tensor) -> Tensor:
            box, batch = bound.interval(output), bound.networks[0].batch
            return torch.stack(
                [output.per_example(end, batch) for end in (box.lower, -box.upper)], 1
            )

        return finish(
            lambda: self.ask(env, threat, x.new_empty(len(x), 0), ends),
            lambda low: Interval(output.in_layout(low[:, 0]), output.in_layout(-low[:, 1])),
        )

    def at_least_one(
        self, env: Env, threat: ThreatModel, clauses: Sequence[Tensor], steps: int
    ) -> Tensor:
        """Return lower bounds [N, clauses] on the largest of c·z − d, for rows [S, K + 1] each.

        Weights of the rows are sought in ``steps`` steps if sums are exact, else none are tried
        but equal ones: another look would be another chance for an estimate to be wrong.
        """
        steps = steps if type(self.options.estimator) is Exact else 0
        rows, sizes = torch.cat(list(clauses)), [len(clause) for clause in clauses]
        question = rows.unsqueeze(0).expand(len(env[self.plan.graph.perturbed]), *rows.shape)
        given = {v: t.detach() for v, t in env.items()}

        def each(bound: Bound, output: Value, rows: Tensor) -> Tensor:
            return of_each(bound, output, rows, sizes, steps)

        return self.ask(given, threat, question, each)

    def ask(
        self,
        env: Env,
        threat: ThreatModel,
        question: Tensor,
        ask: Ask,
    ) -> Tensor:
        """Return what bounds answer to a question [N, *] about the output, part by part.

        Answers are lower bounds: of several members the least counts.
        """
        env, estimator, members = self.complete(env), self.options.estimator, threat.members
        x = env[self.plan.graph.perturbed]
        parts, seeds = self.parts(x), [estimator.seed() for _ in members]
        output = self.plan.graph.output
        if len(parts) == 1:
            with self._told(env, threat):
                bounds = (self.relax(env, *pair) for pair in zip(members, seeds, strict=True))
                return reduce(torch.minimum, (ask(b, output, question) for b in bounds))
        question = question.expand(len(x), *question.shape[1:])
        noises = [CauchyNoise(x, s, keep=True) if estimator.kept else None for s in seeds]

        def one(others: Others, index: Tensor, i: int) -> Tensor:
            swapped = {v: others.get(id(t), t) for v, t in env.items()}
            around = members[i].replace(others).select(swapped[self.plan.graph.perturbed], index)
            some = others.get(id(question), question)[index]
            chosen = self.select(swapped, index)
            return ask(self.relax(chosen, around, seeds[i], shared=noises[i]), output, some)

        with self._told(env, threat), keeping(len(x)) as done:

            def part(others: Others, index: Tensor) -> Tensor:
                each = (one(others, index, i) for i in range(len(members)))
                found = reduce(torch.minimum, each)
                if not others:  # none are replaced but to differentiate
                    done.append(found)
                return found

            def pieces(others: Others, matter: Tensor | None) -> Iterator[Piece]:
                for index in parts:
                    yield slice(int(index[0]), int(index[-1]) + 1), partial(part, others, index)
                    give_back()

            if not torch.is_grad_enabled():
                return in_pieces(pieces, dim=0)
            described = [tensor for member in members for tensor in member.tensors()]
            return recomputed(pieces, [*env.values(), *described, question], dim=0, select=False)

    def plain(self, env: Env, threat: ThreatModel) -> Bound:
        """Return the bound without steps."""
        return self._made(self.complete(env), threat, self.options.estimator.seed(), {}, {})

    def improved(self, env: Env, threat: ThreatModel, before: Bound, index: Tensor) -> Bound:
        """Return a bound with steps on the examples at ``index``, after one without on all."""
        count, env = len(env[self.plan.graph.perturbed]), self.complete(env)
        some, around = self.select(env, index), threat.select(env[self.plan.graph.perturbed], index)
        known = Bound(_of_some(before.boxes, count, index), ())
        return self._made(some, around, 0, {}, {}, before=known)

    def relax(
        self,
        env: Env,
        threat: ThreatModel,
        seed: int,
        record: Record | None = None,
        shared: CauchyNoise | None = None,
        slopes: Mapping[Value, Choice] | None = None,
        given: Mapping[Value, Interval] | None = None,
        room: Mapping[Value, Tensor] | None = None,
    ) -> Bound:
        """Relax the network, step by step; ``env`` has what the perturbation does not reach."""
        made = partial(self._made, env, threat, seed, slopes or {}, given or {}, record, room=room)
        bound = made(shared)
        return bound if self.options.optimize is None else made(before=bound)

    def _made(
        self,
        env: Env,
        threat: ThreatModel,
        seed: int,
        slopes: Mapping[Value, Choice],
        given: Mapping[Value, Interval],
        record: Record | None = None,
        shared: CauchyNoise | None = None,
        before: Bound | None = None,
        room: Mapping[Value, Tensor] | None = None,
    ) -> Bound:
        """Relax the network once; after a bound without steps, with them."""
        batch, kind = len(env[self.plan.graph.perturbed]), type(threat)
        if self.plan.rounding is not None:
            threat = threat.outward(env[self.plan.graph.perturbed])
        sided = any(isinstance(choice, Sides) for choice in slopes.values())
        new = not sided and batch > self._decided_for.get(kind, 0)
        deciding = self._plans and record is None and new
        if deciding:
            record = Record()
        none = sided or deciding  # columns need parallel planes
        orders = {} if none else self._orders.get(kind, {})
        job = self._job(self._servings(orders), seed)
        building = Building(job, env, threat, record, shared, slopes, given, before, room)
        for step in self.plan.steps:
            building.add(step)
        if deciding and record is not None:
            self._orders[kind] = choose_orders(self.plan, record, building.network, self.memory)
            self._decided_for[kind] = batch if record.costs else 0
        return building.bound()

    def _job(self, serving: Mapping[Value, Serving], seed: int) -> Job:
        return Job(self.plan, self.options, serving, seed, self.memory, self._budget, self.fixed)

    @property
    def _budget(self) -> float:
        """What an example's rows may take, where they are counted: where all might take more."""
        limited = self._plans and self.plan.method.intervals
        if limited and FAR * self._all > self.options.budget:
            return self.options.budget
        return math.inf

    @contextmanager
    def _told(self, env: Env, threat: ThreatModel) -> Iterator[None]:
        """Show how far a bound is while the block runs, if it takes long and somebody listens."""
        x = env[self.plan.graph.perturbed]
        if torch.is_grad_enabled() or not heard():
            yield
            return
        speed, members = pace(x.device), threat.members
        if len(members) * len(x) * self.most_work < PATIENCE * speed:
            yield
            return
        work = sum(total(self.plan, self.forecast(env, member)) for member in members)
        with metered("bounds", work, work / speed):
            yield

    @cached_property
    def most_work(self) -> float:
        """What the rows of an example take at most."""
        return min(self._all, self._budget)

    @cached_property
    def _all(self) -> float:
        """What rows for all that an example could ask take, from the sizes of the graph alone."""
        return at_most(self.plan, self.options, self._servings({}))

    def _servings(self, orders: Mapping[Value, str]) -> dict[Value, Serving]:
        targets = (*self.plan.bounded, self.plan.graph.output)
        return {v: self._serving(v, orders) for v in targets}

    def _serving(self, value: Value, orders: Mapping[Value, str]) -> Serving:
        """Return how a value is served: by the user's word, the estimator, or the planner."""
        if value in self.fixed:
            return self.fixed[value]
        if not self.plan.method.rows and value != self.plan.graph.output:
            return "ibp"
        if type(self.options.estimator) is not Exact:
            return self.options.estimator
        if self.plan.rounding is not None:
            return "backward"
        return orders.get(value, "backward")

    def complete(self, env: Env) -> Env:
        """Add to what is given what the perturbation does not reach."""
        whole = dict(env)
        run_nodes(self.plan.graph.prelude, whole, len(env[self.plan.graph.perturbed]))
        return whole

    def select(self, env: Env, index: Tensor) -> Env:
        """Return the tensors of the examples at ``index``."""
        pick = example_layout(len(env[self.plan.graph.perturbed]), index)
        return {v: pick(v, t) for v, t in env.items()}

    def parts(self, x: Tensor) -> Sequence[Tensor]:
        """Return which examples are bounded together, part by part."""
        return torch.arange(len(x), device=x.device).split(self._examples_at_once(x))

    def _examples_at_once(self, x: Tensor) -> int:
        """Return how many examples fit, with their samples, beside the rows of a chunk."""
        sizes = [step.out.numel for step in self.plan.steps]
        kept = sum(sizes) if torch.is_grad_enabled() else 2 * max(sizes, default=0)
        held = HELD * sum(sizes) + kept * self.options.estimator.kept
        room = self.memory // 2 if x.is_cuda else 3 * self.memory // 4
        fit = room // max(1, held * x.element_size())
        if self._plans and not torch.is_grad_enabled():  # what is finished outlives Ctrl-C
            fit = min(fit, int(PART / max(1.0, self.most_work)))
        return max(1, fit)


def least(bound: Bound, output: Value, rows: Tensor) -> Tensor:
    """Return lower bounds on the rows of an output."""
    return bound.lower({output: rows})


def _of_some(boxes: Mapping[Value, Interval], batch: int, index: Tensor) -> dict[Value, Interval]:
    """Return the intervals of the examples at ``index``."""
    pick = example_layout(batch, index)
    return {v: Interval(pick(v, box.lower), pick(v, box.upper)) for v, box in boxes.items()}


def _named(plan: Plan, given: Mapping[Value | str, Any]) -> dict[Value, Any]:
    """Look up values by their names.

    Raises:
        InputError: no value is called so.
    """
    graph = plan.graph
    names = {v.name: v for v in (graph.perturbed, *(step.out for step in plan.steps))}
    found: dict[Value, Any] = {}
    for key, thing in given.items():
        value = names.get(key) if isinstance(key, str) else key
        if value is None or value not in names.values():
            raise InputError(f"there is no value {str(key)!r}; there are {', '.join(names)}")
        found[value] = thing
    return found


def _check_given(plan: Plan, given: Mapping[Value, Interval]) -> None:
    """Raise unless intervals, not empty ones, are given for values that nonlinear ops read."""
    wrong = [value for value in given if value not in plan.bounded]
    if wrong:
        names = ", ".join(v.name for v in plan.bounded) or "none"
        raise InputError(
            f"intervals are given for {', '.join(map(str, wrong))}: nonlinear ops read {names}"
        )
    for value, box in given.items():
        if not bool((box.lower <= box.upper).all()):
            raise InputError(f"the interval given for {value.name} is empty or NaN somewhere")


def _by_value(plan: Plan, choose: Mapping[str, Serving]) -> dict[Value, Serving]:
    """Look up the user's choices; a node is called by its name or by its module's."""
    names: dict[str, Value] = {}
    for step in plan.steps:
        if step.out in plan.bounded or step.out == plan.graph.output:
            module = "" if step.node.source is None else step.node.source.module
            names |= {module: step.out, step.out.name: step.out}
    chosen: dict[Value, Serving] = {}
    for name, choice in choose.items():
        orders = ("ibp", "backward", "forward")
        if name not in names:
            known = ", ".join(sorted(n for n in names if n))
            raise InputError(f"choose: no node {name!r} is bounded; there are {known}")
        if choice not in orders and not _projects(choice):
            raise InputError(
                f"choose[{name!r}] = {choice!r}: give one of {orders}, Cauchy(r) or Normal(r)"
            )
        if choice == "ibp" and (not plan.method.intervals or names[name] == plan.graph.output):
            raise InputError(f'choose[{name!r}] = "ibp" needs a node inside and bounds with "ibp"')
        chosen[names[name]] = choice
    return chosen


def _projects(serving: Serving) -> bool:
    """Return whether an estimator keeps samples along the way."""
    return isinstance(serving, Estimator) and serving.kept > 0
