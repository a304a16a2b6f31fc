"""Branching inside the network: the interval of a unit is cut in two, at a bend of its op."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from autodual.bound.options import Steps
from autodual.bound.relaxation import Relaxation
from autodual.bound.rows import Specs
from autodual.bound.travel import row_cost
from autodual.duals.maximum import Extreme
from autodual.duals.piecewise import Piecewise
from autodual.errors import InputError
from autodual.front.ir import Value
from autodual.interval import Interval
from autodual.verifier.ascent import Ascent, Point
from autodual.verifier.cuttable import open_units
from autodual.verifier.pool import Nodes, Step
from autodual.verifier.system import System

ROOT, BELOW, TRIAL = 40, 12, 0
"""How many steps sub-problems take to their best bound: the first, those below, those on trial."""

CANDIDATES = 3
"""How many units are tried for each cut."""

INSIDE = 10
"""How many steps rows inside take to their best planes, where one pass has not proved a case."""

MOST = 256
"""How many sub-problems are bounded together at most."""

ROOM, HELD = 2**27, 16
"""How many bytes the rows of a batch may take, and how many tensors of each autograd keeps."""

SMALL, SHALLOW = 500, 2000
"""How many units may be open for mixed-integer programs to be worth while: in all layers, and where
there is one alone, whose intervals are exact."""

ROUNDING = 2**14
"""How many units in the last place of a value's largest entry an interval may be crossed by."""

TINY = 1e-9
"""Which part of all that a bound loses a unit must be to blame for, to be cut."""


