"""Branching inside the network: the interval of a unit is cut in two, at a bend of its op."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from autodual.bound.layer import Layer
from autodual.bound.options import Steps
from autodual.bound.relaxation import Relaxation
from autodual.duals.elementwise import Elementwise
from autodual.duals.piecewise import Piecewise
from autodual.front.ir import Value
from autodual.interval import Interval
from autodual.verifier.ascent import Ascent, Point
from autodual.verifier.leaves import decide
from autodual.verifier.pool import Nodes, Step
from autodual.verifier.system import System

ROOT, BELOW, TRIAL = 40, 12, 0
"""How many steps sub-problems take to their best bound: the first, those below, those on trial."""

CANDIDATES = 3
"""How many units are tried for each cut."""

TINY = 1e-9
"""Which part of all that a bound loses a unit must be to blame for, to be cut."""


@dataclass(frozen=True, eq=False)
class Unit:
    """The units of one value that sub-problems cut: entries ``index`` of what a layer reads.

    ``place`` is where they stand among all units.
    """

    layer: Layer
    index: Tensor
    place: slice

    @property
    def value(self) -> Value:
        """The value that is cut."""
        return self.layer.step.variables[0]


class UnitSplits:
    """Sub-problems are boxes of intervals inside the network.

    Intervals are found once for each region and kept; a cut narrows one of them, and its end comes
    into the bound with a multiplier. A sub-problem starts from its parent's planes and
    multipliers. Where nothing is left to cut a linear program decides.
    """

    def __init__(self, system: System) -> None:
        self.system = system
        cases = system.cases
        same = [next(j for j, other in enumerate(cases) if _same(case, other)) for case in cases]
        first = sorted(set(same))
        self.region = torch.tensor([first.index(j) for j in same], device=system.like.device)
        lower = torch.stack([cases[j].lower for j in first])
        upper = torch.stack([cases[j].upper for j in first])
        net = system.net.with_options(optimize=Steps(0, 10))
        self.network = system.bound(net.admitted(system.found.inputs), lower, upper).travelled

    @cached_property
    def units(self) -> list[Unit]:
        """The units that are open in some region, and can be cut."""
        found, start = list[Unit](), 0
        for layer in self.network.layers.values():
            if isinstance(layer.step.rule, Elementwise) and len(layer.boxes) == 1:
                assert layer.radius is not None
                open_ = (layer.radius != 0).flatten(1).any(0)
                value = layer.step.variables[0]
                if value == self.network.entry.value or open_.numel() != value.numel:
                    continue
                index = open_.nonzero().squeeze(1)
                found.append(Unit(layer, index, slice(start, start + len(index))))
                start += len(index)
        return found

    def roots(self) -> Nodes:
        """Return the whole region of each case."""
        case = torch.arange(len(self.system.cases), device=self.region.device)
        boxes = self._boxes(self.region)
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
            },
        )

    def state(self) -> dict[str, Any]:
        """Return nothing: all it knows is in the sub-problems."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Hear nothing."""

    def step(self, nodes: Nodes) -> Step:
        """Bound sub-problems, and cut one unit of each that stays open."""
        fresh = bool(nodes.bound.isneginf().any())
        nodes, losses = self._bounded(nodes, ROOT if fresh else BELOW)
        kept = (~(nodes.bound > 0)).nonzero().squeeze(1)
        nodes, losses = nodes.select(kept), losses[kept]
        points, case = self._points(nodes)
        whole = ~(losses > 0).any(1) if losses.shape[1] else torch.ones_like(nodes.bound).bool()
        ends = nodes.select(whole)
        stuck, more = decide(self, ends)
        cut = self._cut(nodes.select(~whole), losses[~whole])
        if len(more) > 0:
            points = torch.cat([points, more])
            case = torch.cat([case, ends.case[: len(more)]])
        return Step(cut, points, case, stuck)

    def network_of(self, nodes: Nodes) -> tuple[Relaxation, dict[Value, Interval]]:
        """Return the network relaxed on the intervals of sub-problems, and these, [M, *]."""
        region = self.region[nodes.case]
        boxes = self._boxes(region)
        for unit in self.units:
            value, box = unit.value, boxes[unit.value]
            lower, upper = (
                end.index_copy(1, unit.index, nodes[name][:, unit.place])
                for end, name in ((box.lower, "low"), (box.upper, "high"))
            )
            boxes[value] = Interval(lower, upper)
        shaped = {
            v: box.map(lambda end, v=v: v.in_layout(end.reshape(-1, *v.size(1))))  # type: ignore[misc]
            for v, box in boxes.items()
        }
        return self.network.select(region).with_boxes(shaped), boxes

    def _boxes(self, region: Tensor) -> dict[Value, Interval]:
        """Return the intervals of the values that are cut, [M, numel] each."""
        batch = self.network.batch
        return {
            u.value: u.layer.boxes[0].map(
                lambda end, u=u: u.value.per_example(end, batch).flatten(1)[region]  # type: ignore[misc]
            )
            for u in self.units
        }

    def _bounded(self, nodes: Nodes, steps: int) -> tuple[Nodes, Tensor]:
        """Return sub-problems with their best bounds, and what each unit takes from these."""
        if len(nodes) == 0:
            return nodes, nodes["low"]
        network, boxes = self.network_of(nodes)
        whole = self._boxes(self.region[nodes.case])
        narrowed = {
            v: (
                (box.lower > whole[v].lower).to(box.lower).reshape(-1, *v.size(1)),
                (box.upper < whole[v].upper).to(box.upper).reshape(-1, *v.size(1)),
            )
            for v, box in boxes.items()
        }
        shaped = {
            v: box.map(lambda end, v=v: end.reshape(-1, *v.size(1)))  # type: ignore[misc]
            for v, box in boxes.items()
        }
        specs = {
            v: c.expand(len(nodes), *c.shape[1:]) for v, c in self.system.specs(nodes.case).items()
        }
        offset = self.system.rows[2][nodes.case]
        ascent = Ascent(network, specs, offset, shaped, narrowed)
        point = self._point(nodes, network)
        bound = ascent.run(point, steps)
        return self._noted(nodes, point, torch.fmax(nodes.bound, bound), network)

    def _point(self, nodes: Nodes, network: Relaxation) -> Point:
        """Return where sub-problems start: where their parents ended."""
        shares, mus = dict[Value, list[Tensor]](), dict[Value, Tensor]()
        for unit in self.units:
            size = unit.value.size(1)
            full = nodes["mu"].new_zeros(len(nodes), unit.value.numel)
            mu = full.index_copy(1, unit.index, nodes["mu"][:, unit.place])
            mus[unit.value] = mu.reshape(-1, *size)
            if len(network.layers[unit.layer.value].facets) == 2:
                share = full.index_copy(1, unit.index, nodes["share"][:, unit.place])
                shares[unit.layer.value] = [share.reshape(-1, *size)]
        return Point(dict(shares), mus, nodes["weights"].clone())

    def _noted(
        self, nodes: Nodes, point: Point, bound: Tensor, network: Relaxation
    ) -> tuple[Nodes, Tensor]:
        """Return sub-problems with what was found of them, and the losses [M, units]."""
        share, mu = torch.zeros_like(nodes["share"]), torch.zeros_like(nodes["mu"])
        losses = torch.zeros_like(nodes["low"])
        for unit in self.units:
            out = unit.layer.value
            mu[:, unit.place] = point.multipliers[unit.value].flatten(1)[:, unit.index]
            if len(point.shares.get(out, ())) == 1:
                share[:, unit.place] = point.shares[out][0].flatten(1)[:, unit.index]
            if out in point.losses:
                losses[:, unit.place] = point.losses[out].flatten(1)[:, unit.index]
        data = {**nodes.data, "share": share, "mu": mu, "weights": point.weights}
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
                like = unit.layer.boxes[0].lower
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
        units = losses.topk(count, dim=1).indices
        tried = [self._halves(nodes, units[:, i]) for i in range(count)]
        if count == 1:
            return tried[0]
        each = [self._bounded(t, TRIAL)[0].bound.reshape(2, -1) for t in tried]
        worth = torch.stack([e.clamp(max=0).amin(0) + 1e-3 * e.clamp(max=0).amax(0) for e in each])
        worth = worth.masked_fill(losses.gather(1, units).mT == 0, -torch.inf)
        best = worth.argmax(0)
        return self._halves(nodes, units.gather(1, best.unsqueeze(1)).squeeze(1))

    def _halves(self, nodes: Nodes, unit: Tensor) -> Nodes:
        """Return both halves of sub-problems, cut at one unit [M] each; first all lower ones."""
        place = unit.unsqueeze(1)
        at = self._middles(nodes).gather(1, place)
        twice = nodes.select(torch.arange(len(nodes), device=unit.device).repeat(2))
        high = torch.cat([nodes["high"].scatter(1, place, at), nodes["high"]])
        low = torch.cat([nodes["low"], nodes["low"].scatter(1, place, at)])
        return Nodes(twice.bound, twice.case, {**twice.data, "low": low, "high": high})

    def _points(self, nodes: Nodes) -> tuple[Tensor, Tensor]:
        """Return points worth trying: the middle of each region."""
        cases = self.system.cases
        lower = torch.stack([case.lower for case in cases])[nodes.case]
        upper = torch.stack([case.upper for case in cases])[nodes.case]
        generator = torch.Generator().manual_seed(len(nodes))
        share = torch.rand(lower.shape, generator=generator, dtype=lower.dtype).to(lower.device)
        return torch.lerp(lower, upper, share), nodes.case


def _same(a: Any, b: Any) -> bool:
    """Return whether two cases have the same box."""
    return torch.equal(a.lower, b.lower) and torch.equal(a.upper, b.upper)
