"""All that ``certify`` is told, as one object."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from autodual.bound.budget import BUDGET
from autodual.bound.estimators import Estimator, Exact
from autodual.bound.plan import METHODS, Method
from autodual.duals.given import Rules, read_rules
from autodual.errors import InputError
from autodual.front.capture import Output
from autodual.inputs import Keys

Serving = str | Estimator
"""How a node is bounded: "ibp", "backward", "forward", or an estimator."""


@dataclass(frozen=True)
class Steps:
    """How many steps rows take to their best planes.

    Args:
        last: for the rows of the answer.
        inside: for the rows of entries inside the network that are still open after one pass; half
            of ``last`` if not given, and 0 leaves their intervals as they are.

    Raises:
        InputError: a number of steps is negative or no whole number.
    """

    last: int = 20
    inside: int | None = None

    def __post_init__(self) -> None:
        if self.inside is None:
            object.__setattr__(self, "inside", self.last // 2)
        for name, steps in (("last", self.last), ("inside", self.inside)):
            if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
                raise InputError(f"Steps({name}={steps!r}): give a number of steps, 0 or more")


@dataclass(frozen=True)
class Options:
    """How a model is bounded; see ``certify`` for what each says.

    With ``forms`` every value has an affine form of the input beside its interval: what a verifier
    wants that cuts boxes of few sides into ever smaller ones. With ``pairs`` maxima are ReLUs of
    differences, which can be cut.
    """

    method: Method = METHODS["ibp&dual"]
    perturb: Keys = 0
    output: Output = None
    rules: Rules = field(default_factory=lambda: read_rules(None))
    intervals: bool = False
    estimator: Estimator = field(default_factory=Exact)
    memory: int | None = None
    budget: float = BUDGET
    choose: Mapping[str, Serving] = field(default_factory=dict)
    select: bool = True
    compile: bool = False
    free: bool = True
    optimize: Steps | None = None
    forms: bool = False
    pairs: bool = False
    rounding: str | None = None

    @property
    def key(self) -> Hashable:
        """What tells plans of one graph apart."""
        shared = self.method, self.rules, self.intervals, self.estimator
        limits = self.memory, self.budget, tuple(self.choose.items())
        how = self.select, self.compile, self.free, self.optimize, self.forms
        return (*shared, *limits, *how, self.pairs, self.rounding)
