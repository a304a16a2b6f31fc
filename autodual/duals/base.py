"""What a dual layer is.

For an op z ↦ f(z) and a relaxation of it, a dual layer is a pair (g, h) with ν_in = g(ν_out) and

    sup over the relaxation of  −zᵀν_in + f(z)ᵀν_out  ≤  h(ν_in, ν_out).           (Fenchel)

Theorem 3 of the thesis then bounds any network made of such ops. A rule makes the relaxation of
one call of its op on given boxes, ``rule.relax(call, *boxes)``; that is what the engine runs and
what ``autodual.testing`` checks. Four kinds of rule cover what is here:

* ``Affine``: f(z) = Az + b. ν_in = Aᵀν_out, h = bᵀν_out. Exact.
* ``Elementwise``: two lines, or planes, that enclose f on [ℓ, u], entry by entry.
* ``MatrixProduct``: products of two perturbed matrices.
* ``IntervalRule``: ℓ ≤ f(z) ≤ u, where nothing better is known and the user allows it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from autodual.duals.relaxed import Choice, Planes, Relaxed
from autodual.errors import InputError
from autodual.front.ir import holds, invoke, map_leaves
from autodual.interval import Interval


@dataclass(frozen=True)
class Hole:
    """The place of the ``index``-th perturbed argument in a ``Call``."""

    index: int


@dataclass(frozen=True, eq=False)
class Call:
    """An op with everything bound but its perturbed arguments: the function z ↦ f(z).

    ``call["weight"]`` is the argument with that name in the op's schema.
    """

    target: Callable[..., Any]
    args: Mapping[str, Any]
    index: int | None = None

    @cached_property
    def open(self) -> tuple[str, ...]:
        """The names of the arguments that hold something perturbed."""
        return tuple(name for name, arg in self.args.items() if holds(arg, Hole))

    def __call__(self, *z: Tensor) -> Tensor:
        """Evaluate the op at its perturbed arguments."""

        def fill(leaf: Any) -> Any:
            return z[leaf.index] if isinstance(leaf, Hole) else leaf

        args = dict(self.args)
        for name in self.open:
            args[name] = map_leaves(args[name], fill)
        result: Tensor = invoke(self.target, args, self.index)
        return result

    def __getitem__(self, name: str) -> Any:
        if name not in self.args:
            raise InputError(f"the call has no argument {name!r}; it has {', '.join(self.args)}")
        return self.args[name]

    def replace(self, changes: Mapping[str, Any]) -> Call:
        """Return the same call with other constant arguments."""
        return Call(self.target, {**self.args, **changes}, self.index)

    def sides(self, x: Tensor, y: Tensor) -> tuple[Call, Call]:
        """Return z ↦ f(z, y) and z ↦ f(x, z), for a call of two perturbed arguments."""
        one, other = (name for name, arg in self.args.items() if isinstance(arg, Hole))
        return self.replace({other: y}), self.replace({one: x, other: Hole(0)})


def for_another(expected: str, name: str) -> tuple[str, str]:
    """Return that a dual layer is for an argument called otherwise than ``name``, and a remedy."""
    return f"its dual layer is for {expected}", f'say argument="{name}" where that is made'


def always(args: Mapping[str, Any]) -> bool:
    """Accept every call."""
    return True


def by_endpoints(call: Call, *z: Interval) -> Interval:
    """Bound an op whose matrix A has no negative entry: the ends map to the ends."""
    return Interval(call(*(i.lower for i in z)), call(*(i.upper for i in z)))


class DualLayer(ABC):
    """The rule of an op: which arguments may be perturbed, and what it is relaxed to.

    Attributes:
        interval: (call, *boxes) → interval arithmetic for the op.
        exact: whether the relaxation is the op itself, whatever the boxes.
        takes_slopes: whether the relaxation takes slopes from outside.
        slopes_free: whether it knows slopes that are better for one side.
        rough: whether only an interval is known, so that the user must allow it.
        partial: whether the op has poles or points where it is not defined. On boxes that hold
            one, ``interval`` gives (−∞, ∞), and the bounds of the whole example are lost with it.
        jumps: whether the op may jump, so that an ulp of what it reads may be a whole jump.
        kind: how ``explain`` names the dual layer.
        errors: how far f as it is computed may lie from f, in units of roundoff of the result; None
            where nobody has said, so that ``rounding=`` refuses the op.
        floor: a result that is smaller counts as this large there.
    """

    interval: Callable[..., Interval]
    exact: ClassVar[bool] = False
    rough: ClassVar[bool] = False
    takes_slopes: ClassVar[bool] = False
    slopes_free: bool = False
    partial: bool = False
    jumps: bool = False
    errors: float | None = None
    floor: float = 0.0
    kind: ClassVar[str]

    @abstractmethod
    def covers(self, names: Sequence[str], args: Mapping[str, Any]) -> bool:
        """Return whether the rule holds when the arguments called ``names`` are perturbed."""

    @abstractmethod
    def relax(
        self,
        call: Call,
        *boxes: Interval,
        slopes: Choice | None = None,
        at: Sequence[Tensor] | None = None,
    ) -> Relaxed:
        """Return the op's relaxation on boxes, one for each perturbed argument.

        Args:
            call: the op and its constant arguments.
            boxes: intervals of the perturbed arguments.
            slopes: slopes from outside, any of which are sound; only where ``takes_slopes``.
            at: a point near which two lines of free slopes shall be close to f; parallel lines,
                or planes, if not given.
        """

    @abstractmethod
    def formula(self, out: str, variables: Sequence[str]) -> str:
        """Return the dual layer as the paper writes it, for the printed program."""

    def facets(self, call: Call, *boxes: Interval, chosen: Planes) -> Sequence[Planes]:
        """Return further planes around the op on the boxes, beside those that were chosen.

        Every mean of planes below f is a plane below f. Optimised duals seek the best one for each
        row; to a linear program each plane is a constraint.
        """
        return ()

    def slack(self, call: Call, *boxes: Interval, planes: Planes) -> Tensor | None:
        """Return how far f may leave two computed planes on the boxes, in real arithmetic.

        Found from f and the planes themselves, however these came about, with every rounding error
        on the way there added; None if the rule cannot tell, so that ``rounding=`` refuses the op.
        """
        return None

    def floor_on(self, call: Call, *boxes: Interval) -> Tensor:
        """Return the size as which a smaller result counts for ``errors``, to broadcast to it."""
        return boxes[0].lower.new_tensor(self.floor)

    def serving(self, names: Sequence[str], args: Mapping[str, Any]) -> DualLayer | None:
        """Return the rule that serves a call with these arguments perturbed, if there is one."""
        return self if self.covers(names, args) else None

    def with_others_fixed(self) -> DualLayer | None:
        """Return the rule of a product with one of its arguments perturbed, which is affine."""
        return None

    def open(self, call: Call, *boxes: Interval) -> Sequence[Tensor]:
        """Return for each box where a tighter one could make a tighter relaxation."""
        return [box.lower != box.upper for box in boxes]

    @property
    def tightness(self) -> str:
        """One of ``TIGHTNESS``."""
        if self.exact or self.rough:
            return "exact" if self.exact else "interval"
        return "free-slope" if self.slopes_free else "parallel"


TIGHTNESS = {
    "exact": "the dual layer is the op itself",
    "free-slope": "two lines or planes, each with slopes of its own",
    "parallel": "two parallel lines or planes, or a matrix product about its center",
    "interval": "only its interval is kept",
    "missing": "no dual layer",
}
"""How tight a dual layer is, by name."""


@dataclass(frozen=True)
class Either:
    """Several rules for one op, by which arguments are perturbed; the first that holds serves.

    A product is affine while one factor is constant; two perturbed factors need planes.
    """

    rules: tuple[DualLayer, ...]

    def serving(self, names: Sequence[str], args: Mapping[str, Any]) -> DualLayer | None:
        """Return the rule that serves a call with these arguments perturbed, if there is one."""
        return next((rule for rule in self.rules if rule.covers(names, args)), None)
