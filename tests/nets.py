"""Random networks from the whole op list, small enough to attack exhaustively."""

import itertools
import random

import torch
import torch.nn.functional as F
from torch import nn

ACTIVATIONS = {
    "relu": F.relu,
    "relu_": lambda z: F.relu_(z.clone()),
    "leaky": lambda z: F.leaky_relu(z, 0.2),
    "hardtanh": F.hardtanh,
    "relu6": F.relu6,
    "clamp": lambda z: z.clamp(-0.4, 0.7),
    "clamp_min": lambda z: z.clamp(min=-0.2),
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "sin": torch.sin,
}


class Block(nn.Module):
    """One random op that takes a feature map and gives one."""

    def __init__(self, kind: str, channels: int, picture: bool) -> None:
        super().__init__()
        self.kind, self.picture = kind, picture
        if kind in ("residual", "affine", "dense"):
            width = 2 * channels if kind == "dense" else channels
            self.layer = (
                nn.Conv2d(channels, channels, 3, padding=1)
                if picture
                else nn.Linear(channels, channels)
            )
            self.join = nn.Conv2d(width, channels, 1) if picture else nn.Linear(width, channels)
        if kind == "norm":
            self.norm = nn.BatchNorm2d(channels) if picture else nn.BatchNorm1d(channels)
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.5, 2)
            nn.init.normal_(self.norm.weight)

    def forward(self, z):
        if self.kind in ACTIVATIONS:
            return ACTIVATIONS[self.kind](z)
        match self.kind:
            case "affine":
                return self.layer(z)
            case "residual":
                return z + F.relu(self.layer(z))
            case "dense":
                return self.join(torch.cat([z, F.relu(self.layer(z))], dim=1))
            case "norm":
                return self.norm(z)
            case "scale":
                return (z - 0.3) / -0.7 * 2
            case "split":
                a, b = z.chunk(2, dim=1)
                return torch.cat([b, 2 * a - b], dim=1)
            case "flip":
                return z.flip(-1) + 0.5 * z.roll(1, -1)
            case "pad":
                return F.pad(z, (1, 1), value=0.3)[..., 1:-1] - z.mean(-1, keepdim=True)
            case "stack":
                return torch.stack([z, -z], dim=1).sum(1) + torch.where(
                    torch.arange(z.shape[-1]) % 2 == 0, z, 0.5 * z
                )
        raise AssertionError(self.kind)


KINDS = [
    "affine", "affine", "residual", "dense", "norm", "scale", "split", "flip", "pad", "stack",
    *ACTIVATIONS, "relu", "relu",
]  # fmt: skip


def random_net(seed: int, outputs: int = 3) -> tuple[nn.Module, tuple[int, ...]]:
    """Return a float64 net in eval mode and the shape of one input."""
    pick = random.Random(seed)
    torch.manual_seed(seed)
    picture = pick.random() < 0.5
    channels = 4
    shape = (1, 3, 3) if picture else (4,)
    first = nn.Conv2d(1, channels, 2, padding=1) if picture else nn.Linear(4, channels)
    blocks = [Block(pick.choice(KINDS), channels, picture) for _ in range(pick.randint(2, 6))]
    middle = nn.Sequential(first, *blocks)
    with torch.no_grad():
        width = middle.eval()(torch.zeros(2, *shape)).flatten(1).shape[1]
    last = nn.Linear(width, outputs)
    return nn.Sequential(middle, nn.Flatten(), last).double().eval(), shape


def random_mlp(seed: int, sizes: tuple[int, ...] | None = None) -> nn.Sequential:
    """Return a float64 ReLU network."""
    pick = random.Random(seed)
    torch.manual_seed(seed)
    sizes = sizes or tuple(pick.randint(2, 6) for _ in range(pick.randint(3, 5)))
    modules: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        modules += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*modules[:-1]).double()


def random_convnet(seed: int) -> tuple[nn.Sequential, tuple[int, ...]]:
    """Return a small float64 convolutional ReLU network and its input's shape."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 2), nn.ReLU(),
        nn.Flatten(), nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3),
    ).double(), (1, 4, 3)  # fmt: skip
