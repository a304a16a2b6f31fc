"""What holds with tolerance 0, where a rule says how its op is rounded: ``certify(rounding=)``.

Numbers in float32 are compared with fractions. f itself is found in float64, where ReLU and maxima
are exact; of other functions an enclosure a million times as narrow as what is charged.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from autodual.duals import Affine, Call, DualLayer, Elementwise
from autodual.front.ir import map_leaves
from autodual.interval import Interval
from autodual.rounding import gamma, least
from autodual.testing import several

UNASKED = "unasked"
"""Of a rule that does not say how its op is rounded, and where f is not known precisely enough."""

NONE = "no finite numbers were drawn"

NARROW = 2.0**-48
"""How far f in float64 may lie from f, relative to its size and for each error in float32."""

POINTS = 12
"""How many points of a box are compared."""


def precise(call: Call) -> Call:
    """Return a call on the same numbers in float64."""

    def double(leaf: Any) -> Any:
        return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    return call.replace({name: map_leaves(arg, double) for name, arg in call.args.items()})


def check_planes(
    rule: DualLayer, call: Call, boxes: Sequence[Interval], generator: torch.Generator
) -> str | None:
    """a_l z + b_l − s ≤ f(z) ≤ a_u z + b_u + s, in fractions, s what the rule says f leaves by."""
    if not isinstance(rule, Elementwise) or rule.errors is None or rule.leaves is None:
        return UNASKED
    if boxes[0].lower.dtype == torch.float64 and rule.errors:
        return UNASKED
    planes = rule.relax(call, *boxes, at=[box.center for box in boxes])
    found = rule.slack(call, *boxes, planes=planes)
    assert found is not None
    tried = list(several.points(boxes, generator))[:POINTS]
    sharp, known = precise(call), False
    for z in tried:
        value = sharp(*(v.double() for v in z))
        floor = rule.floor_on(call, *boxes).double()
        off = NARROW * rule.errors * torch.maximum(value.abs(), floor)
        sides = (
            (planes.lower_slopes, planes.lower_intercept, -1),
            (
                planes.upper_slopes,
                planes.upper_intercept,
                1,
            ),
        )
        for slopes, intercept, sign in sides:
            parts = [intercept, found, value, off, *slopes, *z]
            for b, s, f, e, *more in zip(*(_flat(p, value) for p in parts), strict=True):
                numbers = b, s, f, e, *more
                if not all(map(_finite, numbers)):
                    continue
                known, count = True, len(slopes)
                height = sum(map(_product, more[:count], more[count:]), Fraction(b))
                beyond = sign * (Fraction(f) - height) - Fraction(e) - Fraction(s)
                assert beyond <= 0, (
                    f"rounding is not charged: f = {f!r} leaves the plane {float(height)!r} by "
                    f"{float(beyond)!r} more than {s!r} at z = {more[count:]!r}"
                )
    return None if known else NONE


def _flat(part: Tensor, like: Tensor) -> list[float]:
    numbers: list[float] = part.double().expand_as(like).flatten().tolist()
    return numbers


def _finite(number: float) -> bool:
    return abs(number) < float("inf")


def _product(a: float, b: float) -> Fraction:
    return Fraction(a) * Fraction(b)


def check_affine(
    rule: Affine, call: Call, boxes: Sequence[Interval], generator: torch.Generator
) -> str | None:
    """|f⁰ − f(z)| ≤ γ(|A||z| + |b|) and |ν_in − Aᵀν| ≤ γ|A|ᵀ|ν|, for numbers in float32."""
    if rule.terms is None:
        return UNASKED
    if boxes[0].lower.dtype == torch.float64:
        return UNASKED
    z, sharp = [box.center for box in boxes], precise(call)
    if not all(bool(v.isfinite().all()) for v in z):
        return NONE
    computed = call(*z)
    ahead, back = rule.terms(call, min(v.numel() for v in z), computed.numel())
    _compare(
        computed,
        sharp(*(v.double() for v in z)),
        gamma(ahead, computed.dtype) * rule.extent(sharp, *(v.abs().double() for v in z)),
        "an entry of f",
    )
    nu = torch.randn(3, *computed.shape, generator=generator).to(computed)
    shapes = [v.shape for v in z]
    rows = rule.transpose(call, nu, shapes)
    exact = rule.transpose(sharp, nu.double(), shapes)
    ones = [torch.ones(shape, dtype=torch.float64) for shape in shapes]
    absolute = torch.func.vjp(lambda *m: rule.extent(sharp, *m, constant=False), *ones)[1]
    sizes = torch.func.vmap(absolute)(nu.abs().double())
    for of_rows, of_exact, size in zip(rows, exact, sizes, strict=True):
        _compare(of_rows, of_exact, gamma(back, computed.dtype) * size, "an entry of Aᵀν")
    return None


def _compare(computed: Tensor, exact: Tensor, charged: Tensor, what: str) -> None:
    """Raise if computed numbers lie farther from exact ones than is charged."""
    known = exact.isfinite() & charged.isfinite() & computed.isfinite()
    off = (computed.double() - exact).abs() - charged - least(computed.dtype)
    broken = known & (off > 0)
    assert not bool(broken.any()), (
        f"rounding is not charged: {what} is off by {float(off.masked_fill(~known, 0).max())!r} "
        "more than terms= tells"
    )
