"""Every activation between two linear layers."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo.base import ZOO, Entry, Net

ACTIVATIONS = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "relu6": F.relu6,
    "hardtanh": F.hardtanh,
    "clamp": lambda z: z.clamp(-0.2, 0.3),
    "threshold": lambda z: F.threshold(z, 0.1, 0.1),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": F.softplus,
    "log_sigmoid": F.logsigmoid,
    "gelu": F.gelu,
    "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "elu": F.elu,
    "selu": F.selu,
    "celu": lambda z: F.celu(z, 0.5),
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "softsign": F.softsign,
    "softshrink": lambda z: F.softshrink(z, 0.1),
    "hardshrink": lambda z: F.hardshrink(z, 0.1),
    "tanhshrink": F.tanhshrink,
    "exp": torch.exp,
    "log": lambda z: torch.log(z.relu() + 0.5),
    "log1p": lambda z: torch.log1p(z.abs()),
    "sqrt": lambda z: torch.sqrt(z.abs() + 0.1),
    "rsqrt": lambda z: torch.rsqrt(z.relu() + 0.5),
    "reciprocal": lambda z: torch.reciprocal(z.relu() + 0.5),
    "square": torch.square,
    "cube": lambda z: z**3,
    "abs": torch.abs,
    "sin": torch.sin,
    "cos": torch.cos,
    "erf": torch.erf,
    "atan": torch.atan,
    "asin": lambda z: torch.asin(z.tanh()),
    "tan": lambda z: torch.tan(z.tanh()),
    "atanh": lambda z: torch.atanh(0.9 * z.tanh()),
    "acosh": lambda z: torch.acosh(1.5 + z.square()),
    "logit": lambda z: torch.logit(z.sigmoid()),
    "prelu": nn.PReLU,
    "rrelu": nn.RReLU,
    "sign": torch.sign,
    "round": lambda z: torch.round(8 * z) / 8,
    "floor": lambda z: torch.floor(8 * z) / 8,
}
STEPS = {"sign", "round", "floor"}


def mlp(activation):
    """Return 6 → 8 → 8 → 3 with the activation between."""
    if isinstance(activation, type):
        first, second = activation(), activation()
    else:
        first, second = (Net(lambda net, z: activation(z)) for _ in range(2))
    return nn.Sequential(
        nn.Linear(6, 8), first, nn.Linear(8, 8), second, nn.Linear(8, 3)
    )  # fmt: skip


for name, activation in ACTIVATIONS.items():
    ZOO[f"mlp_{name}"] = Entry(
        lambda activation=activation: mlp(activation),
        shape=(6,),
        eps=0.02,
        intervals=name in STEPS,
    )
