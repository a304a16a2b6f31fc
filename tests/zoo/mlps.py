"""Nets on vectors."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo.base import Net, entry

N = nn.utils.parametrizations


@entry(6)
def linear():
    return nn.Linear(6, 3)


@entry(6, eps=0.02)
def deep_mlp():
    layers = [layer for _ in range(5) for layer in (nn.Linear(6, 6), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(6, 3))


@entry(6)
def batch_norm_mlp():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    nn.init.normal_(model[1].running_mean)
    return model


@entry(6)
def layer_norm_mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))


@entry(6)
def rms_norm_mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.RMSNorm(8), nn.ReLU(), nn.Linear(8, 3))


@entry(6)
def weight_norm():
    return nn.Sequential(N.weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3))


@entry(6)
def spectral_norm():
    return nn.Sequential(N.spectral_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3))


@entry(6)
def orthogonal():
    return nn.Sequential(N.orthogonal(nn.Linear(6, 6)), nn.ReLU(), nn.Linear(6, 3))


@entry(6)
def tied_weights():
    def forward(net, x):
        code = F.relu(net.encode(x))
        return net.head(F.relu(code @ net.encode.weight))

    return Net(forward, encode=nn.Linear(6, 4), head=nn.Linear(6, 3))


@entry(6)
def residual_mlp():
    def forward(net, x):
        for block in net.blocks:
            x = x + block(x)
        return net.head(x)

    def block():
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6))

    return Net(forward, blocks=nn.ModuleList([block(), block()]), head=nn.Linear(6, 3))


@entry(6)
def dense_mlp():
    def forward(net, x):
        for layer in net.layers:
            x = torch.cat([x, F.relu(layer(x))], dim=1)
        return net.head(x)

    layers = nn.ModuleList([nn.Linear(6, 4), nn.Linear(10, 4)])
    return Net(forward, layers=layers, head=nn.Linear(14, 3))


@entry(6)
def maxout():
    def forward(net, x):
        return net.head(net.pieces(x).unflatten(1, (6, 3)).amax(2))

    return Net(forward, pieces=nn.Linear(6, 18), head=nn.Linear(6, 3))


@entry(6)
def gated_linear_unit():
    return nn.Sequential(nn.Linear(6, 16), nn.GLU(), nn.Linear(8, 3))


@entry(6)
def swiglu():
    def forward(net, x):
        return net.down(F.silu(net.gate(x)) * net.up(x))

    return Net(forward, gate=nn.Linear(6, 8), up=nn.Linear(6, 8), down=nn.Linear(8, 3))


@entry(6)
def highway():
    def forward(net, x):
        for transform, carry in zip(net.transforms, net.carries, strict=True):
            t = torch.sigmoid(carry(x))
            x = t * F.relu(transform(x)) + (1 - t) * x
        return net.head(x)

    two = [nn.ModuleList([nn.Linear(6, 6) for _ in range(2)]) for _ in range(2)]
    return Net(forward, transforms=two[0], carries=two[1], head=nn.Linear(6, 3))


@entry(6)
def mixture_of_experts():
    def forward(net, x):
        gate = F.softmax(net.gate(x), dim=1)
        experts = torch.stack([F.relu(expert(x)) for expert in net.experts], dim=1)
        return net.head((gate.unsqueeze(2) * experts).sum(1))

    experts = nn.ModuleList([nn.Linear(6, 5) for _ in range(3)])
    return Net(forward, gate=nn.Linear(6, 3), experts=experts, head=nn.Linear(5, 3))


@entry(6)
def bilinear_form():
    def forward(net, x):
        return net.form(F.relu(net.left(x)), F.relu(net.right(x)))

    return Net(forward, left=nn.Linear(6, 4), right=nn.Linear(6, 4), form=nn.Bilinear(4, 4, 3))


@entry(6)
def polynomial():
    def forward(net, x):
        z = net.a(x)
        return net.c(z * net.b(x) + z * z)

    return Net(forward, a=nn.Linear(6, 5), b=nn.Linear(6, 5), c=nn.Linear(5, 3))


@entry(6)
def radial_basis():
    def forward(net, x):
        squares = (x.unsqueeze(1) - net.centers).square().sum(2)
        return net.head(torch.exp(-squares))

    centers = nn.Parameter(torch.rand(5, 6))
    return Net(forward, centers=centers, head=nn.Linear(5, 3))


@entry(6)
def sinusoidal():
    def forward(net, x):
        return net.b(torch.sin(3 * net.a(x)))

    return Net(forward, a=nn.Linear(6, 8), b=nn.Linear(8, 3))


@entry(6)
def monotone_lattice():
    """Minimum of maxima of planes with weights that are not negative."""

    def forward(net, x):
        planes = x @ net.weight.exp() + net.bias
        return planes.unflatten(1, (3, 2, 3)).amax(3).amin(2)

    weight = nn.Parameter(0.3 * torch.randn(6, 18))
    return Net(forward, weight=weight, bias=nn.Parameter(torch.randn(18)))


@entry(6)
def monotone_residual_flow():
    """Residual blocks of Lipschitz constant below 1, each one-to-one."""

    def forward(net, x):
        for block in net.blocks:
            x = x + 0.9 * block(x)
        return net.head(x)

    def block():
        return nn.Sequential(
            N.spectral_norm(nn.Linear(6, 6)), nn.ELU(), N.spectral_norm(nn.Linear(6, 6))
        )

    return Net(forward, blocks=nn.ModuleList([block(), block()]), head=nn.Linear(6, 3))


@entry(6)
def coupling_flow():
    """An affine coupling layer, as in RealNVP."""

    def forward(net, x):
        a, b = x.chunk(2, dim=1)
        b = b * torch.exp(torch.tanh(net.scale(a))) + net.shift(a)
        return net.head(torch.cat([b, a], dim=1))

    parts = {"scale": nn.Linear(3, 3), "shift": nn.Linear(3, 3), "head": nn.Linear(6, 3)}
    return Net(forward, **parts)


@entry(6)
def euler_steps():
    """A neural ODE by four steps of Euler's method."""

    def forward(net, x):
        for _ in range(4):
            x = x + 0.25 * net.out(torch.tanh(net.field(x)))
        return net.head(x)

    return Net(forward, field=nn.Linear(6, 8), out=nn.Linear(8, 6), head=nn.Linear(6, 3))


