"""Image classifiers, by name; thin, on small images."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo.base import Net, entry


def conv(a, b, kernel=3, stride=1, groups=1, act=nn.ReLU):
    """Return a convolution that keeps the size at stride 1, BatchNorm and an activation."""
    layer = nn.Conv2d(a, b, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(b), act())


def pooled(width, classes=3):
    """Return a global average and a linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


class Residual(nn.Module):
    """relu(skip(x) + body(x))."""

    def __init__(self, body, skip=None, act=True):
        super().__init__()
        self.body, self.skip, self.act = body, skip or nn.Identity(), act

    def forward(self, x):
        z = self.skip(x) + self.body(x)
        return F.relu(z) if self.act else z


@entry(1, 8, 8)
def thesis_small():
    return nn.Sequential(
        nn.Conv2d(1, 2, 4, 2, 1), nn.ReLU(), nn.Conv2d(2, 4, 4, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(16, 10), nn.ReLU(), nn.Linear(10, 3),
    )  # fmt: skip


@entry(1, 8, 8)
def thesis_large():
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, 1, 1), nn.ReLU(), nn.Conv2d(2, 2, 4, 2, 1), nn.ReLU(),
        nn.Conv2d(2, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 4, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(16, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 3),
    )  # fmt: skip


@entry(1, 8, 8)
def thesis_wide():
    return nn.Sequential(
        nn.Conv2d(1, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 4, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3),
    )  # fmt: skip


@entry(1, 8, 8, eps=0.005)
def thesis_deep():
    first = [layer for a in (1, 2, 2) for layer in (nn.Conv2d(a, 2, 3, 1, 1), nn.ReLU())]
    later = [layer for a in (2, 4, 4) for layer in (nn.Conv2d(a, 4, 3, 1, 1), nn.ReLU())]
    later[0] = nn.Conv2d(2, 4, 4, 2, 1)
    return nn.Sequential(*first, *later, nn.Flatten(), nn.Linear(64, 3))


@entry(3, 8, 8, eps=0.005)
def thesis_residual():
    def block(a, b, down):
        kernel, stride = (4, 2) if down else (3, 1)
        body = nn.Sequential(
            nn.Conv2d(a, b, kernel, stride, 1), nn.ReLU(), nn.Conv2d(b, b, 3, 1, 1)
        )
        return Residual(body, nn.Conv2d(a, b, stride, stride))

    return nn.Sequential(
        nn.Conv2d(3, 2, 3, 1, 1), nn.ReLU(), block(2, 2, False), block(2, 4, True),
        nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip


@entry(1, 8, 8)
def thesis_dense():
    def forward(net, x):
        a = F.relu(net.a(x))
        b = F.relu(net.b(a) + net.skip(x))
        return net.head(torch.cat([b.flatten(1), F.avg_pool2d(a, 2).flatten(1)], dim=1))

    return Net(
        forward, a=nn.Conv2d(1, 2, 3, 1, 1), b=nn.Conv2d(2, 2, 4, 2, 1),
        skip=nn.Conv2d(1, 2, 2, 2), head=nn.Linear(64, 3),
    )  # fmt: skip


@entry(1, 12, 12)
def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 3, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(3, 4, 3), nn.Tanh(),
        nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3),
    )  # fmt: skip


@entry(3, 16, 16, eps=0.002)
def alexnet():
    return nn.Sequential(
        nn.Conv2d(3, 4, 5, 2, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
        nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
        nn.Flatten(), nn.Dropout(), nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 3),
    )  # fmt: skip


@entry(3, 8, 8, eps=0.002)
def vgg():
    layers, a = [], 3
    for b in (4, "pool", 4, 6, "pool"):
        layers += [nn.MaxPool2d(2)] if b == "pool" else [nn.Conv2d(a, b, 3, padding=1), nn.ReLU()]
        a = a if b == "pool" else b
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 3))


@entry(3, 8, 8, eps=0.001)
def resnet18(width=2):
    layers, a = [conv(3, width)], width
    for stage in range(4):
        for first in (True, False):
            b, stride = width * 2**stage, 2 if stage and first else 1
            body = nn.Sequential(
                conv(a, b, 3, stride), nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b)
            )
            same = a == b and stride == 1
            skip = None if same else conv(a, b, 1, stride, act=nn.Identity)
            layers.append(Residual(body, skip))
            a = b
    return nn.Sequential(*layers, pooled(a))


@entry(3, 8, 8, eps=0.002)
def preactivated_resnet():
    def block(a):
        one = [nn.BatchNorm2d(a), nn.ReLU(), nn.Conv2d(a, a, 3, 1, 1)]
        two = [nn.BatchNorm2d(a), nn.ReLU(), nn.Conv2d(a, a, 3, 1, 1)]
        return Residual(nn.Sequential(*one, *two), act=False)

    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), block(4), block(4), nn.ReLU(), pooled(4))


@entry(3, 8, 8, eps=0.002)
def resnext():
    body = nn.Sequential(conv(4, 4, 1), conv(4, 4, 3, groups=2), nn.Conv2d(4, 4, 1))
    return nn.Sequential(conv(3, 4, 3, 2), Residual(body), pooled(4))


