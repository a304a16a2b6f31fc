"""What hypothesis draws: intervals, networks, specifications."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from autodual.interval import Interval

BENDS = (0.0, 1.0, -1.0, 0.5, -0.5, 2.0, 3.0, -3.0, 6.0)
"""Where functions that networks use tend to bend."""

WIDTHS = (0.0, 1.0, 1e-9, 1e-3, 0.1, 4.0, 10.0, 1e4)

Reach = tuple[float, float]
"""The least and the largest number of a range."""


def _pair(start: float, width: float, down: bool) -> tuple[float, float]:
    return (start - width, start) if down else (start, start + width)


def _pairs(reach: Reach | None) -> st.SearchStrategy[tuple[float, float]]:
    """Return a strategy for the ends of an interval, within a range if one is given."""
    widths = st.sampled_from(WIDTHS)
    if reach is None:
        ends = st.sampled_from(BENDS) | st.floats(-10, 10, width=32)
        return st.builds(_pair, ends, widths | st.floats(0, 8, width=32), st.booleans())
    low, high = reach
    ends = st.sampled_from((low, high, *(b for b in BENDS if low <= b <= high)))
    pairs = st.builds(
        _pair, ends | st.floats(low, high), widths | st.floats(0, high - low), st.booleans()
    )
    return pairs.map(lambda pair: (max(pair[0], low), min(pair[1], high)))


def intervals(
    shape: Sequence[int] = (), dtype: torch.dtype = torch.float64, reach: Reach | None = None
) -> st.SearchStrategy[Interval]:
    """Return a strategy for intervals of this shape: points, tiny, wide, at bends and anywhere.

    They lie within ``reach``. If that is not given, one end lies in [−10, 10], and widths go up to
    10⁴.
    """
    size = int(torch.Size(shape).numel())

    def build(ends: list[tuple[float, float]]) -> Interval:
        lower, upper = torch.tensor(ends, dtype=torch.float64).reshape(size, 2).unbind(1)
        return Interval(lower.to(dtype).reshape(*shape), upper.to(dtype).reshape(*shape))

    return st.lists(_pairs(reach), min_size=size, max_size=size).map(build)


def ordinary(
    shapes: Sequence[torch.Size],
    dtype: torch.dtype,
    generator: torch.Generator,
    reach: Reach | None = None,
) -> tuple[Interval, ...]:
    """Draw boxes about as wide as their distance from 0, where domains of functions are.

    Strategies seek what is odd; few of their boxes lie between the poles of a function, or hold one
    bend only. Within ``reach`` they lie anywhere, up to half as wide.
    """

    def draw(shape: torch.Size) -> Interval:
        center = torch.randn(shape, generator=generator, dtype=torch.float64)
        radius = torch.rand(shape, generator=generator, dtype=torch.float64)
        if reach is not None:
            low, high = reach
            center = low + (high - low) * torch.special.ndtr(center)
            radius = radius * (high - low) / 4
            return Interval(
                (center - radius).clamp(min=low).to(dtype),
                (center + radius).clamp(max=high).to(dtype),
            )
        return Interval((center - radius).to(dtype), (center + radius).to(dtype))

    return tuple(map(draw, shapes))


ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.GELU, nn.SiLU)


def _net(seed: int, widths: list[int], activations: list[type[nn.Module]]) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        kinds = itertools.cycle(activations)
        for a, b in itertools.pairwise(widths):
            layers += [nn.Linear(a, b), next(kinds)()]
        return nn.Sequential(*layers[:-1]).double().eval()


def nets(inputs: int = 4, outputs: int = 3) -> st.SearchStrategy[nn.Sequential]:
    """Return a strategy for small float64 networks that map [N, inputs] to [N, outputs]."""
    inner = st.lists(st.integers(1, 6), min_size=1, max_size=3)
    widths = inner.map(lambda sizes: [inputs, *sizes, outputs])
    kinds = st.lists(st.sampled_from(ACTIVATIONS), min_size=1, max_size=3)
    return st.builds(_net, st.integers(0, 2**31), widths, kinds)


def specs(outputs: int = 3, rows: int = 4) -> st.SearchStrategy[Tensor]:
    """Return a strategy for specifications C [rows, outputs] in float64."""
    numbers = st.lists(
        st.sampled_from((0.0, 1.0, -1.0)) | st.floats(-3, 3),
        min_size=rows * outputs,
        max_size=rows * outputs,
    )
    return numbers.map(lambda n: torch.tensor(n, dtype=torch.float64).reshape(rows, outputs))
