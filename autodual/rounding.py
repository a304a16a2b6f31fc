"""What rounding may do: unit roundoff, the errors of sums in any order, directed steps.

For floating-point numbers with p digits rounded to nearest, u = 2⁻ᵖ. A sum of n products, in any
order, with or without fused multiply-add, with partial sums held in any wider format, lies within
γₙ Σ|aᵢbᵢ| of its value, γₙ = nu/(1 − nu), and what underflows adds no more than the smallest normal
number for each of its operations, also where hardware flushes subnormal numbers to zero.
(Higham, Accuracy and Stability of Numerical Algorithms, sections 3.1 and 2.1.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from autodual.errors import InputError
from autodual.interval import Interval

ROUNDINGS = {
    "outward": "bounds hold for the network in real arithmetic, with the floats it stores",
    "deployed": "bounds hold for the network in its own floating-point numbers, each op summed in "
    "any order",
    "bfloat16": "bounds hold for the network in bfloat16: each op computes in float32 or wider, "
    "summed in any order, and rounds what it gives",
}
"""What ``certify(rounding=)`` may be, and what bounds then say."""

OWN: dict[str, float | None] = {"outward": None, "deployed": 0.0, "bfloat16": 2.0**-7}
"""How the network's own results are rounded: not at all; as numbers of the bound's dtype are; and
by how much more: a result and a number in the code, by 2⁻⁸ each."""

SPARE = 8
"""How many more operations are counted than a sum has: those on what is charged for it."""


def roundoff(dtype: torch.dtype) -> float:
    """Return u, half the distance from 1 to the next number."""
    return torch.finfo(dtype).eps / 2


def gamma(count: int, dtype: torch.dtype) -> float:
    """Return γ for ``count`` operations and a few more; ∞ where they may leave no digit."""
    lost = (count + SPARE) * roundoff(dtype)
    return lost / (1 - lost) if lost < 0.5 else math.inf


def least(dtype: torch.dtype) -> float:
    """Return what one operation may lose by underflow, with a factor to spare."""
    return 4 * torch.finfo(dtype).tiny


def slack(t: Tensor) -> Tensor:
    """Return more than twice what one operation may have lost on its way to ``t``."""
    return (t.abs() * (4 * roundoff(t.dtype)) + least(t.dtype)).detach()


def up(t: Tensor) -> Tensor:
    """Return a number above what one operation was to give, for its computed result."""
    return t + slack(t)


def down(t: Tensor) -> Tensor:
    """Return a number below what one operation was to give, for its computed result."""
    return t - slack(t)


def widened(box: Interval) -> Interval:
    """Return an interval around one whose ends are the computed results of one operation each."""
    return Interval(down(box.lower), up(box.upper))


def reach(box: Interval, z: Tensor) -> Tensor:
    """Return how far a point of the box can lie from z, or more."""
    return up(torch.maximum(box.upper - z, z - box.lower)).clamp(min=0)


def at_least(value: float | Tensor, like: Tensor) -> Tensor:
    """Return a number that is none below ``value``, in the dtype and on the device of ``like``."""
    exact = torch.as_tensor(value, device=like.device)
    exact = exact.double() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.double)
    near = exact.to(like)
    above = torch.nextafter(near, torch.full_like(near, math.inf))
    return torch.where(near.double() < exact, above, near)


def at_most(value: float | Tensor, like: Tensor) -> Tensor:
    """Return a number that is none above ``value``, in the dtype and on the device of ``like``."""
    return -at_least(-value, like)


def check_short(x: Tensor, constants: Iterable[Tensor]) -> None:
    """Raise unless bounds in x's dtype can be of a network in bfloat16 with these constants.

    Raises:
        InputError: x is not float32; a number is none that bfloat16 holds.
    """
    if x.dtype != torch.float32:
        raise InputError(
            f'rounding="bfloat16" is for bounds in float32, where the same numbers underflow, not '
            f"in {x.dtype}: give model.bfloat16().float() and x.float()"
        )
    floats = (t for t in constants if t.is_floating_point())
    if not all(bool((t.bfloat16().to(t) == t).all()) for t in floats):
        raise InputError(
            'rounding="bfloat16" is for weights that bfloat16 holds: give model.bfloat16().float()'
        )


def check_device(x: Tensor) -> None:
    """Raise unless errors of sums on x's device are those that are charged.

    Raises:
        InputError: it is a GPU; subnormal numbers are lost; short or transformed products are
            allowed.
    """
    if x.device.type != "cpu":
        raise InputError(
            f"rounding= is for the CPU: on {x.device} convolutions may be made of transforms and "
            "products of short numbers, whose errors are not those of a sum. Move model and x."
        )
    tiny = torch.full((), torch.finfo(x.dtype).tiny, dtype=x.dtype)
    if not bool(tiny * 0.5 > 0):
        raise InputError(
            "rounding= needs subnormal numbers: call torch.set_flush_denormal(False) first"
        )
    onednn = torch.backends.mkldnn
    backends = torch.backends, onednn.matmul, onednn.conv  # type: ignore[attr-defined]
    if any(b.fp32_precision not in ("none", "ieee") for b in backends):
        raise InputError(
            "rounding= needs products in full precision: torch.set_float32_matmul_precision and "
            "torch.backends.…fp32_precision allow shorter ones"
        )
    transforms = torch.backends.nnpack.is_available() and torch._C._get_nnpack_enabled()
    if transforms and not (onednn.is_available() and torch._C._get_mkldnn_enabled()):
        raise InputError(
            "rounding= needs convolutions that are sums, and NNPACK makes them of transforms: "
            "call torch.backends.nnpack.set_flags(False) first"
        )