@entry(3, 8, 8, eps=0.002)
def densenet():
    def forward(net, x):
        x = net.stem(x)
        for layer in net.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return net.head(net.transition(x))

    def layer(a):
        return nn.Sequential(nn.BatchNorm2d(a), nn.ReLU(), nn.Conv2d(a, 2, 3, 1, 1))

    transition = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.AvgPool2d(2))
    return Net(
        forward, stem=nn.Conv2d(3, 4, 3, 2, 1), layers=nn.ModuleList([layer(4), layer(6)]),
        transition=transition, head=pooled(4),
    )  # fmt: skip


@entry(3, 8, 8, eps=0.002)
def mobilenet_v1():
    def separable(a, b, stride):
        return nn.Sequential(conv(a, a, 3, stride, groups=a), conv(a, b, 1))

    return nn.Sequential(conv(3, 4, 3, 2), separable(4, 6, 1), separable(6, 8, 2), pooled(8))


def inverted(a, act, squeeze=None):
    """Return an inverted residual, as MobileNets have."""
    layers = [conv(a, 2 * a, 1, act=act), conv(2 * a, 2 * a, 3, groups=2 * a, act=act)]
    layers += [squeeze] if squeeze else []
    return Residual(nn.Sequential(*layers, conv(2 * a, a, 1, act=nn.Identity)), act=False)


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate of all channels' means."""

    def __init__(self, channels, gate):
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)
        self.gate = gate

    def forward(self, x):
        return x * self.gate(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


@entry(3, 8, 8, eps=0.002)
def mobilenet_v2():
    return nn.Sequential(
        conv(3, 4, 3, 2, act=nn.ReLU6), inverted(4, nn.ReLU6), inverted(4, nn.ReLU6), pooled(4)
    )


@entry(3, 8, 8, eps=0.001)
def mobilenet_v3():
    block = inverted(4, nn.Hardswish, SqueezeExcite(8, F.hardsigmoid))
    return nn.Sequential(conv(3, 4, 3, 2, act=nn.Hardswish), block, pooled(4))


@entry(3, 8, 8, eps=0.001)
def efficientnet():
    block = inverted(4, nn.SiLU, SqueezeExcite(8, torch.sigmoid))
    return nn.Sequential(conv(3, 4, 3, 2, act=nn.SiLU), block, pooled(4))


@entry(3, 8, 8, eps=0.002)
def squeeze_and_excitation():
    body = nn.Sequential(conv(4, 4), SqueezeExcite(4, torch.sigmoid))
    return nn.Sequential(conv(3, 4, 3, 2), Residual(body), pooled(4))


@entry(3, 8, 8, eps=0.002)
def squeezenet():
    def fire(a):
        def forward(net, x):
            z = F.relu(net.squeeze(x))
            return torch.cat([F.relu(net.one(z)), F.relu(net.three(z))], dim=1)

        parts = {"one": nn.Conv2d(2, 3, 1), "three": nn.Conv2d(2, 3, 3, padding=1)}
        return Net(forward, squeeze=nn.Conv2d(a, 2, 1), **parts)

    last = [nn.Conv2d(6, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        fire(4),
        fire(6),
        *last,
    )


@entry(3, 8, 8, eps=0.002)
def inception():
    def forward(net, x):
        x = net.stem(x)
        pooled = net.project(F.max_pool2d(x, 3, stride=1, padding=1))
        return net.head(torch.cat([net.one(x), net.three(x), net.five(x), pooled], dim=1))

    return Net(
        forward, stem=conv(3, 4, 3, 2), one=conv(4, 2, 1), three=conv(4, 2, 3),
        five=conv(4, 2, 5), project=conv(4, 2, 1), head=pooled(8),
    )  # fmt: skip


@entry(3, 8, 8, eps=0.002)
def shufflenet():
    def forward(net, x):
        x = net.stem(x)
        x = F.channel_shuffle(F.relu(net.a(x)), 2)
        return net.head(F.relu(net.b(x)))

    return Net(
        forward, stem=conv(3, 4, 3, 2), a=nn.Conv2d(4, 4, 1, groups=2),
        b=nn.Conv2d(4, 4, 3, padding=1, groups=4), head=pooled(4),
    )  # fmt: skip


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of an image."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@entry(3, 8, 8, eps=0.001)
def convnext():
    block = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1, groups=4), ChannelNorm(4), nn.Conv2d(4, 8, 1), nn.GELU(),
        nn.Conv2d(8, 4, 1),
    )  # fmt: skip
    stem = nn.Sequential(nn.Conv2d(3, 4, 4, 4), ChannelNorm(4))
    return nn.Sequential(stem, Residual(block, act=False), pooled(4))


@entry(3, 8, 8, eps=0.001)
def conv_mixer():
    depthwise = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.GELU())
    return nn.Sequential(
        nn.Conv2d(3, 4, 2, 2), nn.GELU(), Residual(depthwise, act=False), nn.Conv2d(4, 4, 1),
        nn.GELU(), pooled(4),
    )  # fmt: skip
