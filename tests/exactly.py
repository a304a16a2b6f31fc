"""Networks in rational arithmetic, module by module. Imports nothing from autodual."""

from fractions import Fraction

import mpmath as mp
import numpy as np
import torch
from torch import nn


class Twice(nn.Module):
    """z ↦ z + f(z)."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, z):
        return z + self.inner(z)


def rational(tensor):
    """A tensor's numbers as they are, as an array of fractions."""
    tensor = tensor.detach()
    numbers = [Fraction(v) for v in tensor.double().flatten().tolist()]
    found = np.empty(len(numbers), dtype=object)
    found[:] = numbers
    return found.reshape(tuple(tensor.shape))


def relu(z):
    return np.where(z > 0, z, Fraction(0))


def windows(z, kernel, stride):
    """The windows [C, h·w, rows, columns] of an image [C, H, W]."""
    (h, w), (down, right) = kernel, stride
    rows, columns = (z.shape[1] - h) // down + 1, (z.shape[2] - w) // right + 1
    taps = [
        z[:, i : i + down * (rows - 1) + 1 : down, j : j + right * (columns - 1) + 1 : right]
        for i in range(h)
        for j in range(w)
    ]
    return np.stack(taps, 1)


def padded(z, padding, value):
    size = (n + 2 * p for n, p in zip(z.shape[1:], padding, strict=True))
    wide = np.full((z.shape[0], *size), value, object)
    wide[:, padding[0] : padding[0] + z.shape[1], padding[1] : padding[1] + z.shape[2]] = z
    return wide


def pair(number):
    return number if isinstance(number, tuple) else (number, number)


def bias(module, count):
    return rational(torch.zeros(count) if module.bias is None else module.bias)


def conv(module, z):
    wide = padded(z, module.padding, Fraction(0))
    taps = windows(wide, module.kernel_size, module.stride)
    flat = rational(module.weight).reshape(module.out_channels, -1)
    out = flat @ taps.reshape(flat.shape[1], -1) + bias(module, module.out_channels)[:, None]
    return out.reshape(-1, *taps.shape[2:])


def smooth(f, z):
    """f of each number, to 200 bits."""
    with mp.workprec(200):
        values = [f(mp.mpf(v.numerator) / v.denominator) for v in z.reshape(-1)]
    found = np.empty(len(values), dtype=object)
    found[:] = [
        (-1) ** s * int(m) * Fraction(2) ** int(e) for s, m, e, _ in (v._mpf_ for v in values)
    ]
    return found.reshape(z.shape)


class Sign(nn.Module):
    def forward(self, z):
        return torch.sign(z)


class Choose(nn.Module):
    """Two functions, by which side of an edge z lies on; there both are far from 0."""

    def forward(self, z):
        return torch.where(z >= 0.75, z - 4096.0, 0.5 * z + 4096.0)


class Lines(nn.Module):
    """Two lines for each entry, and an edge, all of them parameters."""

    def __init__(self, size):
        super().__init__()
        self.edge = nn.Parameter(torch.tensor(0.75))
        self.one, self.other = nn.Parameter(torch.randn(size)), nn.Parameter(torch.randn(size))

    def forward(self, z):
        return torch.where(z > self.edge, self.one * z + self.other, self.other * z - self.one)


class Exp(nn.Module):
    def forward(self, z):
        return z.exp()


class Root(nn.Module):
    """√(1 + z²): a square, a sum and a root."""

    def forward(self, z):
        return (1 + z**2).sqrt()


class Attend(nn.Module):
    """softmax(z zᵀ/2) z, flattened: products of two perturbed matrices."""

    def forward(self, z):
        return (torch.softmax(z @ z.mT * 0.5, -1) @ z).flatten(1)


def normal(values):
    """The softmax along the last dimension."""
    powers = smooth(mp.exp, values)
    return powers / powers.sum(-1, keepdims=True)


def layer_norm(module, z):
    count = Fraction(z.shape[-1])
    centered = z - z.sum(-1, keepdims=True) / count
    spread = (centered * centered).sum(-1, keepdims=True) / count + Fraction(module.eps)
    scale = smooth(lambda v: 1 / mp.sqrt(v), spread)
    return centered * scale * rational(module.weight) + rational(module.bias)


def batch_norm(module, z):
    scale = smooth(lambda v: 1 / mp.sqrt(v), rational(module.running_var) + Fraction(module.eps))
    shifted = z - rational(module.running_mean)
    return shifted * scale * rational(module.weight) + rational(module.bias)


