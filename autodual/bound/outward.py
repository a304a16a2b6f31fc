"""What rounding may do to a bound, charged where it arises.

Rows act on z − z⁰ for the *computed* references z⁰, and the rows themselves are taken as computed.
Let D be how far z can lie from z⁰ (from intervals that are rounded outward). At an op f(z) = Az + b
with computed reference f⁰, and for a row ν whose ν_in was computed,

    ν·(f(z) − f⁰) = ν_in·(z − z⁰) + (Aᵀν − ν_in)·(z − z⁰) + ν·(Az⁰ + b − f⁰),

and the two errors are at most |ν|·(γ|A|D + γ(|A||z⁰| + |b|)) and what underflows: one more radius
for the op's value. At an op between two planes their own values at z⁰ are rounded, their slopes
times ν, and f may leave the computed planes by what its rule tells. A deployed network computes
f(z) + e in place of f(z), |e| ≤ γ(|A||z| + |b|): the same radius once more. Where rows take means
of several planes, each plane is charged for itself and for its part in a mean: the mean of what is
charged is then charged for the mean. No slope has to be exact for that, nor has any mean.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from autodual.bound.constants import unknown_constants
from autodual.bound.plan import Plan, Step
from autodual.duals import (
    Affine,
    Call,
    DualLayer,
    Elementwise,
    MatrixProduct,
    Planes,
    Product,
    Relaxed,
)
from autodual.duals.intervals import IntervalRule
from autodual.errors import UnsupportedOpError
from autodual.front.ir import Graph, Inexact, Value
from autodual.interval import Interval
from autodual.rounding import ROUNDINGS, down, gamma, least, reach, roundoff, up

MEANS = 16
"""Of how many planes a mean is made at most."""

LERP = 6
"""How many roundings one step of a mean is: a + s(b − a) or b − (b − a)(1 − s), by the size of s
and with a and b taken by their sizes."""


def check_rounded(plan: Plan) -> None:
    """Raise unless every error of rounding in a plan's network is known, if it is to be charged.

    Raises:
        UnsupportedOpError: ops whose errors nobody has told, and constants that are computed.
    """
    if plan.rounding is None:
        return
    graph = plan.graph
    missing = [
        f"{step.node.where}: {_untold(step.rule)}" for step in plan.steps if _untold(step.rule)
    ]
    missing += unknown_constants(graph, plan.rounding)
    if plan.own is not None:
        missing += [
            f"{name}: others stand for it here, and libraries compute it by one formula or "
            'another: take rounding="outward", or write the op in those that are added up'
            for name in graph.rewritten
        ]
        made = {*graph.entries, *(node.out for node in graph.nodes)}
        missing += [
            f"{value.name}: what stands here for an op that libraries compute by one formula or "
            "another was left out, or does not move"
            for value, how in graph.inexact.items()
            if value not in graph.moving
            or not made.issuperset(w for _, values in how.terms for w in values)
        ]
    if plan.rounding == "bfloat16":
        missing += [
            f"{step.node.where}: {name}={number} is no number that bfloat16 holds, and libraries "
            "may round it: give one that is"
            for step in plan.steps
            for name, number in _short(step, graph)
        ]
    if missing:
        raise UnsupportedOpError(
            f"rounding={plan.rounding!r} ({ROUNDINGS[plan.rounding]}): "
            f"{len(missing)} operation(s) may be rounded nobody knows how:\n  "
            + "\n  ".join(missing)
        )


SCALES = frozenset({"negative_slope", "alpha", "scale", "input_scale"})
SCALES |= {"slope", "shift", "other_slope", "other_shift"}
"""Arguments of which a share that is lost is lost of the result."""


def _short(step: Step, graph: Graph) -> Iterator[tuple[str, object]]:
    """Yield the numbers that a nonlinear op has, and bfloat16 does not hold."""
    if isinstance(step.rule, Affine | MatrixProduct) or step.out in graph.inexact:
        return
    for name, arg in step.node.args.items():
        if isinstance(arg, float) and name not in SCALES:
            if float(torch.tensor(arg, dtype=torch.float64).bfloat16()) != arg:
                yield name, arg
        elif name == "edge" and isinstance(arg, Value) and arg not in graph.constants:
            yield name, arg.name


def _untold(rule: DualLayer) -> str:
    """Return what a rule does not tell; nothing if it tells all."""
    if isinstance(rule, Affine):
        return "" if rule.terms else "give its Affine rule terms="
    if isinstance(rule, Elementwise):
        told = rule.errors is not None and rule.leaves is not None
        return "" if told else "its rule has no errors= and leaves="
    if isinstance(rule, MatrixProduct):
        return "" if rule.factor.terms else "give the Affine rule of its factors terms="
    if isinstance(rule, IntervalRule):
        return "" if rule.errors == 0 else "its rule has no errors=0"
    return f"its dual layer ({rule.kind}) does not say how it is rounded"


@dataclass(frozen=True, eq=False)
class Charge:
    """What rounding may add at an op: Σⱼ rⱼ|νⱼ| + floor for each row ν at its value.

    Attributes:
        radius: in the layout of the value.
        floor: [N], what underflows.
        surroundings: of an op between planes, for ``beside``.
    """

    radius: Tensor
    floor: Tensor
    surroundings: Surroundings | None = None

    def map(self, f: Callable[[Tensor], Tensor], index: Tensor) -> Charge:
        """Return it for the examples at ``index``, with ``f`` for tensors of the value's layout."""
        around = self.surroundings
        image = None if around is None else around.map(f)
        return Charge(f(self.radius), self.floor[index], image)


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What is charged for an op's planes depends on, beside these and what it reads.

    Attributes:
        reads: how many ops read what it reads, at most.
        image: an interval of its value.
        own: how the op itself is rounded, see ``OWN``.
        sizes: how many numbers a row's sum is made of, at most.
        off: how far what a library computes may lie from its value, if by a formula of its own.
    """

    reads: int
    image: Interval
    own: float | None
    sizes: int
    off: Tensor | None

    def map(self, f: Callable[[Tensor], Tensor]) -> Surroundings:
        """Return it with ``f`` for tensors of the value's layout."""
        off = None if self.off is None else f(self.off)
        return replace(self, image=self.image.map(f), off=off)


