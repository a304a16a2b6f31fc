"""A model that answers with guaranteed bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor, nn

from autodual.bound.compiled import CompiledBound
from autodual.bound.cost import Explanation, explain
from autodual.bound.estimate import Estimator, Geometric, Median
from autodual.bound.memory import default_memory
from autodual.bound.module import BoundModule, Choice
from autodual.bound.plan import Plan, Program, make_plan
from autodual.bound.relaxation import Relaxation
from autodual.certificate import Certificate, Estimate
from autodual.duals.given import Rules
from autodual.errors import InputError, ModelError, NotTracedError, UnsoundError
from autodual.front.arguments import as_inputs, check_labels, check_spec, check_tolerance, check_x
from autodual.front.capture import Inputs, Output, unwrap
from autodual.front.door import capture_once
from autodual.front.evaluate import run
from autodual.front.fidelity import check_fidelity
from autodual.front.ir import Graph, Value
from autodual.interval import Interval
from autodual.threat import Ball, ThreatModel, as_threat


@dataclass(frozen=True, eq=False)
class Options:
    """How a model is bounded; see ``certify``."""

    bounds: str
    perturb: int | str
    output: Output
    rules: Rules
    intervals: bool
    estimator: Estimator
    memory: int | None
    choose: Mapping[str, Choice]
    select: bool
    compile: bool
    slopes: str


class Certified(nn.Module):
    """A model with its bound. Made by ``certify``; shares the model's live parameters.

    Inputs ``x`` are one tensor [N, *], or ``Inputs(...)`` for models with several arguments.
    """

    def __init__(self, model: nn.Module, threat: ThreatModel, options: Options) -> None:
        super().__init__()
        self.model, self.threat, self.options = model, threat, options
        self.training = model.training
        self._bounds: dict[int, BoundModule] = {}
        self._compiled: dict[int, CompiledBound] = {}
        self._last: BoundModule | None = None

    def extra_repr(self) -> str:
        """Describe the set and the method."""
        return f"{self.threat}, bounds={self.options.bounds!r}"

    def at(self, eps: float | Tensor | ThreatModel) -> Certified:
        """Return the same bound over another set; a number keeps the kind of ball and domain."""
        if not isinstance(eps, ThreatModel):
            eps = self.threat.with_eps(eps) if isinstance(self.threat, Ball) else as_threat(eps)
        other = Certified(self.model, eps, self.options)
        other._bounds, other._compiled, other._last = self._bounds, self._compiled, self._last
        return other

    @torch.no_grad()
    def forward(self, x: Tensor | Inputs, y: Tensor | None = None) -> Certificate | Estimate:
        """Certify each example for its label y [N], or for the model's own prediction.

        Returns:
            A ``Certificate``; an ``Estimate`` if the graph has caveats (BatchNorm in training).

        Raises:
            InputError: x or y is not usable, see the message.
            CaptureError, UnsupportedOpError: the model cannot be bounded, and where.
        """
        bound, values, tensor = self._prepare(x)
        _classes(bound.plan.graph)
        if y is None:
            y = run(bound.plan.graph, bound.model, values).argmax(1)
        return self._answer(bound, self._margins(bound, values, tensor, y), y)

    @torch.no_grad()
    def within(
        self, x: Tensor | Inputs, tolerance: float | Tensor, y: Tensor | None = None
    ) -> Certificate | Estimate:
        """Certify that every output stays within ± ``tolerance`` of y, or of the model's at x.

        The margins [N, K] for an example's K outputs z are tolerance − max |z − y| over the set,
        or less.

        Args:
            x: the inputs.
            tolerance: a number, or a tensor that broadcasts to the output, in its units.
            y: what the output should be, shaped like it.

        Raises:
            InputError: ``tolerance`` or y does not fit, or is negative or NaN.
        """
        bound, values, tensor = self._prepare(x)
        output = bound.plan.graph.output
        nominal = run(bound.plan.graph, bound.model, values)
        y = nominal if y is None else y
        tolerance = check_tolerance(tolerance, y, nominal)
        box = bound(values, self.threat).interval(output)
        farthest = torch.maximum(box.upper - y, y - box.lower)
        margins = output.per_example(tolerance - farthest, len(tensor)).flatten(1)
        return self._answer(bound, margins, None)

    def _answer(
        self, bound: BoundModule, margins: Tensor, y: Tensor | None
    ) -> Certificate | Estimate:
        said = (margins, y, repr(self.threat), self.options.bounds)
        caveats = self._caveats(bound)
        if caveats:
            return Estimate(*said, caveats)
        estimator = self.options.estimator
        delta = estimator.delta if isinstance(estimator, Geometric) else 0.0
        delta *= len(self.threat.members)
        return Certificate(*said, delta)

    def margins(self, x: Tensor | Inputs, y: Tensor) -> Tensor:
        """Return lower bounds [N, K] on z_y − z_k, 0 at k = y. Differentiable.

        What the robust loss is made of. No guarantee while the graph has caveats; calling the
        net itself tells.
        """
        return self._margins(*self._prepare(x), y)

    def _margins(
        self, bound: BoundModule, values: Mapping[Value, Tensor], tensor: Tensor, y: Tensor
    ) -> Tensor:
        classes = _classes(bound.plan.graph)
        check_labels(y, tensor, classes, self._looks(tensor))
        unit = torch.eye(classes, dtype=tensor.dtype, device=tensor.device)
        rank = torch.arange(classes - 1, device=tensor.device)
        others = rank + (rank >= y.unsqueeze(1))
        spec = unit[y].unsqueeze(1) - unit[others]
        margins = self._lower(bound, values, spec)
        return margins.new_zeros(len(y), classes).scatter(1, others, margins)

    def lower_bound(self, x: Tensor | Inputs, C: Tensor) -> Tensor:
        """Return lower bounds [N, S] on C z over the set, for the model's output z.

        Args:
            x: the inputs.
            C: rows [S, *] or [N, S, *], with * the shape of one example's output.
        """
        bound, values, tensor = self._prepare(x)
        self._refuse_caveats(bound)
        output = bound.plan.graph.output
        return self._lower(bound, values, check_spec(C, tensor, output))

    def bounds(self, x: Tensor | Inputs) -> Interval:
        """Return bounds on every output, two tensors shaped like the model's output."""
        bound, values, _ = self._prepare(x)
        self._refuse_caveats(bound)
        output = bound.plan.graph.output
        boxes = [bound(values, member).interval(output) for member in self.threat.members]
        return reduce(Interval.hull, boxes)

    def relax(self, x: Tensor | Inputs, slopes: Mapping[Value, Tensor] | None = None) -> Relaxation:
        """Return the ingredients of the bound: intervals, lines, dual networks.

        ``slopes`` replaces the slope of any nonlinear op, by the value it computes; every
        choice is sound.

        Raises:
            InputError: the set is a union; relax the network over each of its members.
        """
        threat = self._convex()
        bound, values, _ = self._prepare(x)
        return bound(values, threat, slopes)

    @torch.no_grad()
    def radius(self, x: Tensor | Inputs, y: Tensor | None = None, steps: int = 20) -> Tensor:
        """Return the largest ε [N] that this bound certifies, by bisection; 0 where none.

        Every ε returned was itself certified, so the result is sound whatever ``steps``.

        Raises:
            InputError: the set has no radius (``Box``).
            UnsoundError: the bound certifies nothing (BatchNorm in training mode).
        """
        bound, values, tensor = self._prepare(x)
        if isinstance(self.options.estimator, Geometric):
            raise InputError("radius tries many ε; a δ for each does not add up. Use Exact().")
        if not isinstance(self.threat, Ball):
            raise InputError(f"{self.threat} has no radius; certify with a ball instead")
        _classes(bound.plan.graph)
        if y is None:
            y = run(bound.plan.graph, bound.model, values).argmax(1)
        least = torch.zeros(len(tensor), dtype=tensor.dtype, device=tensor.device)
        most = torch.full_like(least, float(torch.as_tensor(self.threat.eps).max()) or 1e-3)
        for _ in range(steps):
            grew = self._verified(x, y, most)
            least = torch.where(grew, most, least)
            if not bool(grew.any()) or float(most.max()) > 1e6:
                break
            most = torch.where(grew, 2 * most, most)
        for _ in range(steps):
            middle = (least + most) / 2
            holds = self._verified(x, y, middle)
            least, most = torch.where(holds, middle, least), torch.where(holds, most, middle)
        return least

    def detect(self, x: Tensor | Inputs) -> Tensor:
        """Return [N] bool: the whole set around x has one class (thesis, Corollary 2).

        Where it is true, no adversarial example within ε can look like this input. The set is that
        of all inputs that could have been moved to x, which is x's own only for balls: mass that
        can move one way alone, say, came the other way.

        Raises:
            InputError: the set does not say where a point came from (``Box``).
        """
        return self.at(self.threat.reversed())._certify(x).verified

    def explain(self, x: Tensor | Inputs, measure: bool = False) -> Explanation:
        """Bound every output once and return what was done, node by node.

        Per node: op, source line, dual layer, how its interval was found, the form of its rows
        and how many over the batch, MFLOP, MB and the time these predict.

        Args:
            x: the inputs.
            measure: add the time each node took in a second run, as measured.
        """
        threat = self._convex()
        bound, values, tensor = self._prepare(x)
        record = bound.run(values, threat)
        if measure:
            record = bound.run(values, threat)
        device = tensor.device.type
        return explain(bound.plan, record, threat, len(tensor), device, measure)

    @property
    def plan(self) -> Plan:
        """The plan for the last kind of input seen."""
        if self._last is None:
            raise NotTracedError(
                "the model is captured at the first call, when the input's shape is known. "
                "Call net(x) or net.explain(x) first."
            )
        return self._last.plan

    @property
    def graph(self) -> Graph:
        """The captured graph for the last kind of input seen; print it."""
        return self.plan.graph

    @property
    def program(self) -> Program:
        """The dual network for the last kind of input seen; print it."""
        return self.plan.program

    def _verified(self, x: Tensor | Inputs, y: Tensor, eps: Tensor) -> Tensor:
        return self.at(eps)._certify(x, y).verified

    def _looks(self, x: Tensor) -> bool:
        """Return whether the host may look at values: not where a GPU should train unhindered."""
        return not x.is_cuda or not torch.is_grad_enabled()

    def _convex(self) -> ThreatModel:
        """Return the set, if it is one and not a union."""
        if len(self.threat.members) > 1:
            raise InputError(
                f"{self.threat} is bounded member by member: take one at a time, "
                "net.at(net.threat.members[0])"
            )
        return self.threat.members[0]

    def _lower(self, bound: BoundModule, values: Mapping[Value, Tensor], spec: Tensor) -> Tensor:
        """Return lower bounds on C z over every member of the set."""
        lower = bound.lower
        if self.options.compile:
            lower = self._compiled.setdefault(id(bound), CompiledBound(bound)).lower
        return reduce(torch.minimum, (lower(values, m, spec) for m in self.threat.members))

    def _certify(self, x: Tensor | Inputs, y: Tensor | None = None) -> Certificate:
        result = self(x, y)
        if isinstance(result, Estimate):
            raise _unsound(result.caveats)
        return result

    def _caveats(self, bound: BoundModule) -> tuple[str, ...]:
        """Return why the bound guarantees nothing, if it does not."""
        medians = [e for e in bound.estimators if isinstance(e, Median)]
        estimated = tuple(f"sums are estimated by {e}" for e in medians)
        return bound.plan.graph.caveats + estimated

    def _refuse_caveats(self, bound: BoundModule) -> None:
        caveats = self._caveats(bound)
        if caveats:
            raise _unsound(caveats)

    def _prepare(self, x: Tensor | Inputs) -> tuple[BoundModule, dict[Value, Tensor], Tensor]:
        """Check x, capture the model if this kind of input is new, and bind its tensors."""
        model = unwrap(self.model)
        inputs = as_inputs(x)
        tensor = check_x(inputs.get(self.options.perturb), model, self._looks)
        if self._looks(tensor):
            self.threat.check(tensor)
        options = self.options
        captured = capture_once(model, inputs, options.perturb, options.output, options.rules.kinds)
        bound = self._bounds.get(id(captured))
        if bound is None:
            registry = options.rules.registry
            plan = make_plan(captured.graph, registry, options.bounds, options.intervals)
            check_fidelity(captured, model, inputs)
            memory = options.memory or default_memory(tensor.device)
            how = (
                options.estimator,
                memory,
                options.choose,
                options.select,
                options.slopes == "free",
            )
            bound = BoundModule(plan, model, *how)
            self._bounds[id(captured)] = bound
        self._last = bound
        return bound, captured.bind(inputs), tensor


def _classes(graph: Graph) -> int:
    shape = graph.output.shape
    if len(shape) != 2 or graph.output.batch_dim != 0 or not isinstance(shape[1], int):
        raise ModelError(
            f"margins need logits [N, K]; the model returns {graph.output.type}. "
            "For other outputs there are net.within(x, tolerance), net.lower_bound(x, C) and "
            "net.bounds(x)."
        )
    if shape[1] < 2:
        raise ModelError(
            "margins need at least two classes; the model returns one output. For a regression "
            "there is net.within(x, tolerance)."
        )
    return shape[1]


def _unsound(caveats: tuple[str, ...]) -> UnsoundError:
    return UnsoundError(f"no guarantee can be given: {'; '.join(caveats)}")
