"""The sums that a bound is made of, by the estimator that finds them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from autodual.bound.estimate import (
    Cauchy,
    Estimator,
    Exact,
    Geometric,
    Median,
    log_mean,
    margin,
    median,
    root_mean_square,
)
from autodual.bound.network import DualNetwork
from autodual.bound.plan import Step
from autodual.bound.projection import Projection, Sources
from autodual.bound.rows import Seeds, Specs, Units
from autodual.bound.spread import spread
from autodual.errors import InputError
from autodual.front.ir import Value
from autodual.threat import L2Ball


class Sums(ABC):
    """How far C·z can fall below and rise above C·z⁰, for rows C at any value of a network."""

    def __init__(self, network: DualNetwork) -> None:
        self.network = network

    def extend(self, step: Step) -> None:  # noqa: B027
        """Hear that the network has grown by a step."""

    def columns(self, value: Value) -> int:
        """Return how many columns have just been pushed to a value, over the batch."""
        return 0

    @abstractmethod
    def spread(self, seeds: Seeds, both: bool) -> Tensor:
        """Return both distances [E, R]; one row if they are equal or only the fall is wanted."""


class ExactSums(Sums):
    """Rows travel back; see ``spread``."""

    def __init__(self, network: DualNetwork, memory: int, select: bool) -> None:
        super().__init__(network)
        self.memory, self.select = memory, select

    def spread(self, seeds: Seeds, both: bool) -> Tensor:
        """Sum exactly."""
        return spread(self.network, seeds, both, self.memory, self.select)


class ForwardSums(Sums):
    """Forward order: columns travel along with the network, as far as some target needs them."""

    def __init__(self, network: DualNetwork, targets: Iterable[Value]) -> None:
        super().__init__(network)
        if network.weights is None:
            raise InputError(f"forward order needs a set that is a box (ℓ∞), not {network.threat}")
        self.sources = Sources(network)
        self.path = {step.out for target in targets for step in network.plan.upstream[target]}

    def extend(self, step: Step) -> None:
        """Push the columns one step on."""
        if step.out in self.path:
            self.sources.extend(step)

    def columns(self, value: Value) -> int:
        """Count them."""
        return _count(self.sources.at.get(value))

    def spread(self, seeds: Seeds, both: bool) -> Tensor:
        """Sum |columns| at the rows' value."""
        columns = self.sources.at[seeds.value]
        if columns is None:
            return self.network.x.new_zeros(1, len(seeds))
        if isinstance(seeds, Units):
            sums = columns.abs().sum(1).flatten(1)
            owner = seeds.owner if len(sums) > 1 else torch.zeros_like(seeds.owner)
            return sums[owner, seeds.unit].unsqueeze(0)
        return _estimate(seeds, columns, lambda rows: rows.abs().sum(1)).unsqueeze(0)


class MedianSums(Sums):
    """Cauchy and Normal: samples travel forward along with the network."""

    def __init__(
        self, network: DualNetwork, estimator: Median, seed: int, draw: CauchyNoise
    ) -> None:
        super().__init__(network)
        x, r = network.x, estimator.r
        self.streams: list[tuple[Projection, Callable[[Tensor], Tensor]]] = []
        if isinstance(estimator, Cauchy):
            weights = _weights(network)
            start = weights.unsqueeze(1) * draw((1, r, *x.shape[1:]))
            self.streams = [(Projection(network, _sized(network, start), draw, r), median)]
            return
        if not isinstance(network.threat, L2Ball):
            raise InputError(f"Normal projections estimate ℓ2 balls, not {network.threat}")
        generator = torch.Generator(x.device).manual_seed(seed + 1)
        normal = torch.randn(
            1, r, *x.shape[1:], dtype=x.dtype, device=x.device, generator=generator
        )
        start = network.threat.radius(x).unsqueeze(1) * normal
        self.streams = [
            (Projection(network, _sized(network, start), None, r), root_mean_square),
            (Projection(network, None, draw, r), median),
        ]

    def extend(self, step: Step) -> None:
        """Push the samples one step on."""
        for projection, _ in self.streams:
            projection.extend(step)

    def columns(self, value: Value) -> int:
        """Count the samples."""
        return sum(_count(projection.at.get(value)) for projection, _ in self.streams)

    def spread(self, seeds: Seeds, both: bool) -> Tensor:
        """Estimate from the samples at the rows' value."""
        total = self.network.x.new_zeros(len(seeds))
        for projection, estimate in self.streams:
            samples = projection.at[seeds.value]
            if samples is not None:
                total = total + _estimate(seeds, samples, estimate)
        return total.unsqueeze(0)