@entry(6)
def fixed_point():
    """A deep equilibrium net, three iterations unrolled."""

    def forward(net, x):
        z = net.inject(x)
        for _ in range(3):
            z = F.relu(0.5 * net.mix(z) + net.inject(x))
        return net.head(z)

    return Net(forward, inject=nn.Linear(6, 6), mix=nn.Linear(6, 6), head=nn.Linear(6, 3))


@entry(5, 3)
def deep_sets():
    def forward(net, x):
        return net.rho(net.phi(x).sum(1))

    def two(a, b):
        return nn.Sequential(nn.Linear(a, 6), nn.ReLU(), nn.Linear(6, b))

    return Net(forward, phi=two(3, 6), rho=two(6, 3))


@entry(2, 6)
def siamese():
    """One tower for both rows; classes by their absolute difference."""

    def forward(net, x):
        a, b = net.tower(x).unbind(1)
        return net.head((a - b).abs())

    tower = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    return Net(forward, tower=tower, head=nn.Linear(4, 2))


@entry(6)
def cosine_classifier():
    def forward(net, x):
        return 5 * F.linear(F.normalize(net.body(x), dim=1), net.classes)

    return Net(forward, body=nn.Linear(6, 5), classes=nn.Parameter(torch.randn(3, 5)))


@entry(4, 5)
def einsums():
    def forward(net, x):
        z = torch.einsum("nij,jk->nik", x, net.a).relu()
        return torch.einsum("nik,ikc->nc", z, net.b)

    return Net(forward, a=nn.Parameter(torch.randn(5, 6)), b=nn.Parameter(torch.randn(4, 6, 3)))


@entry(6)
def factorisation_machine():
    """Pairwise interactions, (Σ v x)² − Σ (v x)²."""

    def forward(net, x):
        total = (x @ net.factors).square() - x.square() @ net.factors.square()
        return net.head(torch.cat([x, 0.5 * total], dim=1))

    return Net(forward, factors=nn.Parameter(torch.randn(6, 4)), head=nn.Linear(10, 3))


@entry(6, intervals=True)
def quantised():
    """Weights as they are, activations on a grid, straight through for the optimizer."""

    def forward(net, x):
        z = F.relu(net.a(x))
        z = z + (torch.round(16 * z) / 16 - z).detach()
        return net.b(z)

    return Net(forward, a=nn.Linear(6, 8), b=nn.Linear(8, 3))


@entry(6, intervals=True)
def sorted_entries():
    """GroupSort with one group, an activation of norm-preserving nets."""

    def forward(net, x):
        return net.b(net.a(x).sort(dim=1).values)

    return Net(forward, a=nn.Linear(6, 8), b=nn.Linear(8, 3))


@entry(6)
def softmax_output():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3), nn.Softmax(dim=1))


@entry(6)
def log_softmax_output():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3), nn.LogSoftmax(dim=1))
