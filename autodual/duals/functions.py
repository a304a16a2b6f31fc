"""Elementary functions: exponentials, logarithms, powers, trigonometric functions, erf."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from autodual.duals.base import Call, DualLayer, Either, always
from autodual.duals.curves import Curve, by_curve, everywhere, smooth
from autodual.interval import Interval

INF = math.inf

NEWTON = 6
"""Newton's steps that make a root exact from close by."""


def above(edge: float) -> Callable[[Interval], Tensor]:
    """Return where a box lies in the domain [edge, ∞)."""
    return lambda box: box.lower >= edge


def positive(box: Interval) -> Tensor:
    """Return where a box lies to the right of the pole at 0."""
    return box.lower > 0


def apart_from_zero(box: Interval) -> Tensor:
    """Return where a box does not hold the pole at 0."""
    return (box.lower > 0) | (box.upper < 0)


def within(edge: float) -> Callable[[Interval], Tensor]:
    """Return where a box lies in the domain [−edge, edge]."""
    return lambda box: (box.lower >= -edge) & (box.upper <= edge)


def between_poles(box: Interval) -> Tensor:
    """Return where a box holds no pole (k + ½)π, nor a few ulps beyond, and is close to 0."""
    turns = box.map(lambda end: end / math.pi + 0.5)
    slack = turns.map(lambda t: 4 * torch.finfo(t.dtype).eps * (1 + t.abs()))
    first, last = turns.lower - slack.lower, turns.upper + slack.upper
    return _within_a_turn(box) & (torch.floor(first) == torch.floor(last))


def _log(base: float) -> Callable[[Tensor], Tensor]:
    return lambda z: 1 / (z * math.log(base))


def _power(call: Call) -> Curve:
    """f = zⁿ, f′ = n zⁿ⁻¹, and f″ = n(n − 1)zⁿ⁻² changes sign at 0 only."""
    n = float(call["exponent"])
    if n == 0:
        return Curve(torch.zeros_like)
    if not n.is_integer():
        return Curve(lambda z: n * z ** (n - 1), holds=above(0.0) if n > 0 else positive)
    holds = everywhere if n > 0 else apart_from_zero
    return Curve(lambda z: n * z ** (n - 1), (0.0,), (0.0,), holds)


def _powers(call: Call) -> Curve:
    """f = zⁿ with an exponent of its own for each entry."""
    n = call["exponent"]

    def derivative(z: Tensor) -> Tensor:
        return torch.where(n == 0, 0.0, n * z ** (n - 1))

    def holds(box: Interval) -> Tensor:
        defined = torch.where(n % 1 == 0, apart_from_zero(box), positive(box))
        return defined | (box.lower >= 0) & (n > 0) | (n % 1 == 0) & (n >= 0)

    return Curve(derivative, (0.0,), (0.0,), holds)


def _power_of_constant(call: Call) -> Curve:
    """f = bᶻ for a constant b > 0, a number or one for each entry; f′ = ln b·bᶻ."""
    base = torch.as_tensor(call["self"])

    def derivative(z: Tensor) -> Tensor:
        defined = torch.where(base > 0, base, 1).to(z.dtype)
        return torch.log(defined) * torch.pow(defined, z)

    return Curve(derivative, holds=lambda box: (base > 0) | (box.lower == box.upper))


def _multiples(offset: float) -> Callable[[Interval], list[Tensor]]:
    """Return the first three of the points (k + offset)π above a box's lower end."""

    def points(box: Interval) -> list[Tensor]:
        first = torch.ceil(box.lower.detach() / math.pi - offset) + offset
        return [(first + k) * math.pi for k in range(3)]

    return points


def _within_a_turn(box: Interval) -> Tensor:
    """Return where a box is no wider than 2π, and multiples of π are exact enough there.

    To 10⁻⁴, and to the root of the unit roundoff: a wave's peak is then found to a roundoff.
    """
    width, far = box.upper - box.lower, box.magnitude
    eps = torch.finfo(far.dtype).eps
    close = far <= min(1e-4 / eps, 0.5 / math.sqrt(eps))
    return (width == 0) | ((width <= 2 * math.pi) & close)


def _wave(derivative: Callable[[Tensor], Tensor], zero: float) -> Curve:
    """A sine with zeros, which are its inflection points too, at (k + ``zero``)π."""
    return Curve(
        derivative, _multiples(zero), _multiples(zero + 0.5), _within_a_turn, range=(-1.0, 1.0)
    )


def _sinc_slope(z: Tensor) -> Tensor:
    """Return (cos πz − sinc z)/z, by its series in t = (πz)² where that cancels."""
    near = z.abs() < 0.03
    far, t = z.masked_fill(near, 1.0), (math.pi * z).square()
    series = math.pi**2 * z * (-1 / 3 + t * (1 / 30 + t * (-1 / 840 + t / 45360)))
    return torch.where(near, series, (torch.cos(math.pi * far) - torch.sinc(far)) / far)


def _sinc_bends(t: Tensor) -> Tensor:
    """Return Newton's step to where f″ = 0: (2 − t²) sin t = 2t cos t."""
    return ((2 - t**2) * t.sin() - 2 * t * t.cos()) / (t**2 * t.cos())


def _sinc_peaks(t: Tensor) -> Tensor:
    """Return Newton's step to where f′ = 0: t cos t = sin t."""
    return (t * t.cos() - t.sin()) / (t * t.sin())


