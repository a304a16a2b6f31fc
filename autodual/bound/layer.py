"""One value of a relaxed network, and the dual layer that stands for the op that computes it.

Every bound is evaluated about reference values z⁰ of the network. At the input z⁰ is the set's
center; an affine op maps it exactly; elsewhere it is the middle of the values that the relaxation
allows there. Then J = −σ_B(ν₁) − Σ h telescopes to

    J = C z⁰ − deviation_B(ν₁) − Σⱼ rⱼ|νⱼ|,

where the sum runs over the outputs of nonlinear ops and rⱼ is how far the values that the
relaxation allows at z⁰ lie from their middle. Biases and x enter through the one forward pass for
z⁰; only |ν| needs the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from autodual.bound.outward import MEANS, Charge, beside, distances
from autodual.bound.plan import Step, centered
from autodual.duals import Affine, Call, Choice, Exact, Planes, Product, Relaxed
from autodual.duals.relaxed import Slopes
from autodual.front.ir import Value
from autodual.interval import Interval
from autodual.threat import ThreatModel
from autodual.threat.cut import Local

Change = Callable[[Value, Tensor], Tensor]
"""(the value whose layout a tensor has, the tensor) → what takes its place."""


def with_grad(wanted: bool) -> AbstractContextManager[object]:
    """Return the context in which gradients are wanted or not; where they already are, nothing."""
    return nullcontext() if wanted == torch.is_grad_enabled() else torch.set_grad_enabled(wanted)


@dataclass(frozen=True, eq=False)
class Entry:
    """The perturbed input: x [N, *] and the set around it; ``grad`` is as for ``Layer``.

    ``box`` is the set's interval, rounded outward, if the bound is.
    """

    value: Value
    x: Tensor
    threat: ThreatModel
    grad: bool = field(default_factory=torch.is_grad_enabled)
    box: Interval | None = None

    @cached_property
    def reference(self) -> Tensor:
        """z⁰, the set's center."""
        with with_grad(self.grad):
            return self.threat.center(self.x)

    @cached_property
    def weights(self) -> Tensor | None:
        """The radius [N or 1, *] of a set that is a box."""
        with with_grad(self.grad):
            if self.box is None:
                return self.threat.weights(self.x)
            return self.threat.weights_around(self.x, self.box)

    @cached_property
    def local(self) -> Local | None:
        """What a set is to rows that touch a part of x, if it can be asked of one."""
        with with_grad(self.grad):
            return self.threat.local(self.x)

    @property
    def tensors(self) -> list[Tensor]:
        """What rows read at the input."""
        if self.weights is not None:
            return [self.weights]
        return [self.x, *self.threat.tensors()] if self.local is None else self.local.tensors

    @property
    def image(self) -> Interval | None:
        """``box``, as a layer has it."""
        return self.box

    def replace(self, others: Mapping[int, Tensor]) -> Entry:
        """Return the entry with tensors replaced, by their identity."""
        twin = Entry(self.value, others.get(id(self.x), self.x), self.threat.replace(others))
        weights, local = self.weights, self.local
        weights = None if weights is None else others.get(id(weights), weights)
        local = None if local is None else local.replace(others)
        twin.__dict__.update(reference=self.reference, weights=weights, local=local)
        return twin

    def select(self, index: Tensor) -> Entry:
        """Return the entry of the examples at ``index``."""
        box = None if self.box is None else self.box.map(lambda end: end[index])
        return Entry(self.value, self.x[index], self.threat.select(self.x, index), box=box)