@dataclass(frozen=True, eq=False)
class Reached:
    """A value that an op reads.

    Attributes:
        box: an interval of it that holds whatever is rounded.
        reference: z⁰.
        reads: how many ops read the value: so many rows are added up there.
    """

    box: Interval
    reference: Tensor
    reads: int

    @property
    def far(self) -> Tensor:
        """D, how far the value can lie from z⁰."""
        return reach(self.box, self.reference)

    @property
    def size(self) -> Tensor:
        """|z⁰| + D, more than the value can be."""
        return self.reference.abs() + self.far


def image(
    step: Step, call: Call, boxes: Sequence[Interval], batch: int, own: float | None
) -> Interval:
    """Return an interval of an op's value that holds whatever is rounded.

    Args:
        step, call: the op.
        boxes: intervals of its perturbed arguments that do.
        batch: the number of examples.
        own: how the op itself is rounded, see ``OWN``.
    """
    rule = step.rule
    if isinstance(rule, Affine):
        return _affine_image(step, rule, call, boxes, batch, own)
    found = rule.interval(call, *boxes)
    if isinstance(rule, MatrixProduct):
        return _product_image(step, call, found, boxes, batch, own)
    if rule.errors == 0:
        return found
    assert rule.errors is not None
    u = roundoff(found.lower.dtype)
    share = (rule.errors + 4) * (u if own is None else 2 * u + own)
    floor = rule.floor_on(call, *boxes)

    def lost(end: Tensor) -> Tensor:
        return share * torch.maximum(end.abs(), floor) + least(end.dtype)

    return Interval(found.lower - lost(found.lower), found.upper + lost(found.upper))


def _product_image(
    step: Step,
    call: Call,
    found: Interval,
    boxes: Sequence[Interval],
    batch: int,
    own: float | None,
) -> Interval:
    """Widen what was found for a product of matrices by γ f(|x|, |y|)."""
    x, y = (box.magnitude for box in boxes)
    ahead, dtype = x.shape[-1] + 2, x.dtype
    share = _share(ahead, ahead, dtype, own)
    lost = share * call(x + least(dtype) / share, y + least(dtype) / share)
    lost = lost + _underflow(step, ahead, (x, y), batch)
    return Interval(down(found.lower - lost), up(found.upper + lost))


def _affine_image(
    step: Step, rule: Affine, call: Call, boxes: Sequence[Interval], batch: int, own: float | None
) -> Interval:
    """Return A c + b ± (|A| r + γ(|A||c| + |b|)) for centers c and radii r ≥ |z − c|."""
    ahead, _ = _terms(step, rule, call)
    if ahead == 0:
        return rule.interval(call, *boxes)
    centers = [box.center for box in boxes]
    radii = [reach(box, c) for box, c in zip(boxes, centers, strict=True)]
    middle, dtype = call(*centers), centers[0].dtype
    share = _share(ahead, ahead, dtype, own)
    sizes = [c.abs() + r + least(dtype) / share for c, r in zip(centers, radii, strict=True)]
    spread = rule.extent(call, *radii, constant=False) * (1 + gamma(ahead, dtype))
    spread = spread + share * rule.extent(call, *sizes) + _underflow(step, ahead, sizes, batch)
    return Interval(down(middle - spread), up(middle + spread))


