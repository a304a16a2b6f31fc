"""What holds for every dual layer of a function of several entries or perturbed arguments."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from autodual.duals import Call, DualLayer, Elementwise, Planes, Sides
from autodual.interval import Interval
from autodual.testing.elementwise import first, slack, unless
from autodual.testing.strategies import BENDS

RANDOM = 8
"""How many random points of a box are tried."""


def points(boxes: Sequence[Interval], generator: torch.Generator) -> Iterator[list[Tensor]]:
    """Yield corners of the product of the boxes, random points, and points where pieces meet."""
    tried = []
    for box in boxes:
        noise = torch.rand(RANDOM, *box.lower.shape, generator=generator).to(box.lower)
        inner = box.lower + noise * (box.upper - box.lower)
        bends = [torch.full_like(box.lower, bend) for bend in BENDS]
        all_ = [box.lower, box.upper, *inner, *bends]
        tried.append([box.nearest(z) for z in all_])
    yield from map(list, itertools.product(*(some[:3] for some in tried)))
    yield from map(list, zip(*tried, strict=True))
    for _ in range(2):
        orders = [torch.randperm(len(some), generator=generator) for some in tried]
        mixed = [[some[i] for i in order] for some, order in zip(tried, orders, strict=True)]
        yield from map(list, zip(*mixed, strict=True))


def images(call: Call, tried: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return f at each of some points, [P, *]."""
    return torch.stack([call(*z) for z in tried])


def stacked(tried: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Return the points argument by argument [P, *], with as many dimensions for each."""
    most = max(v.dim() for v in tried[0])
    each = [torch.stack(list(of)) for of in zip(*tried, strict=True)]
    return [v.reshape(len(v), *[1] * (1 + most - v.dim()), *v.shape[1:]) for v in each]


def check_fenchel(
    rule: DualLayer, call: Call, boxes: Sequence[Interval], generator: torch.Generator
) -> str | None:
    """−Σ zᵀν_in + f(z)ᵀν_out ≤ h for rows ν_out [R, *], with equality at ℓ = u."""
    out = call(*(box.lower for box in boxes))
    shapes = [box.lower.shape for box in boxes]
    nu = torch.randn(3, *out.shape, generator=generator).to(out)
    nu = torch.cat([nu, -nu, nu * (torch.rand(nu.shape, generator=generator) > 0.5)])
    pulled, h = rule.relax(call, *boxes).dual(nu, shapes)
    finite = h.isfinite()
    tried = list(points(boxes, generator))
    found = images(call, tried)
    sizes = (nu.abs() * found.abs().amax(0)).flatten(1).sum(1)
    value, size = _value(found, nu, tried, pulled)
    broken = (value > h + slack(h, size, sizes, h)) & finite
    assert not bool(broken.any()), "violated −zᵀν_in + f(z)ᵀν_out ≤ h: " + first(
        broken, sum=value, h=h
    )
    z = [box.lower for box in boxes]
    pulled, h = rule.relax(call, *(Interval(v, v) for v in z)).dual(nu, shapes)
    value, size = _value(out.unsqueeze(0), nu, [z], pulled)
    broken = (value - h).abs() > slack(h, size, h)
    assert not bool(broken.any()), "not exact at ℓ = u: " + first(broken, sum=value, h=h)
    return unless(finite)


def _value(
    found: Tensor, nu: Tensor, tried: Sequence[Sequence[Tensor]], pulled: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return −zᵀν_in + f(z)ᵀν_out [P, R] and the size of its terms, for f [P, *] at P points."""
    terms = [(found.unsqueeze(1) * nu).flatten(2)]
    for z, rows in zip(zip(*tried, strict=True), pulled, strict=True):
        terms.append(-(torch.stack(list(z)).unsqueeze(1) * rows).flatten(2))
    every = torch.cat(terms, 2)
    return every.sum(2), every.abs().sum(2)


def check_interval(
    rule: DualLayer, call: Call, boxes: Sequence[Interval], generator: torch.Generator
) -> str | None:
    """The image holds f, and shrinks with the boxes."""
    image = rule.interval(call, *boxes)
    shares = [torch.rand(2, *b.lower.shape, generator=generator).to(b.lower) for b in boxes]
    parts = [
        Interval(*(b.lower + s * (b.upper - b.lower) for s in (share.amin(0), share.amax(0))))
        for b, share in zip(boxes, shares, strict=True)
    ]
    part = rule.interval(call, *parts)
    value = images(call, list(points(boxes, generator)))
    for sign, side in ((1, "upper"), (-1, "lower")):
        end, less = getattr(image, side), getattr(part, side)
        broken = sign * (value - end) > slack(end, value, end)
        assert not bool(broken.any()), f"f leaves its {side} bound: " + first(
            broken, f=value, bound=end
        )
        broken = sign * (less - end) > slack(end, less, end)
        assert not bool(broken.any()), (
            f"the {side} bound of parts of the boxes lies outside that of the whole: "
            + first(broken, bound=end, part_bound=less)
        )
    return unless(image.lower.isfinite() | image.upper.isfinite())


def check_planes(
    rule: Elementwise, call: Call, boxes: Sequence[Interval], generator: torch.Generator
) -> str | None:
    """Both planes enclose f: of equal slopes, of free ones, and of any slopes given."""
    slopes = tuple(torch.randn(b.lower.shape, generator=generator).to(b.lower) for b in boxes)
    shares = [torch.rand(b.lower.shape, generator=generator).to(b.lower) for b in boxes]
    inside = [torch.lerp(b.lower, b.upper, s) for b, s in zip(boxes, shares, strict=True)]
    given = rule.relax(call, *boxes, slopes=slopes)
    assert given.are_parallel, "slopes given from outside must serve both planes"
    for mine, theirs in zip(given.lower_slopes, slopes, strict=True):
        assert torch.equal(mine, theirs), "the planes did not take the slopes given"
    found: dict[str, Planes] = {
        "equal slopes": rule.relax(call, *boxes),
        "free slopes": rule.relax(call, *boxes, at=inside),
        "slopes given": given,
        "a slope given for each side": rule.relax(call, *boxes, slopes=Sides(slopes, slopes[::-1])),
    }
    beside = rule.facets(call, *boxes, chosen=found["free slopes"])
    found |= {f"planes beside those chosen, {i}": planes for i, planes in enumerate(beside)}
    tried = list(points(boxes, generator))
    value, z = images(call, tried), stacked(tried)
    for which, planes in found.items():
        ends = planes.ends(*z)
        slopes_of = zip(planes.lower_slopes, planes.upper_slopes, z, strict=True)
        terms = [slope * v for a, b, v in slopes_of for slope in (a, b)]
        for sign, end in ((1, ends.upper), (-1, ends.lower)):
            broken = sign * (value - end) > slack(value, value, end, *z, *terms)
            assert not bool(broken.any()), (
                f"{which}: violated {'f ≤ Σ a·z + b' if sign > 0 else 'Σ a·z + b ≤ f'}: "
                + first(broken, f=value, plane=end)
            )
    return unless(given.lower_intercept.isfinite() | given.upper_intercept.isfinite())