class UnitSplits:
    """Sub-problems are boxes of intervals inside the network.

    Intervals are found once for each region and kept; a cut narrows one of them, and its end comes
    into the bound with a multiplier. A sub-problem starts from its parent's planes and
    multipliers. Where nothing is left to cut a linear program decides.
    """

    def __init__(self, system: System) -> None:
        self.system = system
        ends = torch.cat(system.ends, 1)
        regions, self.region = ends.unique(dim=0, return_inverse=True)
        self.lower, self.upper = regions.chunk(2, 1)
        self.tight, self._lock = False, Lock()
        self.network = system.bound(system.found, self.lower, self.upper).travelled
        self.units = open_units(self.network)
        self.smooth = any(not isinstance(u.layer.step.rule, Piecewise) for u in self.units)
        cost = row_cost(self.network, Specs.per_example(self._any_rows()))
        self.most = max(1, min(MOST, ROOM // (HELD * max(1, cost.total_bytes))))

    @property
    def programmable(self) -> bool:
        """Whether mixed-integer programs can say all of it, and it is small enough for them."""
        steps, around = self.network.plan.steps, self.system.around
        known = all(s.rule.exact or isinstance(s.rule, Piecewise | Extreme) for s in steps)
        if self.system.rounded:
            return False
        small = self.count <= (SMALL if len(self.units) > 1 else SHALLOW)
        return known and small and (around is None or around.programmable)

    @property
    def count(self) -> int:
        """How many units can be cut."""
        return sum(len(unit.index) for unit in self.units)

    def tighten(self) -> None:
        """Find the intervals anew, each row by the best planes for it; once."""
        with self._lock:
            if self.tight:
                return
            net = self.system.net.with_options(optimize=Steps(0, INSIDE))
            compiled = net.admitted(self.system.found.inputs)
            self.network = self.system.bound(compiled, self.lower, self.upper).travelled
            layers = self.network.layers
            self.units = [replace(u, layer=layers[u.layer.value]) for u in self.units]
            self.tight = True

    def _any_rows(self) -> dict[Value, Tensor]:
        """Return a row for each region, to know what one costs."""
        output = self.network.plan.graph.output
        rows = self.system.like.new_zeros(self.network.batch, 1, *output.size(1))
        return {output: rows}

    def roots(self) -> Nodes:
        """Return the whole region of each case."""
        case = torch.arange(len(self.system.cases), device=self.region.device)
        boxes = self._boxes(self.region[case])
        ends = [
            torch.cat([end(boxes[u.value])[:, u.index] for u in self.units], 1)
            if self.units
            else self.system.like.new_zeros(len(case), 0)
            for end in (lambda i: i.lower, lambda i: i.upper)
        ]
        nothing = torch.zeros_like(ends[0])
        rows = self.system.rows[2].shape[1]
        return Nodes(
            self.system.like.new_full((len(case),), -torch.inf),
            case,
            {
                "low": ends[0],
                "high": ends[1],
                "share": nothing,
                "mu": nothing.clone(),
                "weights": self.system.like.new_zeros(len(case), rows),
                "depth": torch.zeros_like(case),
            },
        )

    def state(self) -> dict[str, Any]:
        """Return whether intervals were tightened, and which units are cut."""
        return {"tight": self.tight, "units": [unit.index.tolist() for unit in self.units]}

    def load(self, state: dict[str, Any]) -> None:
        """Find the intervals again.

        Raises:
            InputError: other units are open here, as on another machine.
        """
        if state["units"] != [unit.index.tolist() for unit in self.units]:
            raise InputError("the search that was stopped cuts other units: begin it anew")
        if state["tight"]:
            self.tighten()

    def glance(self, nodes: Nodes) -> Step:
        """Bound whole regions by the intervals at hand."""
        nodes, _ = self._bounded(nodes, TRIAL)
        nodes = nodes.select(~(nodes.bound > 0))
        points, nodes = nodes["corner"], nodes.without("corner")
        return Step(nodes, points, nodes.case, nodes.none)

    def step(self, nodes: Nodes) -> Step:
        """Bound sub-problems, and cut one unit of each that stays open."""
        self.tighten()
        root = bool((nodes["depth"] == 0).any())
        nodes, losses = self._bounded(nodes, ROOT if root else BELOW)
        kept = (~(nodes.bound > 0)).nonzero().squeeze(1)
        nodes, losses = nodes.select(kept), losses[kept]
        nodes, points, case = nodes.without("corner"), nodes["corner"], nodes.case
        whole = ~(losses > 0).any(1) if losses.shape[1] else torch.ones_like(nodes.bound).bool()
        ends = nodes.select(whole)
        stuck, more, which = self._decided(ends)
        cut = self._cut(nodes.select(~whole), losses[~whole])
        points, case = torch.cat([points, more]), torch.cat([case, which])
        return Step(cut, points, case, stuck)

    def _decided(self, nodes: Nodes) -> tuple[Nodes, Tensor, Tensor]:
        """Return those that a linear program leaves undecided, points it found, their cases."""
        if len(nodes) == 0:
            return nodes, self.lower[:0], nodes.case
        from autodual.verifier.leaves import decide  # scipy.optimize takes a while to import

        return decide(self, nodes)

    def learn(self, step: Step) -> None:
        """Hear nothing."""

    def relaxed(self, nodes: Nodes) -> tuple[Relaxation, dict[Value, Interval], Tensor]:
        """Return the network relaxed on the intervals of sub-problems.

        Interval arithmetic carries on what cuts have narrowed; where ops are curved rows do, since
        no number of cuts would make these exact.

        Returns:
            The network; the intervals of the values that are cut, [M, *size(1)]; which sub-problems
            are empty, [M] bool.
        """
        region = self.region[nodes.case]
        given, empty = self._boxes(region), torch.zeros_like(nodes.bound, dtype=torch.bool)
        for unit in self.units:
            box = given[unit.value]
            own = Interval(unit.put(nodes["low"], box.lower), unit.put(nodes["high"], box.upper))
            box = box.intersect(own)
            empty = empty | _crossed(unit.pick(box.lower), unit.pick(box.upper))
            low = torch.minimum(box.lower, box.upper)  # of those that are empty no more is asked
            given[unit.value] = Interval(low, box.upper)
        laid = {v: box.map(partial(_laid, v)) for v, box in given.items()}
        ends = self.lower[region], self.upper[region]
        compiled = self.system.found if self.smooth else self.system.arithmetic
        bound = self.system.bound(compiled, *ends, laid)
        boxes = dict[Value, Interval]()
        for value in given:
            each = partial(value.per_example, batch=len(nodes))
            boxes[value] = bound.boxes[value].map(each)
            empty = empty | _crossed(boxes[value].lower, boxes[value].upper)
        return bound.travelled, boxes, empty

    def _boxes(self, region: Tensor) -> dict[Value, Interval]:
        """Return the intervals of the values that are cut, [M, numel] each."""
        batch = self.network.batch
        return {
            u.value: u.box.map(
                lambda end, u=u: u.value.per_example(end, batch).flatten(1)[region]  # type: ignore[misc]
            )
            for u in self.units
        }

    def _bounded(self, nodes: Nodes, steps: int) -> tuple[Nodes, Tensor]:
        """Return sub-problems with their best bounds, and what each unit takes from these."""
        network, boxes, empty = self.relaxed(nodes)
        whole = self._boxes(self.region[nodes.case])
        narrowed = dict[Value, tuple[Tensor, Tensor]]()
        for unit in self.units:
            box, size = whole[unit.value], (-1, *unit.value.size(1))
            low = unit.put(nodes["low"], box.lower) > box.lower
            high = unit.put(nodes["high"], box.upper) < box.upper
            ends = low.to(box.lower).reshape(size), high.to(box.upper).reshape(size)
            other = narrowed.get(unit.value, ends)  # another layer may read it, too
            narrowed[unit.value] = other[0].maximum(ends[0]), other[1].maximum(ends[1])
        specs = {
            v: c.expand(len(nodes), *c.shape[1:]) for v, c in self.system.specs(nodes.case).items()
        }
        offset = self.system.rows[2][nodes.case]
        ascent = Ascent(network, specs, offset, boxes, narrowed, self.system.around)
        point = self._point(nodes, network)
        bound = ascent.run(point, steps).masked_fill(empty, torch.inf)
        return self._noted(nodes, point, torch.fmax(nodes.bound, bound), network)

    def proved(
        self, node: Nodes, network: Relaxation, boxes: dict[Value, Interval], point: Point
    ) -> float:
        """Return what planes, multipliers and weights from outside prove of a sub-problem."""
        specs, offset = self.system.specs(node.case), self.system.rows[2][node.case]
        ascent = Ascent(network, specs, offset, boxes, {}, self.system.around)
        return float(ascent.run(point, 0))

    def _point(self, nodes: Nodes, network: Relaxation) -> Point:
        """Return where sub-problems start: where their parents ended."""
        shares, mus = dict[Value, list[Tensor]](), dict[Value, Tensor]()
        for unit in self.units:
            nothing = nodes["mu"].new_zeros(len(nodes), unit.value.numel)
            mus[unit.value] = unit.put(nodes["mu"], nothing).reshape(-1, *unit.value.size(1))
            if len(network.layers[unit.layer.value].facets) == 2:
                share = unit.put(nodes["share"], nothing)
                shares[unit.layer.value] = [share.reshape(-1, *unit.value.size(1))]
        return Point(dict(shares), mus, nodes["weights"].clone())

    def _noted(
        self, nodes: Nodes, point: Point, bound: Tensor, network: Relaxation
    ) -> tuple[Nodes, Tensor]:
        """Return sub-problems with what was found of them, and the losses [M, units]."""
        share, mu = torch.zeros_like(nodes["share"]), torch.zeros_like(nodes["mu"])
        losses = torch.zeros_like(nodes["low"])
        for unit in self.units:
            out = unit.layer.value
            mu[:, unit.place] = unit.pick(point.multipliers[unit.value])
            if len(point.shares.get(out, ())) == 1:
                share[:, unit.place] = unit.pick(point.shares[out][0])
            losses[:, unit.place] = unit.blame(network, point.losses)
        corner = self.lower[self.region[nodes.case]]
        corner = corner if point.corner is None else point.corner.flatten(1)
        found = {"share": share, "mu": mu, "weights": point.weights, "corner": corner}
        data = {**nodes.data, **found}
        total = losses.sum(1, keepdim=True)
        losses = torch.where(losses > TINY * total, losses, 0.0)
        middle = self._middles(nodes)
        cuttable = (middle > nodes["low"]) & (middle < nodes["high"])
        return Nodes(bound, nodes.case, data), losses * cuttable

    def _middles(self, nodes: Nodes) -> Tensor:
        """Return where each unit would be cut, [M, units]: at a bend, or in the middle."""
        parts = [nodes["low"][:, :0]]
        for unit in self.units:
            low, high = nodes["low"][:, unit.place], nodes["high"][:, unit.place]
            middle, rule = (low + high) * 0.5, unit.layer.step.rule
            at = middle
            if isinstance(rule, Piecewise):
                call = unit.layer.step.call(unit.layer.constants, unit.layer.batch)
                like = unit.box.lower
                at = torch.full_like(middle, torch.inf)
                for bend in rule.shape(call).points(like):
                    own = unit.value.per_example(bend, unit.layer.batch).flatten(1)
                    own = own[self.region[nodes.case]][:, unit.index]
                    inside = (own > low) & (own < high)
                    nearer = (own - middle).abs() < (at - middle).abs()
                    at = torch.where(inside & nearer, own, at)
            parts.append(at)
        return torch.cat(parts, 1)

    def _cut(self, nodes: Nodes, losses: Tensor) -> Nodes:
        """Return the halves of each sub-problem, by the best of a few cuts."""
        if len(nodes) == 0:
            return nodes
        count = min(CANDIDATES, losses.shape[1])
        worst = losses.topk(count, dim=1)
        units = torch.where(worst.values > 0, worst.indices, worst.indices[:, :1])
        tried = [self._halves(nodes, units[:, i]) for i in range(count)]
        if count == 1:
            return tried[0]
        each = [self._bounded(t, TRIAL)[0].bound.reshape(2, -1) for t in tried]
        worth = torch.stack([e.clamp(max=0).amin(0) + 1e-3 * e.clamp(max=0).amax(0) for e in each])
        best = worth.argmax(0)
        return self._halves(nodes, units.gather(1, best.unsqueeze(1)).squeeze(1))

    def _halves(self, nodes: Nodes, unit: Tensor) -> Nodes:
        """Return both halves of sub-problems, cut at one unit [M] each; first all lower ones."""
        place = unit.unsqueeze(1)
        at = self._middles(nodes).gather(1, place)
        twice = nodes.select(torch.arange(len(nodes), device=unit.device).repeat(2))
        high = torch.cat([nodes["high"].scatter(1, place, at), nodes["high"]])
        low = torch.cat([nodes["low"], nodes["low"].scatter(1, place, at)])
        return Nodes(
            twice.bound,
            twice.case,
            {**twice.data, "low": low, "high": high, "depth": twice["depth"] + 1},
        )


def _crossed(lower: Tensor, upper: Tensor) -> Tensor:
    """Return which sub-problems [M] have an interval that is empty, by more than rounding does."""
    if lower.numel() == 0:
        return torch.zeros(len(lower), dtype=torch.bool, device=lower.device)
    lower, upper = lower.flatten(1), upper.flatten(1)
    size = torch.maximum(lower.abs(), upper.abs()).amax(1, keepdim=True)
    return (lower > upper + ROUNDING * torch.finfo(lower.dtype).eps * size).any(1)


def _laid(value: Value, entries: Tensor) -> Tensor:
    """Return entries [M, numel] in a value's layout."""
    return value.in_layout(entries.reshape(-1, *value.size(1)))
