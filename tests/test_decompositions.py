"""Ops that passes rewrite: the graph still computes the model, and no point beats a bound."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import autodual as ad
from autodual.bound.plan import METHODS
from autodual.duals.functions import between_poles
from autodual.front.evaluate import entries, run


class Around(nn.Module):
    """A linear layer, the op, and a linear layer to three classes."""

    def __init__(self, op, shape, inner=None):
        super().__init__()
        self.op, self.inner = op, inner
        self.first = nn.Linear(shape[-1], shape[-1])
        with torch.no_grad():
            width = self.eval().middle(torch.zeros(2, *shape)).shape[1]
        self.last = nn.Linear(width, 3)

    def middle(self, x):
        z = self.first(x)
        return (self.op(z) if self.inner is None else self.op(self.inner, z)).flatten(1)

    def forward(self, x):
        return self.last(self.middle(x))


CAUSAL = torch.full((3, 3), -torch.inf).triu(1)
DIAGONAL = torch.eye(3, dtype=torch.bool)


def attend(q, k, v, **options):
    return F.scaled_dot_product_attention(q, k, v, **options)


def write(z):
    z[z > 0.5] = -1.0
    return z


POINTS = torch.tensor([[0.5, -1.0, 2.0], [-2.0, 0.3, 0.1]])
M = torch.tensor([[2.0, 0.3, 0.0], [-0.5, 1.0, 0.2], [0.1, 0.4, -1.5]])
GRID = torch.tensor([[[0.1, -0.4], [0.9, 0.2]], [[-0.7, 1.3], [0.0, 0.0]]])


def own(module, z):
    return module(z)


def first(module, z):
    return module(z)[0]


MODELS = {
    "product": (lambda z: F.relu(z) * z.roll(1, -1), (4,)),
    "product, broadcast": (lambda z: z.relu() * z.mean((2, 3), keepdim=True), (2, 2, 2)),
    "square": (lambda z: z * z, (4,)),
    "quotient": (lambda z: z / (1 + z * z) + 1 / (2 + z.abs()), (4,)),
    "powers": (
        lambda z: (
            z ** torch.arange(4)
            + z.exp() ** torch.tensor([0.5, -1.0, 2.0, -0.3])
            + torch.tensor([0.2, 1.0, 3.0, 1.5]) ** z
        ),
        (4,),
    ),
    "powers of both": (lambda z: (z.abs() + 0.5) ** z.mean(1, keepdim=True), (4,)),
    "matrix product": (lambda z: z.relu() @ z.mT @ z, (3, 2)),
    "matrix square": (lambda z: z @ z, (2, 2)),
    "einsum": (lambda z: torch.einsum("nij,nik->njk", z, 2 * z), (3, 2)),
    "maximum": (lambda z: torch.maximum(z, z.roll(1, -1)) + torch.min(z, -z.relu()), (4,)),
    "maximum with a constant": (
        lambda z: torch.maximum(z, torch.arange(4.0)) - torch.minimum(torch.ones(1), z),
        (4,),
    ),
    "maximum, broadcast": (lambda z: torch.max(z, z.sum(1, keepdim=True)), (3, 2)),
    "amax": (lambda z: torch.cat([z.amax((1, 2)), z.amin(2).flatten(1)], 1), (2, 2, 3)),
    "max over a dimension": (lambda z: z.max(1).values + z.min(1)[0], (5, 2)),
    "prod": (lambda z: z.prod(1), (3, 2)),
    "max pool 1d": (lambda z: F.max_pool1d(z, 3, 2, padding=1), (2, 6)),
    "max pool 2d": (lambda z: F.max_pool2d(z, 3, 2, padding=1), (1, 5, 4)),
    "max pool 2d, ceil": (lambda z: F.max_pool2d(z, 2, ceil_mode=True), (1, 5, 3)),
    "max pool 2d, dilated": (lambda z: F.max_pool2d(z, 2, 1, dilation=2), (1, 4, 5)),
    "max pool 3d": (lambda z: F.max_pool3d(z, (1, 2, 2)), (1, 2, 4, 2)),
    "adaptive max pool": (lambda z: F.adaptive_max_pool2d(z, (3, 2)), (1, 5, 4)),
    "softmax": (lambda z: F.softmax(z, 1), (3, 2)),
    "softmax of one": (lambda z: F.softmax(z, 1) * z, (1, 3)),
    "softmax, a number added": (lambda z: F.softmax(z + 0.5, 1), (4,)),
    "softmax, −∞ added": (lambda z: F.softmax(z + CAUSAL.to(z), 2), (3, 3)),
    "softmax, −∞ filled in": (lambda z: F.softmax(z.masked_fill(DIAGONAL, -torch.inf), 1), (3, 3)),
    "softmax, −∞ elsewhere": (lambda z: F.softmax(torch.where(DIAGONAL, z, -torch.inf), 1), (3, 3)),
    "log softmax": (lambda z: F.log_softmax(z, 1), (4,)),
    "logsumexp": (lambda z: torch.logsumexp(z, (1, 2)).unsqueeze(1), (2, 2)),
    "layer norm": (own, (3, 4), nn.LayerNorm(4)),
    "group norm": (own, (4, 2, 2), nn.GroupNorm(2, 4)),
    "instance norm": (own, (2, 2, 2), nn.InstanceNorm2d(2, affine=True)),
    "instance norm, running": (own, (2, 3), nn.InstanceNorm1d(2, track_running_stats=True)),
    "sums of exponentials": (
        lambda z: (
            torch.logaddexp(z, z.roll(1, 1))
            + torch.logaddexp(torch.arange(3.0).to(z), z)
            + torch.logaddexp2(z, z.mean(1, keepdim=True))
        ),
        (3,),
    ),
    "running": (
        lambda z: torch.logcumsumexp(z, 1) + z.cummax(1)[0] - z.cummin(1)[0] + z.cumprod(1),
        (5,),
    ),
    "sum of a product": (lambda z: torch.addmm(z, z, M.to(z), beta=2, alpha=-3), (3,)),
    "linear equations": (lambda z: torch.linalg.solve(M.to(z), z), (3, 2)),
    "grouped queries": (lambda z: attend(z, z[:, :1], z[:, :1], enable_gqa=True), (2, 2, 2)),
    "power-average pool": (lambda z: F.lp_pool1d(z.exp(), 3, 2), (2, 4)),
    "rotations": (
        lambda z: torch.view_as_real(torch.view_as_complex(z) * torch.tensor([1j, 0.6 - 0.8j])),
        (2, 2),
    ),
    "NaN asked for": (
        lambda z: z.nansum(1, keepdim=True) + z.masked_fill(z.isnan(), 0.0) + z.exp().nan_to_num(),
        (3,),
    ),
    "Jacobian": (lambda z: torch.vmap(torch.func.jacrev(lambda v: v.tanh() * v[0]))(z), (3,)),
    "derivative along x": (
        lambda z: torch.func.jvp(lambda v: v.sin() * v.roll(1, 1), (z,), (torch.ones_like(z),))[1],
        (3,),
    ),
    "gradient": (lambda z: torch.func.grad(lambda v: F.softplus(v).square().sum())(z), (3,)),
    "RMS norm": (own, (3, 4), nn.RMSNorm(4)),
    "variance and norms": (
        lambda z: torch.cat(
            [z.var(1, keepdim=True), F.normalize(z, dim=1), z.norm(p=1, dim=1, keepdim=True)], 1
        ),
        (4,),
    ),
    "norms": (
        lambda z: torch.cat(
            [z.norm(p=p, dim=1, keepdim=True) for p in (1.5, 3.0, torch.inf, -torch.inf)], 1
        ),
        (4,),
    ),
    "distances": (
        lambda z: torch.cat([torch.cdist(z, POINTS.to(z), p) for p in (1.0, 2.0, torch.inf)], 1),
        (2, 3),
    ),
    "attention": (lambda z: attend(z, 2 * z, z.relu()), (3, 2)),
    "attention, causal": (lambda z: attend(z, z, z, is_causal=True, scale=0.3), (3, 2)),
    "attention, masked": (
        lambda z: attend(z, z, z, attn_mask=~DIAGONAL) + attend(z, z, z, attn_mask=CAUSAL.to(z)),
        (3, 2),
    ),
    "multi-head attention": (
        lambda a, z: a(z, z, z, need_weights=False)[0],
        (3, 4),
        nn.MultiheadAttention(4, 2, batch_first=True),
    ),
    "multi-head attention, masked": (
        lambda a, z: a(z, z, z, attn_mask=CAUSAL.to(z))[0],
        (3, 4),
        nn.MultiheadAttention(4, 2, batch_first=True),
    ),
    "transformer": (own, (2, 4), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)),
    "LSTM": (first, (3, 2), nn.LSTM(2, 2, batch_first=True)),
    "LSTM, sequence first": (
        lambda m, z: m(z.transpose(0, 1))[0].transpose(0, 1),
        (2, 2),
        nn.LSTM(2, 2),
    ),
    "GRU": (first, (2, 2), nn.GRU(2, 2, num_layers=2, batch_first=True)),
    "RNN": (first, (3, 2), nn.RNN(2, 2, bidirectional=True, batch_first=True)),
    "where on a comparison": (lambda z: torch.where(z > 0.2, 2 * z - 1, 0.1 * z), (4,)),
    "where on constants": (
        lambda z: torch.where(torch.arange(4.0) >= z, -z, torch.arange(4.0).to(z) * z),
        (4,),
    ),
    "where on another value": (lambda z: torch.where(z < z.roll(1, -1), z, z * z), (4,)),
    "where, broadcast": (
        lambda z: torch.where(z.mean(2, keepdim=True) <= 0.1, z.exp(), z),
        (2, 2),
    ),
    "where, one side constant": (
        lambda z: torch.where(z > 0.5, torch.ones(()).to(z), z.exp()),
        (4,),
    ),
    "a mask by and, or, not": (
        lambda z: ((z > -0.5) & ~(z > 1) | (z == 7.0)) * z.exp() + (z != 0).to(z.dtype),
        (4,),
    ),
    "masked writes": (lambda z: write(z.clone()).masked_fill(z < -1, 3.0), (4,)),
    "product with a comparison": (lambda z: (z > 0) * z + z.double() * (z.relu() <= 1), (4,)),
    "resampling": (
        lambda z: F.grid_sample(z, GRID.expand(z.size(0), 2, 2, 2).to(z), align_corners=False),
        (1, 2, 3),
    ),
    "Fourier, filtered": (
        lambda z: torch.fft.irfft(torch.fft.rfft(z) * torch.tensor([1.0, 0.5j, 2 - 1j]), n=5),
        (5,),
    ),
    "Fourier, images": (
        lambda z: torch.fft.fft2(z, norm="ortho").real + torch.fft.ifft2(z).imag,
        (2, 3, 4),
    ),
    "Fourier, real images": (
        lambda z: torch.fft.irfft2(torch.fft.rfft2(z, norm="forward").roll(1, 1).conj(), s=(3, 4)),
        (2, 3, 4),
    ),
    "power spectrum": (lambda z: torch.fft.rfft(z, n=6).abs(), (5,)),
    "gather": (lambda z: z.gather(1, torch.tensor([[2, 0]]).expand(z.size(0), 2)), (3,)),
    "index": (lambda z: z[:, [2, 0, 2]] + z[..., torch.tensor([0, 1, 1])], (3, 3)),
    "interpolate": (
        lambda z: (
            F.interpolate(z, scale_factor=2, mode="bicubic")
            + F.interpolate(z, scale_factor=2, mode="nearest-exact")
        ),
        (1, 2, 2),
    ),
}


def build(name):
    torch.manual_seed(1)
    op, shape, *inner = MODELS[name]
    model = Around(op, shape, *copy.deepcopy(inner)).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    return model, torch.randn(2, *shape, dtype=torch.float64)


@torch.no_grad()
def sample(model, x, eps, generator, count=200):
    """Outputs [P, N, 3] at random points and corners of the ball, and where they follow a slope."""
    with torch.enable_grad():
        start = x.clone().requires_grad_()
        slopes = [torch.autograd.grad(z, start, retain_graph=True)[0] for z in model(start).sum(0)]
    noise = [2 * torch.rand(x.shape, generator=generator, dtype=x.dtype) - 1 for _ in range(count)]
    steps = [*noise, *(n.sign() for n in noise), *(s * g.sign() for g in slopes for s in (-1, 1))]
    return model(torch.cat([x + eps * s for s in steps])).unflatten(0, (len(steps), len(x)))


LONG = {"GRU", "LSTM, sequence first", "multi-head attention, masked", "transformer"}
"""Models that take seconds and have a smaller twin."""


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.long] if n in LONG else []) for n in MODELS]
)
def test_no_point_beats_the_bound(name):
    model, x = build(name)
    generator = torch.Generator().manual_seed(0)
    for method in METHODS:
        net = ad.certify(model, 0.1, bounds=method)
        net.explain(x)
        if method == "ibp":  # the graph is the same for all
            (entry,) = net.graph.inputs
            found = run(net.graph, entries(net.graph, model, {entry: x}))
            torch.testing.assert_close(found, model(x), rtol=1e-9, atol=1e-9)
        for eps in (1e-4, 0.1, 1.0):
            check(model, net.at(eps), x, eps, generator)
    widths = [width(net, x, eps) for eps in (0.0, 1e-6, 1e-5)]
    assert widths[0] < 1e-9, "a point has no width"
    assert 5 < (widths[2] + 1e-15) / (widths[1] + 1e-16) < 20, "bounds shrink linearly with ε"


@pytest.mark.parametrize("name", ["maximum", "logsumexp"])
def test_free_slopes(name):
    model, x = build(name)
    for eps in (0.1, 1.0):
        net = ad.certify(model, eps, bounds="dual", slopes="free")
        check(model, net, x, eps, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_padding_of_max_pools_stays_out_of_the_bound(dtype):
    model = nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.Flatten())
    x = -5 - torch.rand(2, 1, 5, 4, dtype=dtype)
    for bounds in ("dual", "ibp&dual"):
        net = ad.certify(model, 0.1, bounds=bounds, slopes="free")
        check(model, net, x, 0.1, torch.Generator().manual_seed(0))


def test_tan_has_no_bounds_over_a_pole():
    for k in range(40):
        pole = torch.tensor((k + 0.5) * torch.pi, dtype=torch.float32)
        for toward in (-torch.inf, torch.inf):
            end = torch.nextafter(pole, torch.tensor(toward)) if k % 2 else pole
            lower = torch.stack([end - 0.1, end, -end - 0.1, -end])
            holds = between_poles(ad.Interval(lower, lower + 0.1))
            exact = torch.floor(torch.stack([lower, lower + 0.1]).double() / torch.pi + 0.5)
            assert not bool((holds & (exact[0] != exact[1])).any())


@torch.no_grad()
def check(model, net, x, eps, generator):
    outputs = net.bounds(x)
    z = sample(model, x, eps, generator)
    z = z[z.isfinite().flatten(1).all(1)]
    assert not outputs.lower.isnan().any()
    if len(z) == 0:
        return
    slack = (1e-9 if x.dtype == torch.float64 else 1e-3) * (1 + z.abs().amax((0, 2), True))
    assert bool((outputs.lower <= z + slack).all()), (net.options.bounds, eps, "above z")
    assert bool((outputs.upper >= z - slack).all()), (net.options.bounds, eps, "below z")


@torch.no_grad()
def width(net, x, eps):
    outputs = net.at(eps).bounds(x)
    return float((outputs.upper - outputs.lower).max())


@pytest.mark.parametrize("name", ["quotient", "attention", "layer norm", "max pool 2d", "RNN"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_absurd_balls(name, dtype):
    """Overflow gives bounds that say nothing, never NaN."""
    model, x = build(name)
    model, x = model.to(dtype), x.to(dtype)
    generator = torch.Generator().manual_seed(0)
    for method in METHODS:
        for eps in (1e4, 1e30):
            check(model, ad.certify(model, eps, bounds=method), x, eps, generator)


def test_another_radius_leaves_the_mode_of_the_model():
    model, x = build("transformer")
    net = ad.certify(model, 0.01)
    assert not net.at(0.1).training
    assert not any(module.training for module in model.modules())
    assert bool((net.radius(x) >= 0).all())