def charge(
    step: Step,
    call: Call,
    relaxed: Relaxed,
    read: Sequence[Reached],
    found: Interval,
    batch: int,
    own: float | None,
    sizes: int,
    off: Tensor | None,
) -> Charge | None:
    """Return what rounding may add at an op; None where nothing is rounded.

    Args:
        step, call, relaxed: the op.
        read: its perturbed arguments.
        found: the interval of its value.
        batch, own: as for ``image``.
        sizes, off: as for ``Surroundings``.
    """
    if isinstance(relaxed, Planes):
        around = Surroundings(max(value.reads for value in read), found, own, sizes, off)
        z, boxes = [value.reference for value in read], [value.box for value in read]
        radius = _planes(step, call, relaxed, z, boxes, around)
        far = [value.far for value in read]
        return Charge(radius, _floor(step, 1 + LERP * MEANS, far, batch), around)
    if isinstance(relaxed, Product):
        charge: Charge | None = _product(step, call, relaxed, read, batch, own)
    else:
        assert isinstance(step.rule, Affine)
        charge = _affine(step, step.rule, call, read, batch, own)
    if off is None:
        return charge
    if charge is None:
        return Charge(off, off.new_zeros(batch))
    return replace(charge, radius=up(charge.radius + off))


def beside(
    step: Step,
    call: Call,
    planes: Planes,
    z: Sequence[Tensor],
    boxes: Sequence[Interval],
    around: Surroundings,
) -> Tensor:
    """Return what rounding may add at planes of which rows take means with others.

    Args:
        step, call: the op.
        planes: some around it.
        z: z⁰ for each of its arguments.
        boxes: their intervals.
        around: what else it depends on.
    """
    return _planes(step, call, planes, z, boxes, around, LERP * MEANS)


def distances(gap: Tensor, lost: Tensor, sizes: int) -> Tensor:
    """Return a plane's distance from z⁰ that holds in sums and means, or more.

    Sums are charged in proportion to themselves, which is too little by twice that where terms are
    negative; means in proportion to the sizes of their parts.

    Args:
        gap: the distance, computed.
        lost: what rounding may add at the plane.
        sizes: how many numbers a row's sum is made of.
    """
    share = gamma(LERP * MEANS, gap.dtype)
    signs = 3 * gamma(sizes, gap.dtype)
    return up(gap + lost + share * gap.abs() + signs * gap.clamp(max=0).abs())


def _affine(
    step: Step, rule: Affine, call: Call, read: Sequence[Reached], batch: int, own: float | None
) -> Charge | None:
    """Return γ(|A|(|z⁰| + D) + |b|)."""
    ahead, back = _terms(step, rule, call)
    back += max(value.reads for value in read) - 1
    far = [value.far for value in read]
    dtype = far[0].dtype
    if ahead == back == 0:
        return None
    floor = _floor(step, back, far, batch)
    if ahead == 0:
        radius = gamma(back, dtype) * rule.extent(call, *far, constant=False)
        return Charge(radius + least(dtype), floor)
    share = _share(max(ahead, back), ahead, dtype, own)
    sizes = [value.size + least(dtype) / share for value in read]
    radius = share * rule.extent(call, *sizes) + _underflow(step, ahead, sizes, batch)
    return Charge(radius, floor)


def _planes(
    step: Step,
    call: Call,
    planes: Planes,
    references: Sequence[Tensor],
    boxes: Sequence[Interval],
    around: Surroundings,
    more: int = 0,
) -> Tensor:
    """Return what f leaves the planes by, and the errors of their heights at z⁰ and of slopes.

    ``more`` operations on the slopes are counted.
    """
    found = around.image
    dtype = found.lower.dtype
    z = () if planes.are_flat else tuple(reference.abs() for reference in references)
    heights = planes.map(torch.abs).ends(*z)
    count = len(references) + 4
    radius = gamma(count, dtype) * (heights.lower + heights.upper) + least(dtype)
    if not planes.are_flat:
        missed = step.rule.slack(call, *boxes, planes=planes)
        assert missed is not None
        radius = radius + missed
        far = [reach(box, reference) for box, reference in zip(boxes, references, strict=True)]
        back = gamma(2 + around.reads + more, dtype)
        for low, high, d in zip(planes.lower_slopes, planes.upper_slopes, far, strict=True):
            radius = radius + back * torch.maximum(low.abs(), high.abs()) * d
        if around.own is not None and step.rule.errors:
            most = found.magnitude
            most = torch.maximum(most, step.rule.floor_on(call, *boxes))
            u = roundoff(dtype) + around.own
            radius = radius + (step.rule.errors + 1) * u * most + least(dtype)
    if around.off is not None:
        radius = radius + around.off
    return radius * (1 + gamma(count, dtype))