@dataclass(frozen=True, eq=False)
class Side:
    """An affine op and its constants: what rows are pulled back and columns pushed through.

    Attributes:
        step: the op; its rule is ``Affine``.
        constants: what it reads beside its variables, in the model's layout.
        batch: the number of examples.
    """

    step: Step
    constants: Mapping[Value, Tensor]
    batch: int

    @property
    def rule(self) -> Affine:
        """The op's rule."""
        assert isinstance(self.step.rule, Affine)
        return self.step.rule

    @cached_property
    def alone(self) -> Call:
        """The op for a single example; only where no constant differs from example to example."""
        return self.step.call(self.constants, 1)

    def own(self, value: Value) -> Tensor:
        """Return a constant that differs from example to example, [N, *size(1)]."""
        return value.per_example(self.constants[value], self.batch)

    def call(self, own: Mapping[Value, Tensor], batch: int) -> Call:
        """Return the op for ``batch`` examples whose own constants are [batch, *size(1)]."""
        laid = {v: v.in_layout(t) for v, t in own.items()}
        return self.step.call({**self.constants, **laid}, batch)


@dataclass(frozen=True, eq=False)
class Facet:
    """Two planes around an op, per example, by their slopes and their distances from z⁰ there.

    Attributes:
        lower, upper: a slope [N, *size(1)] for each argument.
        below, above: z⁰ less the lower plane's value, and the upper plane's less z⁰.
    """

    lower: Slopes
    below: Tensor
    upper: Slopes
    above: Tensor

    def map(self, f: Callable[[Tensor], Tensor]) -> Facet:
        """Apply ``f`` to all tensors."""
        lower, upper = tuple(map(f, self.lower)), tuple(map(f, self.upper))
        return Facet(lower, f(self.below), upper, f(self.above))

    def beside(self, other: Facet, exact: Tensor) -> Facet:
        """Return another's planes where these say nothing, or those are ``exact``."""
        low, high = (gap.isfinite() & ~exact for gap in (self.below, self.above))

        def pick(known: Tensor, mine: Slopes, others: Slopes) -> Slopes:
            return tuple(torch.where(known, a, b) for a, b in zip(mine, others, strict=True))

        *lower, below = pick(low, (*self.lower, self.below), (*other.lower, other.below))
        *upper, above = pick(high, (*self.upper, self.above), (*other.upper, other.above))
        return Facet(tuple(lower), below, tuple(upper), above)

    @property
    def tensors(self) -> list[Tensor]:
        """Slopes and distances."""
        return [*self.lower, self.below, *self.upper, self.above]

    def lead(self, up: Tensor, down: Tensor) -> list[Tensor]:
        """Return ν_in for each argument and what each entry adds to a sum, for ν = up + down."""
        pairs = zip(self.lower, self.upper, strict=True)
        pulled = [torch.addcmul(low * down, high, up) for low, high in pairs]
        return [*pulled, self.above * up - self.below * down]


