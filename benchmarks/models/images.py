"""Models of images and of one-dimensional signals: convolutions, pools, residuals, resampling."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Do, chain, enter, normed

Conv = nn.Conv2d
Part = nn.Module | Callable[..., object]


def stack(layers: int, padding: int, stride: int, head: bool) -> nn.Module:
    """Convolutions with a kernel of 4, with or without two linear layers on top."""
    parts: list[nn.Module] = []
    for i in range(layers):
        parts += [Conv(3 if i else 1, 3, 4, stride, padding), nn.ReLU()]
    top = [nn.LazyLinear(32), nn.Linear(32, 10)] if head else []
    return settle(nn.Sequential(*parts, nn.Flatten(), *top), 1, 16, 16)


def settle(model: nn.Module, *shape: int) -> nn.Module:
    """Give lazy layers their sizes."""
    model(torch.zeros(1, *shape))
    return model


def pooled(kernel: int, padding: int, around: int) -> nn.Module:
    """A max pool between two convolutions and their ReLUs."""
    pool = nn.MaxPool2d(kernel, kernel, padding)
    parts = [Conv(1, 2, 2, padding=around), nn.ReLU(), pool, Conv(2, 2, 2, padding=around)]
    return settle(nn.Sequential(*parts, nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)), 1, 16, 16)


def signals(kernel: int, padding: int, stride: int) -> nn.Module:
    """Three convolutions of signals."""
    parts = [
        part for _ in range(3) for part in (nn.Conv1d(1, 1, kernel, stride, padding), nn.ReLU())
    ]
    return settle(nn.Sequential(*parts, nn.Flatten(), nn.LazyLinear(2)), 1, 80)


for layers, padding, stride, head in product((1, 2, 3), (1, 2), (1, 3), (True, False)):
    if not (layers == 3 and padding == 1 and stride == 3):
        top = "two linear layers" if head else "no head"
        enter(
            f"{layers} convolutions, padding {padding}, stride {stride}, {top}",
            partial(stack, layers, padding, stride, head), 1, 16, 16, eps=0.02,
        )  # fmt: skip
for kernel, padding, around in product((2, 3, 4), (0, 1), (0, 1)):
    enter(
        f"max pool {kernel}, padding {padding}, around it {around}",
        partial(pooled, kernel, padding, around), 1, 16, 16, eps=0.3,
    )  # fmt: skip


def image(name: str, *parts: Part, channels: int = 1, size: int = 8, eps: float = 0.05) -> None:
    """Enter a model of images that ends in a linear layer; parts are made anew each time."""
    shape = channels, size, size

    def make() -> nn.Module:
        made = [part() if isinstance(part, partial) else part for part in parts]
        return settle(chain(*made, nn.Flatten(), nn.LazyLinear(4)), *shape)

    enter(name, make, *shape, eps=eps)


def residual(inner: nn.Module, skip: nn.Module, z: Tensor) -> Tensor:
    return F.relu(inner(z) + skip(z))


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    """Two convolutions with BatchNorms, and a way around them."""
    first = Conv(inputs, outputs, 3, stride, 1), normed(outputs, 2), nn.ReLU()
    inner = chain(*first, Conv(outputs, outputs, 3, 1, 1), normed(outputs, 2))
    return Do(residual, inner, Conv(inputs, outputs, 1, stride))


def branches(join: Callable[[Tensor, Tensor], Tensor], *sizes: int) -> nn.Module:
    """Two convolutions of the same image, joined."""
    return Do(lambda left, right, z: join(left(z), right(z)), Conv(*sizes), Conv(*sizes))


def concatenated(left: Tensor, right: Tensor) -> Tensor:
    return torch.cat([left, right], 1)


conv, relu = partial(partial, Conv), nn.ReLU()
image("average pool 3", conv(1, 4, 3, padding=1), relu, nn.AvgPool2d(3, 1, 1), conv(4, 4, 3), relu,
      nn.AvgPool2d(2))  # fmt: skip
image("average pool over all", conv(1, 6, 3), relu, conv(6, 6, 3), relu, nn.AdaptiveAvgPool2d(1))
image("batch norm between convolutions", conv(1, 4, 3), partial(normed, 4, 2), relu, conv(4, 4, 3),
      partial(normed, 4, 2), relu)  # fmt: skip
image(
    "residual network", conv(1, 4, 3), relu, partial(block, 4, 4), partial(block, 4, 6, 2), eps=0.02
)
image("one-sided pads", nn.ZeroPad2d((2, 1, 2, 1)), conv(1, 4, 5, 2), relu,
      nn.ZeroPad2d((1, 3, 3, 1)), conv(4, 6, 4, 2, 1), relu)  # fmt: skip
image(
    "rectangles",
    lambda z: z[:, :, :6],
    conv(1, 3, (3, 4), (2, 1), (1, 2)),
    relu,
    conv(3, 4, (2, 3)),
    relu,
)
image(
    "dilated and grouped",
    conv(2, 4, 3, dilation=2, groups=2),
    relu,
    conv(4, 4, 3),
    relu,
    channels=2,
)
image(
    "transposed convolution",
    conv(1, 3, 4, 2, 1),
    relu,
    partial(nn.ConvTranspose2d, 3, 2, 4, 2, 1),
    relu,
)
image(
    "nearest upsampling",
    conv(1, 3, 3, 2, 1),
    relu,
    nn.Upsample(scale_factor=2),
    conv(3, 3, 3),
    relu,
)
image(
    "concatenated branches",
    partial(branches, concatenated, 1, 3, 3),
    relu,
    conv(6, 4, 3),
    relu,
)
image(
    "maximum of two convolutions",
    partial(branches, torch.max, 1, 4, 4, 2, 1),
    conv(4, 4, 3),
    relu,
)
image("sigmoid convolutions", conv(1, 4, 3, 2), nn.Sigmoid(), conv(4, 4, 3), nn.Sigmoid(), eps=0.2)
image("sine convolutions", conv(1, 4, 3, 2), torch.sin, conv(4, 4, 3), torch.sin, eps=0.1)
image(
    "hardtanh convolutions",
    conv(1, 4, 4, 2, 1),
    nn.Hardtanh(-0.3, 0.3),
    conv(4, 4, 3),
    nn.Hardtanh(),
)
image("scaled by constants", conv(1, 4, 3, 2), relu, lambda z: 2.0 * z - 0.5, conv(4, 4, 3), relu)
image("max pool, then dense", conv(1, 4, 3, 1, 1), relu, nn.MaxPool2d(2), partial(nn.Flatten),
      partial(nn.LazyLinear, 16), relu, eps=0.1)  # fmt: skip
image(
    "two max pools",
    conv(1, 4, 3, 1, 1),
    relu,
    nn.MaxPool2d(2),
    conv(4, 4, 3, 1, 1),
    relu,
    nn.MaxPool2d(2),
)

for kernel, padding, stride in product((3, 4), (0, 1), (2, 3)):
    enter(
        f"convolutions of signals, kernel {kernel}, padding {padding}, stride {stride}",
        partial(signals, kernel, padding, stride), 1, 80, eps=0.3,
    )  # fmt: skip
