"""Models of vectors and sequences: activations, arithmetic, products, shapes, attention."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Do, chain, enter, normed

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


def weights_as_input(data: Tensor, x: Tensor) -> Tensor:
    """Two layers whose weights are the perturbed input, at fixed data [P, 4]."""
    first, second = x[:, :24].reshape(-1, 4, 6), x[:, 24:].reshape(-1, 6, 2)
    return torch.relu(data.matmul(first)).matmul(second).flatten(1)


def residual(inner: nn.Module, x: Tensor) -> Tensor:
    return torch.relu(x + inner(x))


def block() -> nn.Module:
    return Do(residual, chain(Linear(8, 8), F.relu, Linear(8, 8)))


SHAPES: dict[str, Function] = {
    "sum": lambda z: z.sum(1, keepdim=True),
    "mean": lambda z: z.mean(1, keepdim=True),
    "slices": lambda z: z[:, 1:7] - z[:, 2:8] + z[:, :6],
    "concatenation": lambda z: torch.cat([z, z[:, :4] * 2, -z], 1),
    "stack": lambda z: torch.stack([z, 1 - z], 2).flatten(1),
    "split": lambda z: torch.cat(z.split([3, 9], 1)[::-1], 1),
    "pad": lambda z: F.pad(z, (2, 1), value=0.5),
    "transpose": lambda z: z.reshape(-1, 3, 4).transpose(1, 2).flatten(1),
    "permute": lambda z: z.reshape(-1, 2, 2, 3).permute(0, 3, 1, 2).flatten(1),
    "unsqueeze": lambda z: (z.unsqueeze(1) + z.unsqueeze(2)).flatten(1),
    "expand": lambda z: z[:, :1].expand(-1, 6) - z[:, :6],
    "index": lambda z: z[:, [0, 3, 3, 7, 1]],
    "cumulative_sum": lambda z: torch.cumsum(z, 1),
    "constants": lambda z: 0.5 * (2.0 * z - 1) + torch.arange(12) / 12,
    "where": lambda z: torch.where(torch.arange(12) % 2 == 0, z, -z),
    "negation": lambda z: -z,
    "norm": lambda z: (z * z).sum(1, keepdim=True).add(0.1).sqrt(),
    "polynomial": lambda z: z**3 - 2 * z * z + z,
    "maximum_of_all": lambda z: z.max(1, keepdim=True)[0],
    "minimum_of_all": lambda z: (z - z.flip(1)).min(1, keepdim=True)[0] + 1,
    "sine_of_square": lambda z: torch.sin(z * z),
    "gate": lambda z: z[:, :6] * torch.sigmoid(z[:, 6:]),
    "affine_of_products": lambda z: (z[:, :6] * z[:, 6:] + z[:, :6]) / 2,
}
"""What happens between two layers, 12 wide."""

for name, function in SHAPES.items():

    def shaped(f: Function = function) -> nn.Module:
        size = f(torch.zeros(1, 12)).shape[1]
        return chain(Linear(8, 12), F.relu, f, F.relu, Linear(size, 4))

    enter(name, shaped, 8)
enter("weights as input", lambda: Do(weights_as_input, torch.randn(3, 4)), 36, eps=0.05)
enter("residual blocks", lambda: chain(Linear(8, 8), block(), block(), Linear(8, 3)), 8)
enter("batch norm", lambda: chain(Linear(8, 12), normed(12), F.relu, Linear(12, 3)), 8)
enter("dropout", lambda: chain(Linear(8, 12), nn.Dropout(0.3), F.relu, Linear(12, 3)), 8)
for depth in (2, 3, 4, 5):
    enter(
        f"{depth} ReLU layers of 20",
        lambda d=depth: chain(Linear(8, 20), *[Linear(20, 20), F.relu] * d, Linear(20, 4)), 8,
    )  # fmt: skip