def _sinc_roots(
    offset: float, gap: float, newton: Callable[[Tensor], Tensor]
) -> Callable[[Interval], list[Tensor]]:
    """Return the roots of which one lies about gap/t below each t = (k + ``offset``)π > π.

    Others lie at their negatives and, if it is a root, at 0: four above a box's lower end.
    """

    def root(place: Tensor) -> Tensor:
        t = math.pi * place.abs().clamp(min=1)
        t = t - gap / t
        for _ in range(NEWTON):
            t = t + newton(t)
        return torch.where(place.abs() < 1, 0, place.sign() * t / math.pi)

    return lambda box: [root(torch.floor(box.lower.detach()) + offset + k) for k in range(4)]


SINC = Curve(
    _sinc_slope,
    _sinc_roots(0.0, 2.0, _sinc_bends),
    _sinc_roots(-0.5, 1.0, _sinc_peaks),
    lambda box: _within_a_turn(box.map(lambda end: math.pi * end)),
    range=(-0.2173, 1.0),
)
SINE = _wave(torch.cos, 0.0)
COSINE = _wave(lambda z: -torch.sin(z), 0.5)
ROOT = 2 / math.sqrt(math.pi)


def _is_held(args: Mapping[str, Any]) -> bool:
    """Return whether float32 holds the base of a power, so that no library rounds it."""
    base = args["self"]
    return not isinstance(base, int | float) or float(torch.tensor(base).float()) == base


ANY_BASE = by_curve(_power_of_constant, argument="exponent", partial=True)
POWER_OF_CONSTANT = Either((replace(ANY_BASE, accepts=_is_held, errors=8), ANY_BASE))
WHOLE_POWER = replace(
    by_curve(_power, partial=True, errors=8),
    accepts=lambda args: float(args["exponent"]).is_integer(),
)
"""zⁿ. Other exponents may be rounded on the way to a library, as 0.1 is to float32: by u, which is
u n ln z of the result, and so are those of the derivative, n − 1. Results are finite: 89 u, or in
float64 no more than what is left of n − 1."""

TABLE: dict[str, DualLayer | Either] = {
    "aten.exp.default": smooth(torch.exp, range=(0.0, INF), errors=4),
    "aten.exp2.default": smooth(lambda z: math.log(2) * torch.exp2(z), range=(0.0, INF), errors=4),
    "aten.expm1.default": smooth(torch.exp, range=(-1.0, INF), errors=4),
    "aten.pow.Scalar": POWER_OF_CONSTANT,
    "aten.log.default": smooth(torch.reciprocal, holds=above(0.0), errors=4),
    "aten.log2.default": smooth(_log(2), holds=above(0.0), errors=4),
    "aten.log10.default": smooth(_log(10), holds=above(0.0), errors=4),
    "aten.log1p.default": smooth(lambda z: 1 / (1 + z), holds=above(-1.0), errors=4),
    "aten.sqrt.default": smooth(lambda z: torch.rsqrt(z) / 2, holds=above(0.0), errors=4),
    "aten.rsqrt.default": smooth(lambda z: -torch.rsqrt(z) / (2 * z), holds=positive, errors=4),
    "aten.reciprocal.default": smooth(lambda z: -(z**-2), (0.0,), holds=apart_from_zero, errors=4),
    "aten.pow.Tensor_Scalar": Either(
        (WHOLE_POWER, replace(WHOLE_POWER, errors=100, accepts=always))
    ),
    "aten.pow.Tensor_Tensor": Either(
        (by_curve(_powers, partial=True, errors=50), *POWER_OF_CONSTANT.rules)
    ),
    "aten.sin.default": by_curve(lambda call: SINE, errors=4, floor=1.0),
    "aten.cos.default": by_curve(lambda call: COSINE, errors=4, floor=1.0),
    "aten.sinc.default": by_curve(lambda call: SINC, errors=6, floor=1.0),
    "aten.tan.default": smooth(
        lambda z: 1 + torch.tan(z) ** 2, _multiples(0.0), holds=between_poles, errors=6
    ),
    "aten.asin.default": smooth(
        lambda z: torch.rsqrt(1 - z) * torch.rsqrt(1 + z),
        (0.0,),
        holds=within(1.0),
        inside=0.5,
        errors=6,
    ),
    "aten.acos.default": smooth(
        lambda z: -torch.rsqrt(1 - z) * torch.rsqrt(1 + z),
        (0.0,),
        holds=within(1.0),
        inside=0.5,
        errors=6,
        floor=1.0,
    ),
    "aten.sinh.default": smooth(torch.cosh, (0.0,), errors=6),
    "aten.cosh.default": smooth(torch.sinh, (), (0.0,), range=(1.0, INF), errors=4),
    "aten.atan.default": smooth(
        lambda z: 1 / (1 + z * z), (0.0,), range=(-math.pi / 2, math.pi / 2), errors=4
    ),
    "aten.acosh.default": smooth(
        lambda z: torch.rsqrt(z - 1) * torch.rsqrt(z + 1),
        holds=above(1.0),
        inside=2.0,
        errors=6,
        floor=1.0,
    ),
    "aten.atanh.default": smooth(
        lambda z: 1 / ((1 - z) * (1 + z)), (0.0,), holds=within(1.0), inside=0.5, errors=6
    ),
    "aten.logit.default": replace(
        smooth(
            lambda z: 1 / (z * (1 - z)),
            (0.5,),
            holds=lambda box: (box.lower >= 0) & (box.upper <= 1),
            inside=0.5,
            errors=6,
            floor=1.0,
        ),
        accepts=lambda args: args["eps"] is None,
    ),
    "aten.erf.default": smooth(
        lambda z: ROOT * torch.exp(-z * z), (0.0,), range=(-1.0, 1.0), errors=4, floor=1.0
    ),
    "aten.erfc.default": smooth(
        lambda z: -ROOT * torch.exp(-z * z), (0.0,), range=(0.0, 2.0), errors=4, floor=1.0
    ),
}
