"""What is verified: a model with its compiled bounds, and the cases of a query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autodual.bound.forecast import pace
from autodual.bound.layer import example_layout
from autodual.bound.plan import METHODS
from autodual.bound.reading import Bound
from autodual.duals.maximum import Extreme
from autodual.front.evaluate import run
from autodual.front.ir import Graph, Value
from autodual.front.passes.conditions import lean
from autodual.interval import Interval
from autodual.query import Case
from autodual.rounding import down
from autodual.threat import Box, ThreatModel
from autodual.verifier.around import Around
from autodual.verifier.blame import lines_and_blame
from autodual.verifier.clip import Lines
from autodual.verifier.rounding import room, room_inside

if TYPE_CHECKING:
    from autodual.bound.relaxation import Relaxation
    from autodual.certified import Certified, Compiled
    from autodual.solve.polytope import Array, Polytope


SWALLOWED = 100.0
"""How many times as large as a maximum its arguments may be for differences to stand for it."""

LONG = 2.0
"""From how many seconds on bounds take long."""


@dataclass(frozen=True, eq=False)
class System:
    """A model over boxes, and rows of its inputs and outputs; flat, n and K numbers.

    Attributes:
        net: the model, certified.
        found: the same, let in with an input of the right shape.
        shape: of one example's input.
        cases: at least one, in the model's dtype, on its device.
        around: the set that all cases lie in, if that is no box; their boxes are the one around it.
    """

    net: Certified
    found: Compiled
    shape: tuple[int, ...]
    cases: tuple[Case, ...]
    around: Around | None = None

    @property
    def rounded(self) -> bool:
        """Whether bounds hold whatever is rounded."""
        return self.net.options.rounding is not None

    @property
    def like(self) -> Tensor:
        """An input, for its dtype and device."""
        return self.found.x

    @cached_property
    def rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """A [cases, S, n], C [cases, S, K] and d [cases, S]; short cases repeat a row."""
        most = max(len(case.d) for case in self.cases)

        def filled(rows: Tensor) -> Tensor:
            return torch.cat([rows, rows[:1].expand(most - len(rows), *rows.shape[1:])])

        each = [[filled(t) for t in (case.A, case.C, case.d)] for case in self.cases]
        A, C, d = (torch.stack(parts) for parts in zip(*each, strict=True))
        return A, C, d

    @cached_property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The boxes of the cases, [cases, n] each."""
        boxes = [(case.lower, case.upper) for case in self.cases]
        lower, upper = (torch.stack(ends) for ends in zip(*boxes, strict=True))
        return lower, upper

    def center(self, i: int) -> Tensor:
        """Return the center [n] of the region of case i."""
        if self.around is not None:
            return self.around.threat.center(self.around.x).flatten()
        return (self.cases[i].lower + self.cases[i].upper) * 0.5

    @cached_property
    @torch.no_grad()
    def cuttable(self) -> System:
        """The same with maxima as ReLUs of differences, if there are any.

        Not where some argument is so large that a difference would swallow others, as the padding
        of a pool is: no number of cuts would then say what the maximum does.
        """
        steps = [s for s in self.found.program.plan.steps if isinstance(s.rule, Extreme)]
        if not steps:
            return self
        bound = self.bound(self.found, *self.ends)
        for layer in (bound.travelled.layers[step.out] for step in steps):
            ends = layer.step.rule.interval(
                layer.step.call(layer.constants, layer.batch), *layer.boxes
            )
            most, large = (
                max(float(end.abs().max()) for box in boxes for end in (box.lower, box.upper))
                for boxes in ((ends,), layer.boxes)
            )
            if not large <= SWALLOWED * most:
                return self
        net = self.net.with_options(pairs=True)
        return replace(self, net=net, found=net.admitted(self.found.inputs))

    @cached_property
    def mixed(self) -> bool:
        """Whether any row is about inputs."""
        return bool((self.rows[0] != 0).any())

    @cached_property
    def forward(self) -> Compiled:
        """The model with intervals inside found in forward order, by a few columns."""
        plan = self.found.program.plan
        choose = {v.name: "forward" for v in plan.bounded if v != plan.graph.perturbed}
        return self.net.with_options(choose=choose).admitted(self.found.inputs)

    def outputs(self, x: Tensor) -> Tensor:
        """Return the outputs [N, K] of the graph at points [N, n]."""
        graph = self.leaning if torch.is_grad_enabled() else self.found.graph
        env = {**self.found.env, graph.perturbed: x.reshape(-1, *self.shape)}
        return graph.output.per_example(run(graph, env), len(x)).flatten(1)

    @cached_property
    def leaning(self) -> Graph:
        """The graph with steps that have a gradient, for points to follow."""
        graph = self.found.graph
        nodes = [replace(n, target=lean) if n.op == "autodual.step" else n for n in graph.nodes]
        return replace(graph, nodes=tuple(nodes))

    def excess(self, x: Tensor, case: Tensor) -> Tensor:
        """Return A x + C z − d at points [N, n], each for a case [N], [N, S]."""
        A, C, d = self.rows
        below = torch.linalg.vecdot(C[case], self.outputs(x).unsqueeze(1)) - d[case]
        if self.mixed:
            below = below + torch.linalg.vecdot(A[case], x.unsqueeze(1))
        return below

    @cached_property
    def forms(self) -> Compiled:
        """The model with intervals inside found by affine forms, for large networks."""
        net = self.net.with_options(method=METHODS["ibp+dual"], forms=True)
        return net.admitted(self.found.inputs)

    def within(self, work: float) -> Compiled:
        """Return the model with intervals inside found by rows, as far as a budget for each box."""
        return self.net.with_options(budget=work).admitted(self.found.inputs)

    @property
    def slow(self) -> bool:
        """Whether the rows of all cases may take long."""
        work = self.found.program.most_work * len(self.cases)
        return work > LONG * pace(self.like.device)

    @cached_property
    def arithmetic(self) -> Compiled:
        """The model with intervals inside found by interval arithmetic alone."""
        return self.net.with_options(method=METHODS["ibp+dual"]).admitted(self.found.inputs)

    def bound(
        self,
        compiled: Compiled,
        lower: Tensor,
        upper: Tensor,
        known: Mapping[Value, Interval] | None = None,
    ) -> Bound:
        """Relax the network over boxes [B, n], within intervals that are known on them."""
        entry = self.found.graph.perturbed
        threat, x = self._around(lower, upper)
        env = {**self.found.env, entry: x}
        given: dict[Value | str, Interval] = {
            v: box for v, box in (known or {}).items() if v != entry
        }
        return compiled.program(env, threat, given=given, room=self.room)

    @cached_property
    def room(self) -> Mapping[Value, Tensor]:
        """What is left for rounding inside the network, where it is not charged."""
        if self.rounded:
            return {}
        lower, upper = (end.reshape(-1, *self.shape) for end in self.ends)
        return room_inside(self.found.program.plan, self.found.env, lower, upper)

    def _around(self, lower: Tensor, upper: Tensor) -> tuple[ThreatModel, Tensor]:
        """Return the sets of sub-problems, and the x [B, *] that these are around."""
        if self.around is not None:
            return self.around.copies(len(lower))
        box = Box(lower.reshape(-1, *self.shape), upper.reshape(-1, *self.shape))
        return box, box.lower

    def select(self, bound: Bound, index: Tensor) -> dict[Value, Interval]:
        """Return the intervals of a bound on some of its boxes."""
        pick = example_layout(bound.networks[0].batch, index)
        return {v: box.map(partial(pick, v)) for v, box in bound.boxes.items()}

    def specs(self, case: Tensor) -> dict[Value, Tensor]:
        """Return the rows of some cases [B], by the value they are about, [B or 1, S, *]."""
        A, C, _ = self.rows
        index = case[:1] if bool((case == case[0]).all()) else case
        entry, output = self.found.graph.perturbed, self.found.graph.output
        if entry == output:
            return {output: A[index] + C[index]}
        return {output: C[index], entry: A[index]} if self.mixed else {output: C[index]}

    def question(self, program: Polytope, network: Relaxation, case: Tensor) -> tuple[Array, Array]:
        """Return the rows of one case [1] as costs of a program, and their values at its center."""
        specs = {v: c[0] for v, c in self.specs(case).items()}
        costs, nominal = program.question(network, specs)
        return costs, nominal - self.rows[2][case][0].double().cpu().numpy()

    def lines(self, bound: Bound, case: Tensor) -> tuple[Lines, Tensor]:
        """Return linear functions below the rows of each box's case, and the blame of inputs."""
        lines, blame, size = lines_and_blame(bound.travelled, self.specs(case))
        off = self.rows[2][case]
        if self.rounded:
            return Lines(lines.A, down(lines.b - off)), blame
        return Lines(lines.A, lines.b - off - room(size.dtype) * (size + off.abs())), blame
