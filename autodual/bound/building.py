"""One bound while it grows: each step adds an interval, and a layer to each relaxed network."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from autodual.bound import outward
from autodual.bound.budget import Purse
from autodual.bound.constants import doubt, doubts
from autodual.bound.cost import Record
from autodual.bound.estimators import (
    CauchyNoise,
    Estimator,
    Exact,
    ExactSums,
    FormSums,
    Forward,
    OptimisedSums,
    Setting,
    Sums,
)
from autodual.bound.layer import Entry, Layer, nothing_known
from autodual.bound.options import Options, Serving
from autodual.bound.plan import Plan, Step
from autodual.bound.reading import Bound, interval, meet, widen
from autodual.bound.relaxation import Relaxation
from autodual.bound.rows import Units
from autodual.bound.travel import row_cost
from autodual.duals import Affine, Call, Choice, Planes, Relaxed
from autodual.errors import InputError
from autodual.front.ir import Value
from autodual.interval import Interval
from autodual.rounding import roundoff, up, widened
from autodual.threat import ThreatModel
from autodual.working import check_time

BLUR = 256
"""How many roundoffs of its terms an end of an interval is moved where an op jumps."""

LEAN = 0.1
"""How far from the middle of the box towards z⁰ free lines are compared. The planes of a product
are equally close in the middle; for other ops the middle decides."""


@dataclass(frozen=True, eq=False)
class Job:
    """What does not change from one part of a batch to the next.

    Attributes:
        serving: how each value that a nonlinear op reads is served, and the output.
        seed: where noise comes from.
        memory: a budget in bytes.
        budget: the work that the rows of an example may take.
        asked: values that are served as the user said, at any price.
    """

    plan: Plan
    options: Options
    serving: Mapping[Value, Serving]
    seed: int
    memory: int
    budget: float
    asked: Collection[Value]


class Building:
    """The state of one bound.

    Args:
        job: the plan, the options, and how each value is served.
        env: all tensors that the perturbation does not reach.
        threat: the set around the perturbed input.
        slopes, given: slopes and intervals from outside.
        before: the bound without steps, where one with them is wanted.
        room: by how much more values may be off [1, *size(1)]: radii of the ops that compute them,
            and added to their intervals.
        record: written to, if there is one.
        shared: noise that all parts of a batch read.

    Attributes:
        boxes: the interval of each value that a nonlinear op has read so far.
        reach: intervals of values by interval arithmetic, beside ``boxes`` where these are by rows
            alone; of all values if rounding is charged, by them.
        book: what finds sums over rows of a dual network, by how a value is served.
        groups: what finds sums, by the network that it reads: "free", where each line has a slope
            of its own; "parallel"; "flat", of intervals alone, whose rows stop at nonlinear ops.
    """

    def __init__(
        self,
        job: Job,
        env: Mapping[Value, Tensor],
        threat: ThreatModel,
        record: Record | None,
        shared: CauchyNoise | None,
        slopes: Mapping[Value, Choice],
        given: Mapping[Value, Interval],
        before: Bound | None = None,
        room: Mapping[Value, Tensor] | None = None,
    ) -> None:
        self.job, self.env, self.record, self.before = job, env, record, before
        self.slopes, self.given, self.room = slopes, given, room or {}
        self.plan, self.method = job.plan, job.plan.method
        entry = self.plan.graph.perturbed
        x = env[entry]
        self.batch = len(x)
        self.purse = Purse(job.budget)
        around, box = threat.interval(x), None
        self.doubts: Mapping[Value, Tensor] = {}
        if self.plan.rounding is not None:
            box = around = widened(around)
            self.doubts = doubts(self.plan.graph, env, self.batch)
        network = Relaxation(self.plan, Entry(entry, x, threat, box=box), {}, self.batch)
        observe = None if record is None else lambda step, rows: record.tick(step)
        setting = Setting((), job.seed, job.memory, job.options.select, shared, observe)
        self.groups: dict[str, list[Sums]] = {}
        self.book: dict[Serving, Sums] = {}
        self.inside: OptimisedSums | None = None
        self.last: OptimisedSums | None = None
        if "dual" in self.method.last:
            self.book = self._book(network, setting)
            self._prepare_steps(network, setting)
        for sums in self.book.values():
            kind = "free" if job.options.free and not sums.parallel else "parallel"
            self.groups.setdefault(kind, []).append(sums)
        self.forms: FormSums | None = None
        if job.options.forms and network.entry.weights is not None:
            self.forms = FormSums(network)
            self.groups.setdefault("parallel", []).append(self.forms)
        if "ibp" in self.method.last:
            self.groups["flat"] = [ExactSums(network, setting)]
        self.ibp = {entry: around}
        self.reach = self.ibp if self.method.intervals else dict(self.ibp)
        self.boxes: dict[Value, Interval] = {}
        self.origins: dict[Value, str] = {}

    def _prepare_steps(self, network: Relaxation, setting: Setting) -> None:
        """Make ready what seeks the best planes for rows inside and for the last ones."""
        steps, kind = self.job.options.optimize, "free" if self.job.options.free else "parallel"
        if self.before is None or steps is None:
            return
        self.last = OptimisedSums(network, setting, steps.last)
        self.groups[kind] = [self.last]
        if steps.inside:
            self.inside = OptimisedSums(network, setting, steps.inside)
            self.groups[kind].append(self.inside)

    @property
    def network(self) -> Relaxation:
        """The network that tells the most."""
        kind = next(kind for kind in ("free", "parallel", "flat") if kind in self.groups)
        return self.groups[kind][0].network

    def bound(self) -> Bound:
        """Return what has been built."""
        output = self.job.serving[self.plan.graph.output]
        last = [
            self.groups["flat"][0] if name == "ibp" else self.last or self.book[output]
            for name in self.method.last
        ]
        earlier = () if self.before is None else self.before.sums
        return Bound(self.boxes, (*last, *earlier))

    def add(self, step: Step) -> None:
        """Add a step."""
        check_time()
        call = step.call(self.env, self.batch)
        if step.rule.exact:
            wanted = self.method.intervals and step.out in self.plan.inner
            if wanted or self.plan.rounding is not None:
                image = self._image(step, call, [self.reach[v] for v in step.variables])
                self.reach[step.out] = self.plan.within(step.out, image)
            relaxed: Mapping[str, Relaxed] = dict.fromkeys(self.groups, step.rule.relax(call))
        else:
            for value in dict.fromkeys(step.variables):
                if value not in self.boxes:
                    self._read(value)
            relaxed = self._relax(step, call)
        self._extend(step, call, relaxed)
        if self.record is not None:
            columns = sum(sums.columns(step.out) for sums in self.book.values())
            self.record.push(step.out, columns)
            self.record.note(step, self.network[step.out])

    def _relax(self, step: Step, call: Call) -> Mapping[str, Relaxed]:
        """Return what a nonlinear op is relaxed to in each network."""
        boxes = [self.boxes[v] for v in step.variables]
        found: dict[str, Relaxed] = {}
        if self.plan.rounding is not None or self.method.intervals:
            image = self._image(step, call, boxes)
            self.reach[step.out] = self.plan.within(step.out, image)
        if self.method.intervals:
            # (−∞, ∞) says that a partial op is not defined: a range must not hide that
            found["flat"] = Planes.flat(image if step.rule.partial else self.ibp[step.out])
        slopes = self.slopes.get(step.out)
        if "parallel" in self.groups:
            found["parallel"] = step.rule.relax(call, *boxes, slopes=slopes)
        if "free" in self.groups:
            nominal = [self.network[v].reference for v in step.variables]
            with torch.no_grad():  # where lines are compared moves them, but to no effect
                at = [torch.lerp(b.center, z, LEAN) for b, z in zip(boxes, nominal, strict=True)]
            found["free"] = step.rule.relax(
                call, *boxes, slopes=slopes, at=at if slopes is None else None
            )
        return found

    def _image(self, step: Step, call: Call, boxes: Sequence[Interval]) -> Interval:
        """Return an interval of what an op computes, rounded outward if that is wanted."""
        if self.plan.rounding is None:
            return step.rule.interval(call, *boxes)
        box = outward.image(step, call, boxes, self.batch, self.plan.own)
        if step.out in self.plan.inexact:
            off = self._inexactness(step, box)
            box = widened(Interval(box.lower - off, box.upper + off))
        if not self.doubts:
            return box
        sizes = [box.magnitude for box in boxes]
        other = doubt(step, self.env, self.doubts, sizes, self.batch)
        return box if other is None else widened(Interval(box.lower - other, box.upper + other))

    @torch.no_grad()
    def _inexactness(self, step: Step, box: Interval) -> Tensor:
        """Return how far what a library computes may lie from an op's value."""
        how, own = self.plan.inexact[step.out], self.plan.own
        assert own is not None
        read = {v for _, values in how.terms for v in values}
        sizes = {v: self.reach[v].magnitude if v in self.reach else self.env[v].abs() for v in read}
        return outward.inexactness(step, how, own, box.magnitude, sizes, self.batch)

    @torch.no_grad()
    def _charge(self, made: Layer, call: Call) -> outward.Charge | None:
        """Return what rounding may add at a layer."""
        values, reads = made.step.variables, self.plan.reads
        read = [
            outward.Reached(self.reach[v], layer.reference, reads[v])
            for v, layer in zip(values, made.inputs, strict=True)
        ]
        assert self.plan.rounding is not None
        found, how = self.reach[made.value], (self.batch, self.plan.own, self.plan.sizes)
        off = self._inexactness(made.step, found) if made.value in self.plan.inexact else None
        charge = outward.charge(made.step, call, made.relaxed, read, found, *how, off)
        if charge is None or not self.doubts:
            return charge
        sizes = [value.size for value in read]
        other = doubt(made.step, self.env, self.doubts, sizes, self.batch)
        return charge if other is None else replace(charge, radius=up(charge.radius + other))

    def _left(self, value: Value) -> Tensor:
        """Return by how much more a value may be off, in its layout."""
        room = self.room[value]
        return value.in_layout(room.expand(self.batch, *room.shape[1:]))

    def _extend(self, step: Step, call: Call, relaxed: Mapping[str, Relaxed]) -> None:
        """Add a layer to each network."""
        moving = set(step.variables)
        constants = {v: self.env[v] for v in step.node.inputs if v not in moving}
        read = () if step.rule.exact else step.variables
        boxes = tuple(self.boxes[v] for v in read)
        origins = tuple(self.origins[v] for v in read)
        for kind, group in self.groups.items():
            network = group[0].network
            inputs = network.inputs(step.variables)
            made = Layer(step, self.batch, constants, inputs, boxes, origins, relaxed[kind])
            if self.plan.rounding is not None:
                charge, image = self._charge(made, call), self.reach[made.value]
                made = replace(made, charge=charge, image=image)
            elif step.out in self.room:
                own = self._left(step.out)
                made = replace(made, charge=outward.Charge(own, own.new_zeros(self.batch)))
            network = network.extended(made)
            for sums in group:
                sums.extend(network, made)

    def _read(self, value: Value) -> None:
        """Find the interval of a value that a nonlinear op reads."""
        if value in self.ibp:
            box, origin = widen(self.ibp[value], self.job.options.select), "ibp"
        else:
            box, origin = nothing_known(self.network[value].reference), "nothing"
        if self.forms is not None:
            box = box.intersect(widen(self.forms.interval(value), self.job.options.select))
        if self.before is not None:
            box = box.intersect(self.before.boxes[value])
        self.ibp[value] = box = self.plan.within(value, self._blurred(value, box))
        known = value in self.given
        if known:
            box = box.intersect(_fitting(value, self.given[value], box))
        if value == self.plan.graph.perturbed:
            origin = "input"
        elif self.job.serving[value] != "ibp" and not (origin == "ibp" and self.complete(value)):
            tight = self._blurred(value, self._tightened(value, box))
            if known:
                tight = tight.intersect(_fitting(value, self.given[value], box))
            box, origin = self.plan.within(value, tight), self.method.origin
        self.ibp[value] = self.boxes[value] = self.reach[value] = box
        self.origins[value] = f"{origin}&given" if known else origin

    @torch.no_grad()
    def _room(self, value: Value) -> Tensor:
        """Return how far a computed end of what jumps read may be off: a part of |A||z| + |b|."""
        terms, made = self.network[value].reference.abs(), self.plan.at_jumps[value]
        if made is not None and isinstance(made.rule, Affine):
            sizes = list[Tensor]()
            for v in made.variables:
                size = self.network[v].reference.abs()
                known = v in self.reach
                sizes.append(torch.maximum(size, self.reach[v].magnitude) if known else size)
            terms = made.rule.extent(made.call(self.env, self.batch), *sizes)
        return BLUR * roundoff(terms.dtype) * terms

    def _blurred(self, value: Value, box: Interval) -> Interval:
        """Widen an interval where there is room, or where a jump reads it: an ulp may be all of it.

        Elsewhere an error of rounding in an interval moves a bound by no more than its like, times
        how steep the network is.
        """
        if value in self.room:
            room = self._left(value)
        elif self.plan.rounding is None and value in self.plan.at_jumps:
            room = self._room(value)
        else:
            return box
        return widen(Interval(box.lower - room, box.upper + room), look=False)

    def complete(self, value: Value) -> bool:
        """Return whether interval arithmetic says all that rows could say."""
        return self.network.entry.weights is not None and value in self.plan.by_intervals

    def _tightened(self, value: Value, box: Interval) -> Interval:
        """Give rows to the entries of a value whose op is not yet exact on its interval."""
        serving = self.job.serving[value]
        sums = self.book[serving]
        if self.record is not None:
            self.record.how[value] = str(serving)
            self.record.ask(value, 0)
        if not self.job.options.select:
            everywhere = Units.everywhere(value, self.batch, box.lower.device)
            return self._asked(sums, box, everywhere)
        paid = self._paid(value, self.open(value, box))
        units = Units.where(value, paid)
        if self.before is not None:
            return self._optimised(box, units)
        if not self.method.intervals or sums.parallel or sums.network.symmetric((value,)):
            return self._asked(sums, box, units)
        # a row of its own for each side
        if self.purse.unlimited and sums.few(units):  # to call takes as long as to compute
            found, count = self._found(sums, units.both_sides()), len(units)
            return meet(box, units, Interval(found.lower[:count], found.upper[count:]))
        # where the first side has made the op exact it is enough
        upper = value.per_example(sums.network[value].reference, self.batch).flatten(1) < 0
        box = self._asked(sums, box, units.facing(upper))
        units = units.those(self._paid(value, self.open(value, box) & paid))
        return self._asked(sums, box, units.facing(~upper))

    def _optimised(self, box: Interval, units: Units) -> Interval:
        """Intersect an interval with what rows say by their best planes, side by side."""
        if self.inside is None:
            return box
        for upper in (False, True):
            units = units.those(self.open(units.value, box))
            sides = torch.full_like(units.unit, upper, dtype=torch.bool)
            box = self._asked(self.inside, box, replace(units, negative=sides))
        return box

    def _asked(self, sums: Sums, box: Interval, units: Units) -> Interval:
        """Intersect an interval with what rows say at ``units``."""
        return meet(box, units, self._found(sums, units)) if len(units) else box

    def _found(self, sums: Sums, units: Units) -> Interval:
        """Return what rows say at ``units``, [R]."""
        if self.record is not None:
            self.record.ask(units.value, len(units))
            if self.job.serving[units.value] == "backward":
                self.record.costs[units.value] = row_cost(sums.network, units)
        return interval(sums, units)

    def _paid(self, value: Value, mask: Tensor) -> Tensor:
        """Return which of some entries [N, numel] get rows: all where the user asked for rows."""
        return mask if value in self.job.asked else self.purse.pay(self.network, value, mask)

    @torch.no_grad()
    def open(self, value: Value, box: Interval) -> Tensor:
        """Return where an interval tighter than ``box`` can tighten a dual layer, [N, numel]."""
        known = {**self.ibp, value: box}
        loose = torch.zeros((), dtype=torch.bool, device=box.lower.device)
        for step in self.plan.bounded[value]:
            if all(v in known for v in step.variables):
                call = step.call(self.env, self.batch)
                found = step.rule.open(call, *(known[v] for v in step.variables))
                loose = loose | found[step.variables.index(value)]
            else:
                loose = loose | (box.lower != box.upper)
        return value.per_example(loose, self.batch).flatten(1)

    def _book(self, network: Relaxation, setting: Setting) -> dict[Serving, Sums]:
        """Return what finds the sums, by how values are served."""
        served: dict[Serving, list[Value]] = {}
        for value in (*self.plan.bounded, self.plan.graph.output):
            serving = self.job.serving[value]
            if serving != "ibp":
                served.setdefault(serving, []).append(value)
        book: dict[Serving, Sums] = {}
        for serving, targets in served.items():
            own = serving == self.job.options.estimator
            shared = setting.shared if own else None
            seed = setting.seed if own else setting.seed + len(book)
            given = replace(setting, targets=tuple(targets), seed=seed, shared=shared)
            book[serving] = served_by(serving).start(network, given)
        return book


def _fitting(value: Value, given: Interval, box: Interval) -> Interval:
    """Return an interval from outside in the shape of a value's own.

    Raises:
        InputError: its shape does not fit.
    """
    shape = box.lower.shape
    try:
        return given.map(lambda end: end.expand(shape))
    except RuntimeError:
        shapes = f"{list(given.lower.shape)} and {list(given.upper.shape)}"
        raise InputError(
            f"the interval given for {value} has ends of shapes {shapes}: the value's is "
            f"{list(shape)}"
        ) from None


def served_by(serving: Serving) -> Estimator:
    """Return the estimator that a word for an order stands for."""
    if isinstance(serving, Estimator):
        return serving
    return Forward() if serving == "forward" else Exact()