@dataclass(frozen=True, eq=False)
class Layer:
    """A dual layer of the relaxed network, with all that it was made of.

    Attributes:
        step: the node, its rule and its perturbed arguments.
        batch: the number of examples.
        constants: what the node reads beside its perturbed arguments, in the model's layout.
        inputs: the layers of its perturbed arguments.
        boxes: the interval of each perturbed argument on which the op was relaxed, in the model's
            layout; none for affine ops.
        origins: where each of these came from: ``"input"``, ``"ibp"``, ``"dual"``, ``"ibp&dual"``,
            and ``"given"`` where one from outside was intersected.
        relaxed: the op itself, two planes, or a product about its center, in the model's layout.
        grad: whether gradients were wanted where the layer was made; what is found later, wherever
            that is, has them then.
        charge: what rounding may add, if anything is charged for it.
        image: an interval of its value that holds whatever is rounded, if that is charged.
    """

    step: Step
    batch: int
    constants: Mapping[Value, Tensor]
    inputs: tuple[Layer | Entry, ...]
    boxes: tuple[Interval, ...]
    origins: tuple[str, ...]
    relaxed: Relaxed
    grad: bool = field(default_factory=torch.is_grad_enabled)
    charge: Charge | None = None
    image: Interval | None = None

    def __str__(self) -> str:
        boxes = zip(self.step.variables, self.origins, strict=bool(self.origins))
        on = ", ".join(f"{v.name} ({origin})" for v, origin in boxes)
        kind = self.step.rule.kind
        return f"{self.value.name}: {self.step.node.label}, {kind}{on and f' on {on}'}"

    __repr__ = __str__

    @property
    def value(self) -> Value:
        """The value it computes."""
        return self.step.out

    @cached_property
    def about(self) -> tuple[Tensor, Tensor | None]:
        """z⁰ and r in the model's layout; found when first asked for."""
        references = () if self.stops else tuple(layer.reference for layer in self.inputs)
        with with_grad(self.grad):
            return self.relaxed.about(*references)

    @property
    def reference(self) -> Tensor:
        """z⁰, in the model's layout."""
        return self.about[0]

    @cached_property
    def radius(self) -> Tensor | None:
        """R [N, *size(1)], with what rounding may add; None for an affine op without that."""
        radius = None if self.step.rule.exact else self.about[1]
        with with_grad(self.grad):
            if self.charge is not None:
                radius = self.charge.radius if radius is None else radius + self.charge.radius
            return None if radius is None else self._own(radius)

    @property
    def stops(self) -> bool:
        """Whether rows stop here: only an interval is kept."""
        return isinstance(self.relaxed, Planes) and self.relaxed.are_flat

    @cached_property
    def planes(self) -> Planes | None:
        """The planes per example, [N, *size(1)], where the op is enclosed by two."""
        if not isinstance(self.relaxed, Planes):
            return None
        with with_grad(self.grad):
            return self.relaxed.map(self._own)

    @property
    def meet(self) -> Tensor:
        """Where its two planes are one, [N, *size(1)]: the op is exact there."""
        assert isinstance(self.relaxed, Planes)
        return self._own(self.relaxed.meet)

    @cached_property
    def facets(self) -> tuple[Facet, ...]:
        """The planes that were chosen and others beside them; none where there is no choice.

        The others lie farther off by what rounding may do: steps would take that for a gain.
        """
        if not isinstance(self.relaxed, Planes) or self.stops:
            return ()
        z = [layer.reference for layer in self.inputs]
        with with_grad(self.grad):
            call = self.step.call(self.constants, self.batch)
            more = self.step.rule.facets(call, *self.boxes, chosen=self.relaxed)[: MEANS - 1]
            first = self._facet(self.relaxed, z, None)
            others = [self._facet(planes, z, planes.rounding(*z)) for planes in more]
            return (first, *(other.beside(first, self.meet) for other in others)) if more else ()

    def _facet(self, planes: Planes, z: Sequence[Tensor], slack: Interval | None) -> Facet:
        """Return planes by their distances from z⁰, taken farther off by some slack."""
        ends = planes.ends(*z)
        below, above = self.reference - ends.lower, ends.upper - self.reference
        if self.charge is not None and self.charge.surroundings is None:
            below, above = below + self.charge.radius, above + self.charge.radius
        elif self.charge is not None:
            around, call = self.charge.surroundings, self.step.call(self.constants, self.batch)
            assert around is not None
            with torch.no_grad():
                lost = beside(self.step, call, planes, z, self.boxes, around)
            below, above = (distances(gap, lost, around.sizes) for gap in (below, above))
        elif slack is not None:
            below, above = below + slack.lower, above + slack.upper
        return Facet(planes.lower_slopes, below, planes.upper_slopes, above).map(self._own)

    def _own(self, tensor: Tensor) -> Tensor:
        """Return a tensor of its value's layout per example."""
        return self.value.per_example(tensor, self.batch)

    @cached_property
    def sides(self) -> tuple[Side, ...]:
        """The affine ops it is made of: itself, or a product as a function of each argument."""
        constants = dict(self.constants)
        if isinstance(self.relaxed, Product):
            constants |= zip(map(centered, self.step.variables), self.relaxed.centers, strict=True)
        return tuple(Side(step, constants, self.batch) for step in self.step.sides)

    @cached_property
    def undefined(self) -> Tensor | None:
        """The examples [N] for which a partial op says nothing about some entry."""
        if not self.step.rule.partial or not isinstance(self.relaxed, Planes):
            return None
        low, high = self.relaxed.lower_intercept, self.relaxed.upper_intercept
        nothing = low.isneginf() & high.isposinf()
        return self._own(nothing).flatten(1).any(1)

    @property
    def tensors(self) -> list[Tensor]:
        """What rows read on their way through."""
        found = [] if self.radius is None else [self.radius]
        if self.planes is not None:
            return [*found, *self.planes.lower_slopes, *self.planes.upper_slopes]
        for side in self.sides:
            known = set(side.step.variables)
            found += [side.constants[v] for v in side.step.node.inputs if v not in known]
        return found

    def replace(self, others: Mapping[int, Tensor]) -> Layer:
        """Return the layer as rows read it, with tensors replaced by their identity."""

        def swap(tensor: Tensor) -> Tensor:
            return others.get(id(tensor), tensor)

        twin = replace(self, inputs=())
        radius = None if self.radius is None else swap(self.radius)
        planes = None if self.planes is None else self.planes.map(swap)
        sides = tuple(
            replace(side, constants={v: swap(t) for v, t in side.constants.items()})
            for side in (self.sides if planes is None else ())
        )
        facets = tuple(facet.map(swap) for facet in vars(self).get("facets", ()))
        twin.__dict__.update(radius=radius, planes=planes, sides=sides, facets=facets)
        return twin

    def with_slopes(self, slopes: Choice | None, inputs: tuple[Layer | Entry, ...]) -> Layer:
        """Return the layer relaxed on the same boxes, with other slopes if some are given."""
        relaxed = self.relaxed
        if slopes is not None:
            call = self.step.call(self.constants, self.batch)
            relaxed = self.step.rule.relax(call, *self.boxes, slopes=slopes)
        return replace(self, inputs=inputs, relaxed=relaxed, grad=torch.is_grad_enabled())

    def map(self, f: Change, index: Tensor, inputs: tuple[Layer | Entry, ...]) -> Layer:
        """Return the layer of the examples at ``index``, which ``f`` picks from every tensor."""
        batch = len(index)
        constants = {v: f(v, t) for v, t in self.constants.items()}
        boxes = tuple(
            box.map(lambda end, v=v: f(v, end))  # type: ignore[misc]
            for v, box in zip(self.step.variables, self.boxes, strict=bool(self.boxes))
        )
        relaxed: Relaxed
        if isinstance(self.relaxed, Planes):
            relaxed = self.relaxed.map(lambda t: f(self.value, t))
        elif isinstance(self.relaxed, Product):
            pairs = zip(self.step.variables, self.relaxed.centers, strict=True)
            x, y = (f(v, center) for v, center in pairs)
            call, rest = self.step.call(constants, batch), f(self.value, self.relaxed.rest)
            relaxed = replace(self.relaxed, call=call, centers=(x, y), rest=rest)
        else:
            relaxed = Exact(self.step.call(constants, batch), self.relaxed.transpose)
        made = Layer(self.step, batch, constants, inputs, boxes, self.origins, relaxed)

        def own(tensor: Tensor) -> Tensor:
            return f(self.value, tensor)

        charge = None if self.charge is None else self.charge.map(own, index)
        image = None if self.image is None else self.image.map(own)
        return replace(made, charge=charge, image=image)


def example_layout(batch: int, index: Tensor) -> Change:
    """Return what picks the examples at ``index`` of a batch from a tensor of any layout."""

    def pick(value: Value, tensor: Tensor) -> Tensor:
        if value.batch_dim is None:
            return tensor
        return value.in_layout(value.per_example(tensor, batch)[index])

    return pick


def nothing_known(like: Tensor) -> Interval:
    """Return the interval that says nothing."""
    return Interval(torch.full_like(like, -torch.inf), torch.full_like(like, torch.inf))