class GeometricSums(Sums):
    """Fresh noise for every value asked about, pushed all the way from the input."""

    def __init__(
        self, network: DualNetwork, estimator: Geometric, seed: int, memory: int, targets: int
    ) -> None:
        super().__init__(network)
        self.estimator, self.memory = estimator, memory
        self.draw = CauchyNoise(network.x, seed)
        self.delta = estimator.delta / targets
        self.weights = _weights(network)

    def spread(self, seeds: Seeds, both: bool) -> Tensor:
        """Bound the sums of all rows at once, with chance 1 − δ/targets for each example."""
        estimator = self.estimator
        most = int(torch.bincount(seeds.owner).max())
        t = margin(estimator.r, estimator.repeats, self.delta / most)
        best = self.network.x.new_full((len(seeds),), -torch.inf)
        for _ in range(estimator.repeats):
            best = torch.maximum(best, self._log_mean(seeds))
        return best.exp().unsqueeze(0) / (1 - t)

    def _log_mean(self, seeds: Seeds) -> Tensor:
        """Return the logarithm of one geometric mean per row, from samples drawn in chunks."""
        network, r = self.network, self.estimator.r
        widest = max(s.out.numel for s in network.plan.upstream[seeds.value])
        per_sample = 4 * network.batch * widest * network.x.element_size()
        size = max(1, min(r, self.memory // per_sample))
        total = network.x.new_zeros(len(seeds))
        for start in range(0, r, size):
            count = min(size, r - start)
            noise = self.weights.unsqueeze(1) * self.draw((1, count, *network.x.shape[1:]))
            projection = Projection(network, _sized(network, noise), self.draw, count)
            samples = projection.run(seeds.value)
            assert samples is not None
            total = total + count / r * _estimate(seeds, samples, log_mean)
        return total


def draw_seed(estimator: Estimator) -> int:
    """Draw the seed of one bound from the estimator's generator, or from torch's own."""
    if isinstance(estimator, Exact):
        return 0
    return int(torch.randint(2**62, (), generator=estimator.generator))


def _estimate(seeds: Seeds, samples: Tensor, estimate: Callable[[Tensor], Tensor]) -> Tensor:
    """Estimate for each row from samples [N or 1, r, *] at its value, [R]."""
    flat = samples.flatten(2)
    owner = seeds.owner if len(flat) > 1 else torch.zeros_like(seeds.owner)
    if isinstance(seeds, Specs):
        rows = torch.bmm(flat[owner], seeds.data.flatten(1).unsqueeze(2)).squeeze(2)
        return estimate(rows)
    if estimate is not median:
        return estimate(flat.transpose(1, 2)[owner, seeds.unit])
    with torch.no_grad():
        rank = (flat.shape[1] + 1) // 2
        at = flat.transpose(1, 2)[owner, seeds.unit].abs().kthvalue(rank).indices
    place = (owner * flat.shape[1] + at) * flat.shape[2] + seeds.unit
    return flat.flatten().index_select(0, place).abs()


def _count(columns: Tensor | None) -> int:
    return 0 if columns is None else len(columns) * columns.shape[1]


def _weights(network: DualNetwork) -> Tensor:
    if network.weights is None:
        raise InputError(
            f"Cauchy projections need a set that is a box (ℓ∞), not {network.threat}; "
            "use Normal(r) for an ℓ2 ball, or Exact()"
        )
    return network.weights


def _sized(network: DualNetwork, samples: Tensor) -> Tensor:
    """Bring samples [N or 1, r, *x] to the shape [N or 1, r, *size(1)]."""
    return samples.reshape(*samples.shape[:2], *network.plan.graph.perturbed.size(1))


class CauchyNoise:
    """Standard Cauchy noise by a seed, the same at every reading.

    Args:
        like: a tensor of the noise's dtype and device.
        seed: the seed.
        keep: hold on to what was drawn, for the next ``rewind``.
    """

    def __init__(self, like: Tensor, seed: int, keep: bool = False) -> None:
        self.like, self.keep = like, keep
        self.generator = torch.Generator(like.device).manual_seed(seed)
        self._kept: list[Tensor] = []
        self._next = 0

    def rewind(self) -> CauchyNoise:
        """Start reading from the beginning."""
        self._next = 0
        return self

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        """Return the next noise, of this shape."""
        if self._next < len(self._kept):
            noise = self._kept[self._next]
        else:
            noise = self._draw(shape)
            if self.keep:
                self._kept.append(noise)
        self._next += 1
        return noise

    def _draw(self, shape: tuple[int, ...]) -> Tensor:
        """Return tan(π(u − ½)) for uniform u in steps of 2⁻ᵇ, moved by half a step off 0."""
        like, steps = self.like, 2 ** (25 if self.like.dtype == torch.float32 else 54)
        uniform = torch.rand(shape, dtype=like.dtype, device=like.device, generator=self.generator)
        return uniform.sub_(0.5).add_(1 / steps).mul_(math.pi).tan_()
