"""Models of sequences and of general shapes: recurrence, attention, products of matrices."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Do, chain, enter

Linear = nn.Linear


def matrix(*shape: int) -> Tensor:
    return torch.randn(*shape) / shape[-2] ** 0.5


def recurrent(cell: nn.Module, start: Callable[[Tensor], object], head: nn.Module) -> nn.Module:
    """Return a cell unrolled over x [N, T, D], and a head on its last state."""

    def run(cell: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
        state = start(x)
        for t in range(x.shape[1]):
            state = cell(x[:, t], state)
        return head(state[0] if isinstance(state, tuple) else state)

    return Do(run, cell, head)


def zeros(size: int, count: int = 1) -> Callable[[Tensor], object]:
    def start(x: Tensor) -> object:
        state = x[:, 0, :1] * torch.zeros(1, size)
        return state if count == 1 else (state,) * count

    return start


def elman(inner: Linear, outer: Linear, head: Linear, x: Tensor) -> Tensor:
    state = torch.tanh(outer(x[:, 0]))
    for t in range(1, x.shape[1]):
        state = torch.tanh(inner(state) + outer(x[:, t]))
    return head(state)


def attend(query: Linear, key: Linear, value: Linear, x: Tensor) -> Tensor:
    scores = query(x) @ key(x).transpose(1, 2) / x.shape[2] ** 0.5
    return torch.softmax(scores, dim=-1) @ value(x)


def attention(size: int) -> nn.Module:
    return Do(attend, Linear(size, size), Linear(size, size), Linear(size, size))


def normalized(x: Tensor) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    return centered / torch.sqrt((centered * centered).mean(-1, keepdim=True) + 0.1)


def block(size: int) -> nn.Module:
    """A transformer's block: attention and a two-layer net, each with its way around."""
    inner = chain(Linear(size, 2 * size), F.relu, Linear(2 * size, size))

    def run(attention: nn.Module, inner: nn.Module, x: Tensor) -> Tensor:
        z = x + attention(x)
        return z + inner(z)

    return Do(run, attention(size), inner)


def general_shapes() -> nn.Module:
    """Products with constants of more and fewer dimensions, on either side."""

    def run(*parts: Tensor) -> Tensor:
        first, second, third, fourth, left, x = parts
        z = F.relu(x.matmul(first)).unsqueeze(1).repeat(1, 5, 1)
        z = F.relu(z.matmul(second)).unsqueeze(1).repeat(1, 4, 1, 1)
        z = F.relu(z.matmul(third))
        z = F.relu(z.unsqueeze(2).matmul(fourth))
        return left.matmul(z).flatten(1)

    return Do(run, matrix(3, 4), matrix(4, 3), matrix(4, 3, 4), matrix(6, 4, 2), matrix(3, 5))


enter("elman network", lambda: Do(elman, Linear(8, 8), Linear(3, 8), Linear(8, 2)), 5, 3, eps=0.05)
enter("rnn cell, tanh", lambda: recurrent(nn.RNNCell(3, 6), zeros(6), Linear(6, 2)), 4, 3, eps=0.05)
enter(
    "rnn cell, relu",
    lambda: recurrent(nn.RNNCell(3, 6, nonlinearity="relu"), zeros(6), Linear(6, 2)), 4, 3,
)  # fmt: skip
enter("gru cell", lambda: recurrent(nn.GRUCell(3, 4), zeros(4), Linear(4, 2)), 3, 3, eps=0.05)
enter("lstm cell", lambda: recurrent(nn.LSTMCell(3, 4), zeros(4, 2), Linear(4, 2)), 3, 3, eps=0.05)
enter("attention", lambda: chain(attention(4), lambda z: z.mean(1)), 3, 4, eps=0.02)
enter("transformer block", lambda: chain(block(4), nn.Flatten(), Linear(12, 2)), 3, 4, eps=0.02)
enter(
    "two transformer blocks",
    lambda: chain(block(4), block(4), nn.Flatten(), Linear(12, 2)), 3, 4, eps=0.01,
)  # fmt: skip
enter("softmax, alone", lambda: chain(lambda z: torch.softmax(z, 1)), 6, eps=0.3)
enter("softmax, in a net", lambda: chain(Linear(8, 6), nn.Softmax(1), Linear(6, 3)), 8)
enter("log softmax", lambda: chain(Linear(8, 6), lambda z: F.log_softmax(z, 1)), 8)
enter("normalization", lambda: chain(Linear(8, 6), normalized, Linear(6, 3)), 8, eps=0.02)
enter("general shapes", general_shapes, 3, eps=0.5)
enter(
    "embedding of sums", lambda: chain(Linear(6, 8), F.relu, lambda z: z.sum(1), Linear(8, 3)), 4, 6
)
