"""A model that answers with guaranteed bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor, fx, nn

from autodual.answers import answered
from autodual.bound.budget import taking_notes
from autodual.bound.cost import Explanation, explain
from autodual.bound.emit import emit, quickest
from autodual.bound.estimators import Exact
from autodual.bound.forecast import pace
from autodual.bound.fused import log_likelihood
from autodual.bound.module import BoundModule
from autodual.bound.once import once
from autodual.bound.options import Options
from autodual.bound.outward import check_rounded
from autodual.bound.plan import FUSED, METHODS, Plan, Program, make_plan
from autodual.bound.reading import Bound
from autodual.calls import check_count
from autodual.certificate import Certificate, Estimate, guaranteed, unsound
from autodual.duals import Choice
from autodual.eager import eager
from autodual.errors import (
    InputError,
    ModelError,
    NotTracedError,
)
from autodual.front.arguments import check_classes, check_spec, check_tolerance
from autodual.front.capture import check_seen
from autodual.front.door import Admitted, Question, admit
from autodual.front.ir import Graph, Value
from autodual.front.passes.pairwise import pairwise
from autodual.inputs import Inputs
from autodual.interrupts import finish
from autodual.interval import Interval
from autodual.labels import NONE, Labels
from autodual.ladder import IBP, LP, Dual, Optimised, Solver
from autodual.ladder.radius import Radii, attacked, radius
from autodual.proof import Origin
from autodual.properties import HalfSpaces, Property
from autodual.rounding import ROUNDINGS, at_most, check_device, check_short, down, up
from autodual.threat import Ball, Eps, ThreatModel, as_threat, keys
from autodual.wrapper import Wrapper

if TYPE_CHECKING:
    from autodual.ladder import Prepared, Solution
    from autodual.ladder.exact import Verdicts

Compiled = Admitted[BoundModule]
"""A model and its inputs, with the bound that was compiled for them."""


class Certified(Wrapper):
    """A model with its bound. Made by ``certify``; shares the model's live parameters.

    Inputs ``x`` are one tensor [N, *], or ``Inputs(...)`` for models with several arguments.
    """

    def __init__(
        self,
        model: nn.Module,
        threat: ThreatModel,
        options: Options,
        last_by: Solver | None = None,
    ) -> None:
        super().__init__()
        self.model, self.threat, self.options = model, threat, options
        self.training, self.last_by = model.training, last_by
        self._last: BoundModule | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_last": None}

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        """What DDP asks a module before it wraps it."""
        raise ModelError(
            "a certified net gives certificates, which have no gradients for "
            "DistributedDataParallel to average. Wrap the loss, "
            "DistributedDataParallel(ad.RobustLoss(net)); to certify, call net itself."
        )

    def extra_repr(self) -> str:
        """Describe the set, the method and how sums are found."""
        estimator = self.options.estimator
        how = "" if type(estimator) is Exact else f", estimator={estimator}"
        steps = "" if self.options.optimize is None else f", optimize={self.options.optimize}"
        last = "" if self.last_by is None else f", last rows by {self.last_by}"
        rounding = self.options.rounding
        how += "" if rounding is None else f", rounding={rounding!r}"
        return f"{self.threat!r}, bounds={self.options.method.name!r}{how}{steps}{last}"

    def at(self, eps: Eps) -> Certified:
        """Return the same bound over another set; a number keeps the kind of ball and domain.

        Raises:
            InputError: the set is one for other arguments.
        """
        if isinstance(self.threat, Ball) and not isinstance(eps, ThreatModel | Mapping):
            threat: ThreatModel = self.threat.with_eps(eps)
        else:
            threat = as_threat(eps)
        if keys(threat) != keys(self.threat):
            raise InputError(
                f"{threat} is no set for what {self.threat} is one for: certify the model anew, or "
                "give a mapping with the same arguments"
            )
        other = Certified(self.model, threat, self.options, self.last_by)
        other._last = self._last
        return other

    @eager
    @torch.no_grad()
    def forward(self, x: Tensor | Inputs, y: Labels | None = None) -> Certificate | Estimate:
        """Certify each example for its label y [N], or for the model's own prediction.

        As in ``cross_entropy``, logits [N, K, *] take labels [N, *] for every pixel, −100 for none.
        One logit [N] or [N, 1] decides between 0 and 1 at a threshold of 0.

        Returns:
            A ``Certificate``; an ``Estimate`` if the graph has caveats (BatchNorm in training).

        Raises:
            InputError: x or y is not usable, see the message.
            CaptureError, UnsupportedOpError: the model cannot be bounded, and where.
            Interrupted: Ctrl-C; ``partial`` is the result where examples are finished, and says
                nothing of others: margins and bounds of −∞, ``verified`` False, a radius of 0. So
                it is for all that the net is asked. (Before the first examples are finished it is
                a plain KeyboardInterrupt.)
        """
        found = self.admitted(x)
        labels = self.labels(found, y)
        result = answered(
            self,
            found,
            lambda: self.margins_of(found, labels, self.around(found), goal=0),
            lambda m: m,
            labels,
        )
        if isinstance(result, Estimate):
            return result
        free = self.options.free
        return result.of(Origin(found.graph, found.env, found.x, labels, self.around(found), free))

    @eager
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
            Interrupted: Ctrl-C; as for the net itself.
        """
        found = self.admitted(x)
        output, nominal = found.graph.output, found.output()
        y = nominal if y is None else y
        allowed = check_tolerance(tolerance, y, nominal)
        if self.options.rounding is not None:
            allowed = torch.minimum(allowed, at_most(tolerance, nominal))

        def left(box: Interval) -> Tensor:
            farthest = torch.maximum(box.upper - y, y - box.lower)
            margins = allowed - farthest
            if self.options.rounding is not None:
                margins = down(allowed - up(farthest))
            return output.per_example(margins, len(found.x)).flatten(1)

        around = self.around(found)
        return answered(self, found, lambda: self._interval(found, around), left, None)

    @eager
    @torch.no_grad()
    def holds(
        self, x: Tensor | Inputs, property: Property, steps: int = 20
    ) -> Certificate | Estimate:
        """Certify a property of the output: linear inequalities, joined by and and or.

        The margins [N, clauses] are lower bounds on the largest C z − d of each clause over the
        set: those of its rows and of convex combinations of them.

        Args:
            x: the inputs.
            property: ``AtLeastOne``, ``All``, and what ``&`` and ``|`` make of them.
            steps: how many steps to seek the best combination where none is verified yet.

        Raises:
            InputError: C does not fit the output.
            Interrupted: Ctrl-C; as for the net itself.
        """
        if not isinstance(property, Property):
            raise InputError(
                f"a property is made of AtLeastOne(C, d) and All(C, d), not {property!r}"
            )
        steps, found = check_count("steps", steps, 0), self.admitted(x)

        clauses = []
        for clause in property.clauses:
            C = check_spec(clause.C.to(found.x), found.x, found.graph.output)[0]
            clauses.append(torch.cat([C, clause.d.to(found.x).unsqueeze(1)], 1))
            if self.options.rounding is not None:
                _check_held(clause, found.x.dtype)

        def bound() -> Tensor:
            around = self.around(found)
            best = found.program.at_least_one(found.env, around, clauses, steps)
            if self.last_by is None:
                return best
            rows = [self._lower(found, c[None, :, :-1], around) - c[:, -1] for c in clauses]
            return torch.maximum(best, torch.stack([r.amax(1) for r in rows], 1))

        return answered(self, found, bound, lambda m: m, None, looks=len(clauses))

    @eager
    def margins(self, x: Tensor | Inputs, y: Labels) -> Tensor:
        """Return lower bounds [N, K, *] on z_y − z_k, 0 at k = y or without y. Differentiable.

        What the robust loss is made of. No guarantee while the graph has caveats; calling the
        net itself tells.
        """
        return finish(lambda: self.worst(x, y), lambda worst: -worst[0])

    @eager
    def worst(self, x: Tensor | Inputs, y: Labels) -> tuple[Tensor, Tensor]:
        """Return the worst logits [N, K, *] that the bound leaves, less z_y, and the labels [N, *].

        Differentiable, and no more of a guarantee than ``margins``.

        Raises:
            InputError: programs answer for the net, which have no gradients.
        """
        if self.last_by is not None:
            raise InputError(f"{self.last_by} gives no gradients: train with Dual() or Optimised()")
        found = self.admitted(x, confirm=False)
        labels = self.labels(found, y)
        return finish(
            lambda: self.margins_of(found, labels, self.around(found)),
            lambda margins: (-margins, labels),
        )

    @eager
    def least_likely(self, x: Tensor | Inputs, y: Labels) -> tuple[Tensor, Tensor]:
        """Return lower bounds [N] on log softmax(z)_y by one row each, and the labels [N].

        What a fused loss is made of; see ``robust_loss``. Differentiable.

        Raises:
            InputError: intervals are not found by interval arithmetic, or there is no dual network;
                an example has several labels.
        """
        self._check_plain("a fused loss proves nothing: train without it, and certify with it")
        method = {"ibp+dual": FUSED, "ibp&dual": METHODS["ibp&dual"]}.get(self.method)
        if method is None or type(self.options.estimator) is not Exact or self.options.optimize:
            raise InputError(
                'a fused loss is for certify(bounds="ibp+dual") or "ibp&dual", with exact sums and '
                "without optimize="
            )
        net = self.with_options(method=method)
        found = net.admitted(x, confirm=False)
        self._last, labels = net._last, net.labels(found, y)
        if labels.dim() > 1:
            raise InputError("a fused loss is for one label for each example; leave fused= out")
        threat = net.around(found)
        through = quickest(found.program, found.x, threat)
        return finish(
            lambda: once(through.ask(found.env, threat, labels.clamp(min=0), log_likelihood)),
            lambda least: (least, labels),
        )

    def labels(self, found: Compiled, y: Labels | None) -> Tensor:
        """Return labels as a tensor that fits, or the model's own predictions."""
        classes = check_classes(found.graph.output)
        if y is None:
            return classes.predict(found.output())
        return classes.read(y, len(found.x), found.x.device, self._looks(found.x))

    def margins_of(
        self, found: Compiled, labels: Tensor, threat: ThreatModel, goal: float = math.inf
    ) -> Tensor:
        """Return lower bounds [N, K, *] on z_y − z_k; those above a goal may be looser than could.

        Args:
            found: the batch, let in.
            labels: as ``labels`` returns them.
            threat: the set around it.
            goal: at which a bound is good enough.
        """
        classes = check_classes(found.graph.output)
        y, unlabelled = labels.clamp(min=0), (labels == NONE).unsqueeze(1)
        if classes.cells and self.last_by is not None:
            raise InputError(
                f"{self.last_by} answers for one label for each example; many are bounded by "
                "Dual() and Optimised(), and lower_bound takes any rows"
            )
        if classes.cells:
            return finish(
                lambda: once(found.program.margins(found.env, threat, y)),
                lambda margins: margins.masked_fill(unlabelled, 0),
            )
        spec, others = classes.against(y, found.x)

        def whole(bound: Tensor) -> Tensor:
            margins = bound.new_zeros(len(y), classes.count).scatter(1, others, bound)
            return margins.masked_fill(unlabelled, 0)

        return finish(lambda: self._lower(found, spec, threat, goal), whole)

    @eager
    def lower_bound(self, x: Tensor | Inputs, C: Tensor) -> Tensor:
        """Return lower bounds [N, S] on C z over the set, for the model's output z.

        Args:
            x: the inputs.
            C: rows [S, *] or [N, S, *], with * the shape of one example's output.

        Raises:
            InputError: C does not fit the output.
            UnsoundError: the bound guarantees nothing.
            Interrupted: Ctrl-C; as for the net itself.
        """
        found = self.admitted(x, sound=True)
        spec = check_spec(C, found.x, found.graph.output)
        with taking_notes() as notes:
            bound = finish(lambda: self._lower(found, spec, self.around(found)), found.known)
        notes.warn()
        return bound

    @property
    def solver(self) -> Solver:
        """The rung of the ladder that answers, see ``by``."""
        steps, method = self.options.optimize, self.options.method
        if self.last_by is not None:
            return self.last_by
        if "dual" not in method.last:
            return IBP()
        return Dual(method.name) if steps is None else Optimised(steps.last, steps.inside)

    @property
    def method(self) -> str:
        """What certificates call the method."""
        return self.options.method.name if self.last_by is None else str(self.last_by)

    def by(self, solver: Solver) -> Certified:
        """Return the same model and set, answered by another rung of the ladder.

        Args:
            solver: ``ad.IBP()``, ``ad.Dual()``, ``ad.Optimised(steps)``, ``ad.LP()``, ``ad.MILP()``
                or one of your own.
        """
        if not isinstance(solver, Solver):
            raise InputError(f"{solver!r} is no solver: give IBP(), Dual(), Optimised(), LP(), …")
        self._check_sums()
        if self.options.rounding is not None and not solver.rounded:
            raise InputError(
                f"{solver} knows nothing of rounding={self.options.rounding!r}: {solver.unrounded} "
                "Take IBP(), Dual(), Optimised() or LP(), or certify the model without it."
            )
        return solver.of(self)

    @eager
    @torch.no_grad()
    def prepare(self, x: Tensor | Inputs) -> Prepared:
        """Relax the network around x once, for many questions to the net's solver.

        ``net.prepare(x).solve(C)`` is ``net.solve(x, C)``; ``.init(C)`` is a question that is
        worked on step by step. What is prepared is of the parameters as they are now, of which it
        keeps a copy.

        Raises:
            InputError: the solver does not take the set, or an op; it is named.
            UnsoundError: the bound guarantees nothing.
        """
        self._check_sums()
        found = self.admitted(x, sound=True)
        env = {v: t.detach().clone() for v, t in found.env.items()}
        found = replace(found, env=env, x=env[found.graph.perturbed])
        return self.solver.prepare(self, found, self.around(found))

    def _check_plain(self, why: str) -> None:
        """Raise if bounds are to hold whatever is rounded, and say why they would not."""
        if self.options.rounding is not None:
            raise InputError(f"rounding={self.options.rounding!r}: {why}")

    def _check_sums(self) -> None:
        """Raise unless sums are exact, as all solvers take them."""
        if type(self.options.estimator) is not Exact:
            raise InputError("solvers are for exact sums: leave estimator= out")

    @eager
    def solve(
        self,
        x: Tensor | Inputs,
        C: Tensor,
        goal: float = math.inf,
        time_limit: float = math.inf,
    ) -> Solution:
        """Return lower bounds [N, S] on C z, as good as the net's solver finds, and what they took.

        Whatever stops it, the best bounds so far come back.

        Args:
            x, C: as for ``lower_bound``.
            goal: rows that exceed it are good enough.
            time_limit: in seconds, for all.

        Raises:
            InputError: C does not fit the output; what the solver does not take.
            Interrupted: Ctrl-C; ``partial`` is the solution so far.
        """
        return self.prepare(x).solve(C, goal, time_limit)

    @eager
    def lp(self, x: Tensor | Inputs, C: Tensor) -> Tensor:
        """Return lower bounds [N, S] on C z by linear programs over the relaxed network.

        The minimum over the convex outer polytope (thesis, 3.1.1): every plane that the rules know
        around each nonlinear op is a constraint. For ReLU, LeakyReLU and abs these are the convex
        hull of each unit; for other functions of pieces the lines through any two vertices; for
        smooth ones tangents at both ends and in the middle, and the chord; for maxima each argument
        below, and above the largest upper end and the plane of shared slopes; for products
        McCormick's four. Intervals are this net's own, and tighter with ``optimize=``. The value is
        proved by the dual point that HiGHS finds, not read off its solution. With ``rounding=`` it
        is evaluated as optimised planes are, by those planes that the dual point has weight on.

        Args:
            x, C: as for ``lower_bound``.

        Raises:
            InputError: the set is neither a box, an ℓ1, ℓ2 or Wasserstein ball (with or without a
                domain), one that answers ``polyhedron``, nor a union of such; the method has no
                dual network.
        """
        if "dual" not in self.options.method.last:
            raise InputError(f"bounds={self.options.method.name!r} has no network to program")
        return self.by(LP(inside=None)).solve(x, C).lower

    @eager
    @torch.no_grad()
    def exact(
        self,
        x: Tensor | Inputs,
        y: Labels | None = None,
        time_limit: float = 60.0,
        told: Callable[[int, str], None] | None = None,
    ) -> Verdicts:
        """Decide for each example whether a point of the set is given another class than y.

        Bounds verify what they can, then with optimised planes; attacks falsify what they can; for
        each example that is left mixed-integer programs are asked, by HiGHS, one for each class
        that is open, as many at a time as the machine has cores. Intervals are this net's own,
        optimised. What is falsified the model itself confirms.

        Args:
            x, y: as for the net itself, with one label for each example.
            time_limit: seconds for the programs of one example.
            told: called with each example's number and what became of it, as that is known.

        Raises:
            InputError: an op that is neither affine, nor made of pieces, nor a maximum; it is
                named. The set is none that ``lp`` takes.
            Interrupted: Ctrl-C; ``partial`` is the verdict so far.
        """
        self._check_plain(
            "mixed-integer programs are solved to tolerances, and give no proof that could be "
            "evaluated anew; ad.verify(..., rounding=) decides by one that is"
        )
        from autodual.ladder.exact import exact  # scipy.optimize takes a while to import

        return exact(self, x, y, time_limit, told)

    @eager
    def bounds(self, x: Tensor | Inputs) -> Interval:
        """Return bounds on every output, two tensors shaped like the model's output.

        Raises:
            UnsoundError: the bound guarantees nothing.
            Interrupted: Ctrl-C; as for the net itself.
        """
        found = self.admitted(x, sound=True)
        output, lost = found.graph.output, found.undefined()

        def known(box: Interval) -> Interval:
            if lost is None:
                return box
            nowhere = output.spread(lost)
            lower = box.lower.masked_fill(nowhere, -torch.inf)
            return Interval(lower, box.upper.masked_fill(nowhere, torch.inf))

        with taking_notes() as notes:
            box = finish(lambda: self._interval(found, self.around(found)), known)
        notes.warn()
        return box

    @eager
    def relax(
        self,
        x: Tensor | Inputs,
        slopes: Mapping[Value | str, Choice] | None = None,
        given: Mapping[Value | str, Interval] | None = None,
    ) -> Bound:
        """Return the ingredients of the bound: intervals, and the relaxed networks layer by layer.

        Args:
            x: the inputs.
            slopes: slopes in place of the rule's own, by the value that a nonlinear op computes or
                its name: a tensor for both lines, a tuple with one for each of several arguments,
                or ``Sides(lower, upper)``. Every choice is sound.
            given: intervals that are known from elsewhere, by the value that a nonlinear op reads;
                intersected with the bound's own before the op is relaxed. The bound then holds
                for those points of the set whose values lie in them.

        Raises:
            InputError: the set is a union; relax the network over each of its members. Slopes or
                intervals for a value that has no use for them.
        """
        found = self.admitted(x)
        return found.program(found.env, self._convex(found), slopes, given)

    @eager
    @torch.no_grad()
    def emit(self, x: Tensor | Inputs, C: Tensor | None = None) -> fx.GraphModule:
        """Return the bound for inputs of this shape as one straight line of tensor operations.

        A ``torch.fx.GraphModule`` over the model's own parameters: (inputs…, ε [N], C) ↦ lower
        bounds [N, S] on C z. Print it, differentiate it, compile it, export it. Rows are given
        to every entry, as with ``select=False``.

        Args:
            x: the inputs; the module is for their shapes.
            C: rows [S, *] or [N, S, *] for their shape; every output in turn if not given.

        Raises:
            InputError: the set is neither an ℓ∞ nor an ℓ2 ball; optimize= was asked for.
            UnsoundError: the bound guarantees nothing.
        """
        self._check_plain(
            "an emitted bound is one formula, without what rounding may add: certify without it"
        )
        if self.options.optimize is not None or self.last_by is not None:
            raise InputError("emit writes bounds without steps: certify without optimize=")
        whole = self.with_options(select=False)
        found = whole.admitted(x, sound=True)
        output = found.graph.output
        if C is None:
            eye = torch.eye(output.numel, dtype=found.x.dtype, device=found.x.device)
            C = eye.reshape(-1, *(output.size(1)[1:] if output.batch_dim == 0 else output.size(1)))
        spec = check_spec(C, found.x, output)
        return emit(found.program, found.model, found.env, self._convex(found), spec)

    @overload
    def radius(
        self,
        x: Tensor | Inputs,
        y: Labels | None = None,
        steps: int = 20,
        attack: Literal[False] = False,
    ) -> Tensor: ...

    @overload
    def radius(
        self, x: Tensor | Inputs, y: Labels | None = None, steps: int = 20, *, attack: Literal[True]
    ) -> Radii: ...

    @eager
    @torch.no_grad()
    def radius(
        self, x: Tensor | Inputs, y: Labels | None = None, steps: int = 20, attack: bool = False
    ) -> Tensor | Radii:
        """Return the largest ε [N] that this bound certifies; 0 where none.

        Of an example with many labels it certifies all there are; without any it is ∞. Every ε
        returned was itself certified, so the result is sound whatever ``steps``. (Thesis, equation
        3.29; see ``ladder/radius.py`` for the steps.)

        Args:
            x, y: as for the net itself.
            steps: ε is found to 2^-steps of its size.
            attack: return ``Radii``, with the smallest ε at which an attack fools the model, too
                (``ad.attack.minimum_norm``).

        Raises:
            InputError: the set has no radius (``Box``); ``steps`` is no whole number above 0; with
                ``attack``, the set is no ball of a norm.
            UnsoundError: the bound certifies nothing (BatchNorm in training mode).
            Interrupted: Ctrl-C; ``partial`` [N] holds the largest ε certified until then.
        """
        found = radius(self, x, y, steps)
        return attacked(self, x, y, found) if attack else found

    @eager
    def detect(self, x: Tensor | Inputs) -> Tensor:
        """Return [N, *] bool: the whole set around x has one class (thesis, Corollary 2).

        Where it is true, no adversarial example within ε can look like this input. The set is that
        of all inputs that could have been moved to x, which is x's own only for balls: mass that
        can move one way alone, say, came the other way.

        Raises:
            InputError: the set does not say where a point came from (``Box``).
            UnsoundError: the bound guarantees nothing.
            Interrupted: Ctrl-C; as for the net itself.
        """
        origins = self.at(self.threat.reversed())
        return finish(lambda: origins(x), lambda result: guaranteed(result).verified)

    @eager
    def explain(self, x: Tensor | Inputs, measure: bool = False) -> Explanation:
        """Say what bounds on every output will take, node by node, without computing them.

        Per node: op, source line, dual layer, how its interval is found, the form of its rows
        and how many over the batch, MFLOP, MB and the time these predict on this machine. Interval
        arithmetic says which entries need rows: these are the most that are asked for.

        Args:
            x: the inputs.
            measure: compute the bounds, twice, and tell what was done and how long each node took.
        """
        found = self.admitted(x)
        threat, program = self._convex(found), found.program
        rounding = self.options.rounding
        record = program.run(found.env, threat) if measure else program.forecast(found.env, threat)
        if measure:
            record = program.run(found.env, threat)
        speed = pace(found.x.device)
        told = explain(program.plan, record, threat, len(found.x), speed, measure)
        if rounding is not None:
            said = f"rounding={rounding!r}: {ROUNDINGS[rounding]}"
            return replace(told, title=f"{told.title}\n{said}")
        steps = self.options.optimize
        if steps is None or measure:
            return told
        said = f"for one pass; each of the {steps} takes about three, of the rows still open then"
        return replace(told, title=f"{told.title}\n{said}")

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

    def _looks(self, x: Tensor) -> bool:
        """Return whether the host may look at values: not where a GPU should train unhindered."""
        return not x.is_cuda or not torch.is_grad_enabled()

    def around(self, found: Compiled) -> ThreatModel:
        """Return the set around the arguments at hand."""
        return self.threat.around(found.shapes)

    def _convex(self, found: Compiled) -> ThreatModel:
        """Return the set, if it is one and not a union."""
        if len(self.threat.members) > 1:
            raise InputError(
                f"{self.threat} is bounded member by member: take one at a time, "
                "net.at(net.threat.members[0])"
            )
        return self.around(found)

    def _interval(self, found: Compiled, threat: ThreatModel) -> Interval:
        """Return bounds on every entry of the output, in the model's layout."""
        if self.last_by is None:
            return found.program.interval(found.env, threat)
        output = found.graph.output
        eye = torch.eye(output.numel, dtype=found.x.dtype, device=found.x.device)
        both = torch.cat([eye, -eye])

        def ends(low: Tensor) -> Interval:
            shaped = low.reshape(len(low), 2, *output.size(1))
            return Interval(output.in_layout(shaped[:, 0]), output.in_layout(-shaped[:, 1]))

        return finish(lambda: self._lower(found, both.unsqueeze(0), threat), ends)

    def _lower(
        self, found: Compiled, spec: Tensor, threat: ThreatModel, goal: float = math.inf
    ) -> Tensor:
        """Return lower bounds on C z over every member of the set, by the net's solver."""
        steps = self.options.optimize is not None and not torch.is_grad_enabled()
        if self.last_by is not None or steps:
            ready = self.solver.prepare(self, found, threat)
            return finish(
                lambda: ready.run(ready.begin(spec, goal)), lambda solution: solution.lower
            )
        through = quickest(found.program, found.x, threat)
        return once(through.lower(found.env, threat, spec))

    def with_options(self, **changes: Any) -> Certified:
        """Return the same model and set with other options, those of ``Options``."""
        options = replace(self.options, **changes)
        return Certified(self.model, self.threat, options, self.last_by)

    def by_last(self, solver: Solver | None) -> Certified:
        """Return the same net with rows of its answers bounded by a solver, or by its own pass."""
        return Certified(self.model, self.threat, self.options, solver)

    def part(
        self, found: Compiled, index: Tensor, around: ThreatModel | None = None
    ) -> tuple[Compiled, ThreatModel]:
        """Return the examples at ``index`` of what was admitted, and the sets around them."""
        around = self.around(found) if around is None else around
        env = found.program.select(found.env, index)
        some = replace(found, x=found.x[index], env=env, nominal=None)
        return some, around.select(found.x, index)

    def admitted(self, x: Tensor | Inputs, confirm: bool = True, sound: bool = False) -> Compiled:
        """Let the model and x in, with their bound; refuse one with caveats if it must be sound."""
        if torch.is_grad_enabled():
            check_seen(self.model)
        options = self.options
        question = Question(options.perturb, options.output, options.rules.kinds)

        def make(graph: Graph) -> BoundModule:
            registry, graph = options.rules.registry, pairwise(graph) if options.pairs else graph
            plan = make_plan(graph, registry, options.method, options.intervals, options.rounding)
            check_rounded(plan)
            return BoundModule(plan, options, graph.device)

        found = admit(
            self.model, x, question, make, options.key, confirm=confirm, looks=self._looks
        )
        if options.rounding is not None:
            check_device(found.x)
        if options.rounding == "bfloat16":
            check_short(found.x, (found.env[v] for v in found.graph.constants))
        threat = self.around(found)
        threat.check_shape(found.x)
        if self._looks(found.x):
            threat.check(found.x)
        self._last = found.program
        if sound and found.program.caveats:
            raise unsound(found.program.caveats)
        return found


def _check_held(clause: HalfSpaces, dtype: torch.dtype) -> None:
    """Raise unless a dtype holds all numbers of a clause exactly."""
    if any(bool((t.to(dtype).double() != t.double()).any()) for t in (clause.C, clause.d)):
        raise InputError(
            f"rounding= is for a property whose numbers {dtype} holds exactly: give C and d in the "
            "dtype of x"
        )
