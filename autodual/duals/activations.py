"""Smooth activations: sigmoid, tanh, softplus, GELU, SiLU, Mish, ELU and their kin."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from autodual.duals.base import Call
from autodual.duals.curves import Curve, by_curve, curve_leaves, curve_lines, smooth
from autodual.duals.elementwise import Elementwise, worst
from autodual.duals.piecewise import enclose
from autodual.duals.relaxed import Lines, Planes
from autodual.interval import Interval

INF = math.inf


def sigmoid_derivative(z: Tensor) -> Tensor:
    """σ′ = σ(z) σ(−z)."""
    return torch.sigmoid(z) * torch.sigmoid(-z)


def tanh_derivative(z: Tensor) -> Tensor:
    """tanh′ = cosh⁻² = 4σ(2z)σ(−2z), which does not overflow, nor does its own derivative."""
    return 4 * sigmoid_derivative(2 * z)


def gelu_derivative(z: Tensor) -> Tensor:
    """(zΦ)′ = Φ + zφ, and (zΦ)″ = φ·(2 − z²)."""
    density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return torch.erfc(-z / math.sqrt(2)) / 2 + z * density


def tanh_gelu_derivative(z: Tensor) -> Tensor:
    """f = z/2 (1 + tanh v) with v = √(2/π)(z + 0.044715 z³)."""
    root = math.sqrt(2 / math.pi)
    inner = root * (z + 0.044715 * z**3)
    slope = root * (1 + 3 * 0.044715 * z**2)
    return (1 + torch.tanh(inner)) / 2 + z / 2 * tanh_derivative(inner) * slope


def silu_derivative(z: Tensor) -> Tensor:
    """(zσ)′ = σ + zσ′."""
    return torch.sigmoid(z) + z * sigmoid_derivative(z)


def mish_derivative(z: Tensor) -> Tensor:
    """f = z tanh(softplus z)."""
    inner = F.softplus(z)
    return torch.tanh(inner) + z * tanh_derivative(inner) * torch.sigmoid(z)


def hardswish_derivative(z: Tensor) -> Tensor:
    """f is 0 below −3, z(z + 3)/6 up to 3, z above."""
    middle = torch.where(z < 3, z / 3 + 0.5, torch.ones_like(z))
    return torch.where(z > -3, middle, torch.zeros_like(z))


def _gelu(call: Call) -> Curve:
    if call["approximate"] == "tanh":
        bend = 1.4185040087908283
        return Curve(tanh_gelu_derivative, (-bend, bend), (-0.752461422071016,), range=(-0.18, INF))
    bend = math.sqrt(2)
    return Curve(gelu_derivative, (-bend, bend), (-0.7517915246935645,), range=(-0.18, INF))


def _elu(call: Call) -> Curve:
    """f is s·z above 0, and s·α(exp(c z) − 1) below."""
    alpha, scale, inner = (float(call[name]) for name in ("alpha", "scale", "input_scale"))
    return _exponential_below(alpha * inner * scale, scale, inner)


def _celu(call: Call) -> Curve:
    """f is z above 0, and α(exp(z/α) − 1) below."""
    return _exponential_below(1.0, 1.0, 1 / float(call["alpha"]))


def _exponential_below(left: float, right: float, inner: float) -> Curve:
    """f′ is ``right`` above 0, and ``left``·exp(``inner``·z) below."""

    def derivative(z: Tensor) -> Tensor:
        below = left * torch.exp(inner * z.clamp(max=0))
        return torch.where(z > 0, torch.full_like(z, right), below)

    return Curve(derivative, (0.0,), (0.0,))


def _softplus(call: Call) -> tuple[Callable[[Tensor], Tensor], Curve, float]:
    """Return log(1 + exp(βz))/β, its curve, and by how much the op jumps down at its threshold."""
    beta = float(call["beta"])
    jump = math.log1p(math.exp(-float(call["threshold"]))) / beta
    return lambda z: -F.logsigmoid(-beta * z) / beta, Curve(lambda z: torch.sigmoid(beta * z)), jump


def softplus_lines(call: Call, box: Interval, slope: Tensor | None) -> Lines:
    """Enclose log(1 + exp(βz))/β for βz below a threshold t, and z above it.

    There the op jumps down by log(1 + exp(−t))/β, 2·10⁻⁹ for t = 20 and β = 1. Where the box lies
    beyond t the op is z; where it reaches beyond, the lines are those of the smooth function, the
    lower one moved by the jump.
    """
    f, curve, jump = _softplus(call)
    reaches, linear = _beyond(call, box.upper), _beyond(call, box.lower)
    curved = curve_lines(f, curve, box, slope)
    if slope is None:
        slope = torch.where(linear, 1.0, curved.lower_slope)
    straight = enclose(call, box, slope, ())
    lower = curved.lower_intercept - jump * reaches
    return Lines.parallel(
        slope,
        torch.where(linear, straight.lower_intercept, lower),
        torch.where(linear, straight.upper_intercept, curved.upper_intercept),
    )


def softplus_interval(call: Call, box: Interval) -> Interval:
    """Bound softplus by its ends, less the jump."""
    f, _, jump = _softplus(call)
    reaches, linear = _beyond(call, box.upper), _beyond(call, box.lower)
    return Interval(
        torch.where(linear, box.lower, f(box.lower) - jump * reaches),
        torch.where(linear, box.upper, f(box.upper)),
    )


def softplus_leaves(
    call: Call, box: Interval, *, planes: Planes, errors: float, floor: float
) -> Tensor:
    """Return how far softplus may leave two lines: the smooth function, less the jump, or z.

    Where rounding decides whether the threshold is reached, it is.
    """
    f, curve, jump = _softplus(call)
    scaled, edge = call["beta"] * box.upper, call["threshold"] * (1 - 1e-5)
    linear = call["beta"] * box.lower > call["threshold"] * (1 + 1e-5)
    moved = planes.lower_intercept + 1.001 * jump * (scaled > edge)
    lowered = Planes(planes.lower_slopes, moved, planes.upper_slopes, planes.upper_intercept)
    curved = curve_leaves(f, curve, box, planes=lowered, errors=errors, floor=floor)
    straight = worst([planes.missed(z, (z,), z.abs()) for z in (box.lower, box.upper)])
    return torch.where(linear, straight, curved)


def _beyond(call: Call, z: Tensor) -> Tensor:
    return call["beta"] * z > call["threshold"]


def softsign_derivative(z: Tensor) -> Tensor:
    """(z/(1 + |z|))′ = (1 + |z|)⁻²."""
    return (1 + z.abs()) ** -2


TABLE = {
    "aten.sigmoid.default": smooth(
        sigmoid_derivative, (0.0,), range=(0.0, 1.0), errors=4, floor=1.0
    ),
    "aten.tanh.default": smooth(tanh_derivative, (0.0,), range=(-1.0, 1.0), errors=4, floor=1.0),
    "aten.gelu.default": by_curve(_gelu, errors=8, floor=1.0),
    "aten.silu.default": smooth(
        silu_derivative,
        (-2.3993572805154677, 2.3993572805154677),
        (-1.2784645427610738,),
        range=(-0.28, INF),
        errors=6,
        floor=1.0,
    ),
    "aten.mish.default": smooth(
        mish_derivative,
        (-2.256376396360793, 1.4905711794854285),
        (-1.192431214515495,),
        range=(-0.31, INF),
        errors=8,
        floor=1.0,
    ),
    "autodual.softsign": smooth(
        softsign_derivative, (0.0,), range=(-1.0, 1.0), argument="input", errors=4, floor=1.0
    ),
    "aten.elu.default": by_curve(_elu, errors=6, floor=1.0),
    "aten.celu.default": by_curve(_celu, errors=6, floor=1.0),
    "aten.hardswish.default": smooth(
        hardswish_derivative, (-3.0, 3.0), (-1.5,), range=(-0.375, INF), errors=6, floor=1.0
    ),
    "aten.log_sigmoid_forward.default": smooth(
        lambda z: torch.sigmoid(-z), range=(-INF, 0.0), errors=6, floor=1.0
    ),
    "aten.softplus.default": Elementwise(
        softplus_lines,
        softplus_interval,
        accepts=lambda args: args["beta"] > 0,
        errors=8,
        floor=1.0,
        leaves=softplus_leaves,
    ),
}