SMOOTH = {
    nn.Softplus: lambda z: mp.log1p(mp.exp(z)) if z <= 20 else z,
    nn.Hardswish: lambda z: z * min(max(z + 3, 0), 6) / 6,
    nn.Hardsigmoid: lambda z: min(max(z + 3, 0), mp.mpf(6)) / 6,
    nn.Tanh: mp.tanh,
    nn.Sigmoid: lambda z: 1 / (1 + mp.exp(-z)),
    nn.SiLU: lambda z: z / (1 + mp.exp(-z)),
    nn.GELU: lambda z: z * mp.erfc(-z / mp.sqrt(2)) / 2,
    nn.ELU: lambda z: z if z > 0 else mp.expm1(z),
    nn.Mish: lambda z: z * mp.tanh(mp.log1p(mp.exp(z))),
    nn.LogSigmoid: lambda z: -mp.log1p(mp.exp(-z)),
    nn.Softsign: lambda z: z / (1 + abs(z)),
    Exp: mp.exp,
    Root: lambda z: mp.sqrt(1 + z * z),
}


class Tied(nn.Module):
    """A linear layer whose weight is a product of two."""

    def __init__(self, inputs, rank, outputs):
        super().__init__()
        self.a = nn.Parameter(torch.randn(outputs, rank))
        self.b = nn.Parameter(torch.randn(rank, inputs))

    def forward(self, z):
        return nn.functional.linear(z, self.a @ self.b)

    def exactly(self):
        return rational(self.a) @ rational(self.b)


class Standard(nn.Module):
    """A linear layer with rows of mean 0 and variance about 1."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) + 1024)

    def forward(self, z):
        w = self.weight
        apart = w - w.mean(1, keepdim=True)
        return nn.functional.linear(z, apart / (w.std(1, keepdim=True) + 0.125))

    def exactly(self):
        w = rational(self.weight)
        apart = w - w.sum(1, keepdims=True) / Fraction(w.shape[1])
        variance = (apart * apart).sum(1, keepdims=True) / Fraction(w.shape[1] - 1)
        return apart * smooth(lambda v: 1 / (mp.sqrt(v) + mp.mpf(0.125)), variance)


class Normed(nn.Module):
    """A linear layer with a norm of its own for each row, as torch has it."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.linear = nn.utils.parametrizations.weight_norm(nn.Linear(inputs, outputs, bias=False))

    def forward(self, z):
        return self.linear(z)

    def exactly(self):
        parts = self.linear.parametrizations.weight
        size, v = rational(parts.original0), rational(parts.original1)
        return v * size * smooth(lambda s: 1 / mp.sqrt(s), (v * v).sum(1, keepdims=True))


def evaluate(module, z):
    """The module's value at one example, in real arithmetic with the floats it stores."""
    if isinstance(module, nn.Sequential):
        for part in module:
            z = evaluate(part, z)
        return z
    if isinstance(module, Twice):
        return z + evaluate(module.inner, z)
    if isinstance(module, Tied | Standard | Normed):
        return module.exactly() @ z
    if isinstance(module, nn.Linear):
        return rational(module.weight) @ z + bias(module, module.out_features)
    if isinstance(module, nn.Conv2d):
        return conv(module, z)
    if isinstance(module, nn.ReLU):
        return relu(z)
    if isinstance(module, Sign):
        return np.where(z > 0, Fraction(1), np.where(z < 0, Fraction(-1), Fraction(0)))
    if isinstance(module, Lines):
        one, other = rational(module.one), rational(module.other)
        return np.where(z > Fraction(3, 4), one * z + other, other * z - one)
    if isinstance(module, Choose):
        return np.where(z >= Fraction(3, 4), z - 4096, z / 2 + 4096)
    if isinstance(module, nn.Hardshrink):
        return np.where(abs(z) > Fraction(module.lambd), z, Fraction(0))
    if isinstance(module, nn.Threshold):
        return np.where(z > Fraction(module.threshold), z, Fraction(module.value))
    if isinstance(module, nn.LeakyReLU):
        return np.where(z > 0, z, Fraction(module.negative_slope) * z)
    if isinstance(module, nn.Hardtanh):
        low, high = Fraction(module.min_val), Fraction(module.max_val)
        return np.minimum(np.maximum(z, low), high)
    if type(module) in SMOOTH:
        return smooth(SMOOTH[type(module)], z)
    if isinstance(module, nn.LayerNorm):
        return layer_norm(module, z)
    if isinstance(module, nn.BatchNorm1d):
        return batch_norm(module, z)
    if isinstance(module, nn.Softmax):
        return normal(z)
    if isinstance(module, Attend):
        return (normal(z @ z.T / 2) @ z).reshape(-1)
    if isinstance(module, nn.Unflatten):
        return z.reshape(module.unflattened_size)
    if isinstance(module, nn.Flatten):
        return z.reshape(-1)
    if isinstance(module, nn.MaxPool2d):
        return windows(z, pair(module.kernel_size), pair(module.stride)).max(1)
    if isinstance(module, nn.AvgPool2d):
        taps = windows(z, pair(module.kernel_size), pair(module.stride))
        return taps.sum(1) / Fraction(taps.shape[1])
    raise NotImplementedError(module)
