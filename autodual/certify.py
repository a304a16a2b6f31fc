"""``certify`` wraps a model; the wrapped model answers with guaranteed bounds."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from autodual.bound.budget import BUDGET, parse_budget
from autodual.bound.estimators import Estimator, Exact
from autodual.bound.memory import parse_memory
from autodual.bound.options import Options, Serving, Steps
from autodual.bound.plan import METHODS
from autodual.certified import Certified
from autodual.duals.given import UserRules, read_rules
from autodual.errors import InputError, ModelError
from autodual.front.capture import Output, unwrap
from autodual.inputs import Key, Keys
from autodual.ladder import Solver
from autodual.rounding import ROUNDINGS
from autodual.threat import Eps, ThreatModel, as_threat, keys
from autodual.wrapper import Wrapper

SLOPES = "equal", "free"
"""What the slopes of the two lines around a nonlinear op may be."""


def certify(
    model: nn.Module,
    eps: Eps,
    *,
    bounds: str | Solver = "ibp&dual",
    perturb: Key | None = None,
    output: Output = None,
    rules: UserRules | None = None,
    intervals: bool = False,
    estimator: Estimator | None = None,
    memory: int | str | None = None,
    choose: Mapping[str, Serving] | None = None,
    select: bool = True,
    compile: bool = False,
    slopes: str = "free",
    budget: float | None = BUDGET,
    optimize: int | Steps | None = None,
    rounding: str | None = None,
) -> Certified:
    """Wrap a model so that it answers with guaranteed bounds.

    The model is captured lazily, at the first call, and again for inputs of another shape, dtype
    or device, when one of its modules changes (training flag, attributes, class), and where its
    graph no longer gives what the model gives at x: every certificate has been compared.

    Args:
        model: any module. torch.compile, DDP and DataParallel wrappers are seen through.
        eps: a number or [N] tensor, read as ``LinfBall(eps)``, or a threat model. A mapping gives
            each of several perturbed arguments a set of its own, by position or name.
        bounds: the method for intermediate bounds, one of ``"ibp"``, ``"dual"``, ``"ibp+dual"``
            (interval arithmetic inside, one dual pass at the end) and ``"ibp&dual"`` (both,
            intersected); or a rung of the ladder, ``ad.IBP()``, ``ad.Dual()``,
            ``ad.Optimised(20)``, ``ad.LP()``, ``ad.MILP()``, as ``net.by`` takes it.
        perturb: which argument of the model is perturbed, by position or name; the first if not
            given.
        output: which of several outputs is bounded, by position or key, ``"logits"``, or by a
            tuple that leads to it, ``("heads", 1)``; None for a model that returns one tensor.
        rules: further dual layers, or others than the registry's, by the name of an ATen op
            (``"aten.asinh.default"``) or of one of a ``torch.library`` (``"mylib.op.default"``),
            by the class of a module or by a ``torch.autograd.Function``.
        intervals: allow ops of which only an interval is known, such as ``round`` and ``sort``:
            sound, but rows stop there, and so do gradients of steps.
        estimator: how sums over rows are found: ``Exact()``, the default; ``Cauchy(r)`` or
            ``Normal(r)``, estimates that train in linear time; ``Geometric(...)``, a certificate
            that holds with a given probability.
        memory: a budget for the bound, in bytes or as text like ``"2GiB"``; half of what is free
            at the first call if not given. Rows that do not fit are computed in chunks, batches
            in parts, and both anew in the backward pass: slower, with the same result.
        choose: how single nodes are bounded, by their names in ``explain`` or the names of their
            modules: ``"ibp"``, ``"backward"`` or ``"forward"`` (order), or an estimator. The
            planner chooses where this does not.
        select: give rows only to entries that interval arithmetic leaves open. To find them the
            host looks at data once per node; with ``select=False`` every entry gets rows and a
            training step on a GPU never waits for the host. (In training on a GPU the values of
            x and y are not checked.)
        compile: run the bound through torch.compile, for ℓ∞ and ℓ2 balls. Selects nothing, and
            takes seconds to minutes for each new shape: for long training with "ibp" or
            "ibp+dual".
        slopes: of the two lines around each nonlinear op. ``"free"``: each takes the best slope of
            a few for its side. ``"equal"``: the thesis's parallel lines; the dual layer is linear,
            and one row gives a lower and an upper bound. Estimators that project and forward order
            take parallel lines in any case.
        budget: the work that rows inside the network may take for each example with "ibp&dual":
            products, and 20 for every byte on its way. From the input on, each node whose open
            entries fit into what is left gets its rows, and elsewhere interval arithmetic
            serves: sound, looser, the same on every machine and in every batch; the certificate
            says where. None, or ``choose`` for single nodes, asks for all. Training has the same
            budget. (It is not counted with ``select=False``.)
        optimize: seek for every row the best planes around each nonlinear op (Theorem 1's maximum),
            in this many steps from those that are chosen without: never looser, at any step.
            ``Steps(last, inside)`` says it for the rows of the answer and, inside the network, for
            entries that are still open after one pass. Gradients reach the model at the planes
            that were found, held fixed.
        rounding: ``"outward"``: every number holds in real arithmetic, for the network with the
            floats that it stores, whatever the bound's own arithmetic rounds. ``"deployed"``: it
            holds for the values that the network computes itself in floats rounded to nearest, op
            by op as ``net.graph`` prints them, with softmax, log-sum-exp and norms by any formula
            in use (``front/passes/`` say by how much these differ), sums in any order, with or
            without fused multiply-add, with partial sums in any wider format, with subnormal
            numbers or not; not for convolutions by transforms or short formats, with elementary
            functions as close to the truth as their rules say (``errors``, 4 to 8 roundings).
            ``"bfloat16"``: the same for ``model.bfloat16()``, where ``model`` holds its numbers in
            float32: ops compute in float32 or wider, and round what they give. On the CPU, in
            float32 or float64, by exact sums, in one pass, by ``optimize=`` and by ``ad.LP()``. Ops
            whose errors no rule tells are refused. None: the bound's own rounding may make it wrong
            in its last digits.

    Raises:
        ModelError: the model is not a module, or is certified already.
        InputError: ε is negative or not finite; no such method; options that exclude each other.
    """
    if isinstance(unwrap(model), Wrapper):
        raise ModelError(
            "this model already has its bound. net.at(eps) takes another set; for other options "
            "certify the model itself, net.model."
        )
    rung, bounds = (bounds, "ibp&dual") if isinstance(bounds, Solver) else (None, bounds)
    if bounds not in METHODS:
        methods = "; ".join(f'"{name}": {method.text}' for name, method in METHODS.items())
        raise InputError(f"bounds={bounds!r} is no method. There are {methods}.")
    estimator = Exact() if estimator is None else estimator
    if not isinstance(estimator, Estimator):
        raise InputError(
            f"estimator={estimator!r} is none: give Exact(), Cauchy(r), Normal(r), Geometric(...) "
            "or an Estimator of your own"
        )
    if not 0 <= estimator.delta < 1:
        raise InputError(f"an estimator's delta is a chance in [0, 1), not {estimator.delta}")
    if not isinstance(estimator, Exact) and compile:
        raise InputError("compile=True is for exact sums: the noise would be compiled in")
    if not isinstance(estimator, Exact) and bounds == "ibp":
        raise InputError('bounds="ibp" sums nothing that could be estimated; leave estimator out')
    if optimize is not None and (compile or type(estimator) is not Exact or bounds == "ibp"):
        raise InputError(
            "optimize= is for exact sums over dual networks: leave compile= and estimator= out, "
            'and take other bounds= than "ibp"'
        )
    if rung is not None and (compile or type(estimator) is not Exact or optimize is not None):
        raise InputError(
            f"bounds={rung} is for exact sums, and says itself what steps are taken: leave "
            "compile=, estimator= and optimize= out"
        )
    if slopes not in SLOPES:
        raise InputError(f"slopes={slopes!r} is none of {', '.join(SLOPES)}")
    if rounding is not None:
        _check_rounding(rounding, estimator, compile, choose or {})
    threat = as_threat(eps)
    options = Options(
        method=METHODS[bounds],
        perturb=_perturbed(threat, perturb),
        output=output,
        rules=read_rules(rules),
        intervals=intervals,
        estimator=estimator,
        memory=parse_memory(memory),
        choose=choose or {},
        select=select and not compile,
        compile=compile,
        free=slopes == "free",
        budget=parse_budget(budget),
        optimize=_steps(optimize),
        rounding=rounding,
    )
    net = Certified(model, threat, options)
    return net if rung is None else net.by(rung)


def _check_rounding(
    rounding: str,
    estimator: Estimator,
    compile: bool,
    choose: Mapping[str, Serving],
) -> None:
    """Raise unless ``rounding`` is known, and the other options are such that it can be charged."""
    if rounding not in ROUNDINGS:
        kinds = "; ".join(f'"{name}": {text}' for name, text in ROUNDINGS.items())
        raise InputError(f"rounding={rounding!r} is none. There are {kinds}.")
    if type(estimator) is not Exact:
        raise InputError(f"rounding= is for exact sums, not for {estimator}: leave estimator= out")
    if compile:
        raise InputError(
            "rounding= is for operations one by one, which a compiler may write anew: leave "
            "compile= out"
        )
    other = {name: how for name, how in choose.items() if how not in ("ibp", "backward")}
    if other:
        raise InputError(
            f"rounding= charges rows that travel back, and no columns or estimates, {other}: give "
            'choose= "ibp" or "backward"'
        )


def _steps(optimize: int | Steps | None) -> Steps | None:
    """Return how many steps to take, None for none."""
    return optimize if optimize is None or isinstance(optimize, Steps) else Steps(optimize)


def _perturbed(threat: ThreatModel, perturb: Key | None) -> Keys:
    """Return which arguments are perturbed: those that the set names, if it does."""
    named = keys(threat)
    if named is None:
        return 0 if perturb is None else perturb
    if perturb is not None:
        raise InputError(f"the sets say what is perturbed, {threat}: leave perturb= out")
    return named


def certified_over(
    net: nn.Module, eps: Eps | None, call: str, bounds: str = "ibp&dual"
) -> Certified:
    """Return what ``certify`` returned, over another set if there is one, or certify a model.

    Args:
        net, eps: what the user gave.
        call: how a model would have been given, for what is said where ε is missing.
        bounds: for a model.

    Raises:
        InputError: it is a model, without a set.
    """
    if isinstance(net, Certified):
        return net if eps is None else net.at(eps)
    if eps is None:
        raise InputError(f"{call} needs eps; or pass certify(model, eps)")
    return certify(net, eps, bounds=bounds)
