"""Attention and its rivals."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo.base import Net, entry


def patches(width=4, size=3):
    """Return a convolution that cuts an image into patches."""
    return nn.Conv2d(1, width, size, size)


class Block(nn.Module):
    """x + mix(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, mix, width=4, act=None):
        super().__init__()
        self.mix, self.act = mix, act or F.gelu
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        x = x + self.mix(self.norm1(x))
        return x + self.down(self.act(self.up(self.norm2(x))))


class SelfAttention(nn.Module):
    """Heads by scaled_dot_product_attention."""

    def __init__(self, width=4, heads=2, causal=False):
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.causal = heads, causal

    def forward(self, x):
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=2)
        )
        z = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(z.transpose(1, 2).flatten(2))


def vit(mix, width=4):
    """Return a vision transformer with a class token and positions."""

    def forward(net, x):
        z = net.patch(x).flatten(2).transpose(1, 2)
        z = torch.cat([net.token.expand(x.shape[0], 1, -1), z], dim=1) + net.positions
        return net.head(net.norm(net.block(z))[:, 0])

    return Net(
        forward, patch=patches(width), token=nn.Parameter(torch.randn(1, 1, width)),
        positions=nn.Parameter(torch.randn(1, 5, width)), block=Block(mix, width),
        norm=nn.LayerNorm(width), head=nn.Linear(width, 3),
    )  # fmt: skip


@entry(1, 6, 6, eps=0.001)
def vit_multihead_attention():
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    return vit(Net(lambda net, x: net.attention(x, x, x)[0], attention=attention))


@entry(1, 6, 6, eps=0.001)
def vit_scaled_dot_product():
    return vit(SelfAttention())


@entry(4, 4, eps=0.001)
def transformer_encoder_layer():
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    return Net(lambda net, x: net.head(net.layer(x).mean(1)), layer=layer, head=nn.Linear(4, 3))


@entry(3, 4, eps=0.001)
def transformer_encoder_norm_first():
    layer = nn.TransformerEncoderLayer(
        4, 1, 8, batch_first=True, norm_first=True, activation="gelu"
    )
    return Net(lambda net, x: net.head(net.layer(x).mean(1)), layer=layer, head=nn.Linear(4, 3))


@entry(3, 4, eps=0.001, others=((2, 4),))
def transformer_decoder_layer():
    layer = nn.TransformerDecoderLayer(4, 2, 8, batch_first=True)
    return Net(
        lambda net, x, memory: net.head(net.layer(x, memory).mean(1)),
        layer=layer, head=nn.Linear(4, 3),
    )  # fmt: skip


@entry(4, 4, eps=0.001)
def causal_attention():
    block = Block(SelfAttention(causal=True))
    return Net(lambda net, x: net.head(net.block(x)[:, -1]), block=block, head=nn.Linear(4, 3))


@entry(4, 4, eps=0.001)
def rotary_attention():
    """One head whose queries and keys are turned by their positions."""

    def turn(x):
        angle = torch.arange(x.shape[1], dtype=x.dtype).unsqueeze(1) / torch.tensor([1.0, 10.0])
        a, b = x.chunk(2, dim=2)
        cos, sin = angle.to(x.dtype).cos(), angle.to(x.dtype).sin()
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=2)

    def forward(net, x):
        q, k, v = net.qkv(x).chunk(3, dim=2)
        weights = (turn(q) @ turn(k).transpose(1, 2) / 2).softmax(2)
        return net.head((weights @ v).mean(1))

    return Net(forward, qkv=nn.Linear(4, 12), head=nn.Linear(4, 3))


@entry(4, 4, eps=0.001)
def linear_attention():
    """Softmax replaced by the feature map elu + 1."""

    def forward(net, x):
        q, k, v = net.qkv(x).chunk(3, dim=2)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        total = q @ (k.transpose(1, 2) @ v)
        return net.head((total / (q @ k.sum(1).unsqueeze(2))).mean(1))

    return Net(forward, qkv=nn.Linear(4, 12), head=nn.Linear(4, 3))


@entry(5, 3, eps=0.005)
def latent_queries():
    """Learned queries read a set, as in the Perceiver."""

    def forward(net, x):
        scores = net.queries @ net.keys(x).transpose(1, 2)
        return net.head((scores.softmax(2) @ net.values(x)).flatten(1))

    queries = nn.Parameter(torch.randn(2, 4))
    return Net(
        forward, queries=queries, keys=nn.Linear(3, 4), values=nn.Linear(3, 4), head=nn.Linear(8, 3)
    )


@entry(5, 3, eps=0.005)
def attention_pooling():
    def forward(net, x):
        weights = torch.softmax(net.score(torch.tanh(net.lift(x))), dim=1)
        return net.head((weights * x).sum(1))

    return Net(forward, lift=nn.Linear(3, 4), score=nn.Linear(4, 1), head=nn.Linear(3, 3))


@entry(1, 6, 6, eps=0.001)
def mlp_mixer():
    tokens = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))

    def forward(net, x):
        z = net.patch(x).flatten(2).transpose(1, 2)
        return net.head(net.block(z).mean(1))

    mix = Net(lambda net, x: net.tokens(x.transpose(1, 2)).transpose(1, 2), tokens=tokens)
    return Net(forward, patch=patches(), block=Block(mix), head=nn.Linear(4, 3))


@entry(1, 6, 6, eps=0.001)
def gated_mlp():
    """gMLP: a gate from a linear map over tokens."""

    def forward(net, x):
        z = net.patch(x).flatten(2).transpose(1, 2)
        u, v = F.gelu(net.up(net.norm(z))).chunk(2, dim=2)
        v = net.tokens(net.gate_norm(v).transpose(1, 2)).transpose(1, 2)
        return net.head((z + net.down(u * v)).mean(1))

    return Net(
        forward, patch=patches(), norm=nn.LayerNorm(4), up=nn.Linear(4, 8),
        gate_norm=nn.LayerNorm(4), tokens=nn.Linear(4, 4), down=nn.Linear(4, 4),
        head=nn.Linear(4, 3),
    )  # fmt: skip


@entry(1, 6, 6, eps=0.002)
def pool_former():
    """Average pooling in place of attention, GroupNorm with one group."""

    def forward(net, x):
        z = net.patch(x)
        z = z + F.avg_pool2d(net.norm(z), 3, 1, 1, count_include_pad=False) - net.norm(z)
        return net.head((z + net.mlp(z)).mean((2, 3)))

    mlp = nn.Sequential(nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    return Net(forward, patch=patches(), norm=nn.GroupNorm(1, 4), mlp=mlp, head=nn.Linear(4, 3))
