"""Models of vectors and sequences: activations, arithmetic, products, shapes, attention."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import chain, enter

Function = Callable[[Tensor], Tensor]
Linear = nn.Linear


def clamp(low: float, high: float) -> Function:
    return partial(F.hardtanh, min_val=low, max_val=high)


def power(exponent: float) -> Function:
    return lambda z: z.abs().add(0.1) ** exponent


FUNCTIONS: dict[str, Function] = {
    "relu": F.relu,
    "leaky_relu": partial(F.leaky_relu, negative_slope=0.2),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "atan": torch.atan,
    "sin": torch.sin,
    "cos": torch.cos,
    "exp": torch.exp,
    "square": lambda z: z**2,
    "cube": lambda z: z**3,
    "fourth_power": lambda z: z**4,
    "abs": torch.abs,
    "softplus": F.softplus,
    "gelu": F.gelu,
    "hardtanh": F.hardtanh,
    "hardtanh_narrow": clamp(-0.25, 0.25),
    "hardtanh_above": clamp(0.1, 10),
    "hardtanh_wide": clamp(-5, 2),
    "elu": F.elu,
    "silu": lambda z: z * torch.sigmoid(z),
    "relu6": F.relu6,
    "hardsigmoid": lambda z: torch.clamp(z / 6 + 0.5, 0, 1),
    "log": lambda z: torch.log(z.abs() + 0.5),
    "sqrt": lambda z: torch.sqrt(z.abs() + 0.5),
    "reciprocal": lambda z: 1 / (z.abs() + 0.5),
    "power_1.5": power(1.5),
    "power_2.5": power(2.5),
    "power_0.5": power(0.5),
    "power_minus_1": power(-1.0),
}
"""Functions of one entry."""

for name, function in FUNCTIONS.items():
    enter(f"{name}, alone", partial(chain, function), 16, eps=0.5, spread=3)
    enter(
        f"{name}, in a net",
        lambda f=function: chain(Linear(8, 12), f, Linear(12, 12), f, Linear(12, 4)),
        8,
        eps=0.05,
    )
for name in ("relu", "tanh", "sigmoid", "sin", "cube", "exp"):
    enter(
        f"{name}, wide",
        lambda f=FUNCTIONS[name]: chain(Linear(8, 16), f, Linear(16, 4)),
        8,
        eps=0.5,
    )


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]


PAIRS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "max": torch.max,
    "min": torch.min,
    "product": torch.mul,
    "quotient": lambda a, b: a / (b.abs() + 0.5),
    "difference": torch.sub,
    "clamp_between": lambda a, b: torch.max(torch.min(a, b + 1), b - 1),
}
"""Functions of two entries, both perturbed."""

for name, pair in PAIRS.items():
    enter(f"{name}, alone", lambda f=pair: chain(lambda x: f(*halves(x))), 16, eps=0.5)
    enter(
        f"{name}, in a net",
        lambda f=pair: chain(Linear(8, 16), lambda x: f(*halves(x)), F.relu, Linear(8, 4)),
        8,
    )