def _product(
    step: Step, call: Call, product: Product, read: Sequence[Reached], batch: int, own: float | None
) -> Charge:
    """Return what the rest is larger by than was computed, and γ of all other products."""
    centers, dtype = product.centers, product.rest.dtype
    far = [value.far for value in read]
    rows, columns = product.rest.shape[-2:]
    alike = read[0].box.lower.shape[:-2] == read[1].box.lower.shape[:-2]
    back = max(rows, columns) if alike else step.out.numel
    back += max(value.reads for value in read)
    ahead = centers[0].shape[-1] + 4
    share = _share(max(ahead, back), ahead, dtype, None)
    c_x, c_y = (c.abs() + least(dtype) / share for c in centers)
    x, y = (value.size + least(dtype) / share for value in read)
    lost = call(x, c_y) + call(c_x, y) + call(c_x, c_y)
    ours = 0.0 if own is None else _share(ahead, ahead, dtype, own)
    rest = call(*(reach(value.box, c) for value, c in zip(read, centers, strict=True)))
    beyond = (rest * (1 + 2 * gamma(ahead, dtype)) - product.rest).clamp(min=0)
    sizes = (x, y, c_x, c_y)
    lost = share * lost + ours * call(x, y) + _underflow(step, ahead, sizes, batch)
    return Charge(up(beyond + lost), _floor(step, back, far, batch))


def inexactness(
    step: Step, how: Inexact, own: float, most: Tensor, sizes: Mapping[Value, Tensor], batch: int
) -> Tensor:
    """Return how far what a library computes may lie from an op's value, in its layout.

    Args:
        step: the op.
        how, own: what is known of it, for roundings of the bound's dtype; and by how much more what
            comes out is rounded.
        most: what the value is at most in size.
        sizes: the same of values that ``how`` names.
        batch: the number of examples.
    """
    found = how.relative * most + how.absolute
    for share, values in how.terms:
        product = most.new_full((batch,), share)
        for v in values:
            product = product * v.per_example(sizes[v], batch).flatten(1).amax(1)
        found = found + step.out.spread(product)
    return up(2 * roundoff(most.dtype) * found + own * most)


def adds(step: Step, rule: Affine, call: Call) -> bool:
    """Return whether an affine op adds anything up, as far as its rule tells."""
    return rule.terms is None or _terms(step, rule, call)[0] > 0


def _terms(step: Step, rule: Affine, call: Call) -> tuple[int, int]:
    """Return how many numbers are rounded on the way ahead and back."""
    assert rule.terms is not None
    return rule.terms(call, min(v.numel for v in step.variables), step.out.numel)


def _share(count: int, ahead: int, dtype: torch.dtype, own: float | None) -> float:
    """Return γ of ``count``, for a sum of ``ahead`` sizes that is rounded too."""
    known = gamma(count, dtype)
    return (known if own is None else 2 * known + own) * (1 + gamma(ahead, dtype))


def _total(values: Sequence[Value], sizes: Sequence[Tensor], batch: int) -> Tensor:
    """Return the sum of all sizes of each example, [N]."""
    pairs = zip(itertools.cycle(values), sizes, strict=False)
    each = (v.per_example(s, batch).flatten(1).sum(1) for v, s in pairs)
    return sum(each, torch.zeros(batch, dtype=sizes[0].dtype, device=sizes[0].device))


def _underflow(step: Step, ahead: int, sizes: Sequence[Tensor], batch: int) -> Tensor:
    """Return what may underflow on the way ahead, where subnormal numbers are kept or not."""
    most = 1 + _total(step.variables, sizes, batch)
    return step.out.spread(least(most.dtype) * (ahead + 1) * most)


def _floor(step: Step, back: int, far: Sequence[Tensor], batch: int) -> Tensor:
    """Return what may underflow on the way back, and in products of the radius and a row, [N]."""
    most = _total(step.variables, far, batch)
    return least(most.dtype) * ((back + 1) * most + step.out.numel)
