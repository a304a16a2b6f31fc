"""How the sum of a row, ‖(w₁∘ν₁, r₂∘ν₂, …)‖₁, is found: exactly, or from random projections.

A linear combination of ν with independent standard Cauchy coefficients is ‖ν‖₁ times a Cauchy
variable, so that samples pushed *forward* through the linearised network, with the noise wⱼ·cⱼ
added at the input and rⱼ·cⱼ after every elementwise op, give samples of every entry's sum at
once (thesis, 3.4.5 and Algorithm 3; Li, Hastie and Church, 2007).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from autodual.bound.estimators.base import Estimator, Setting, Sums
from autodual.bound.estimators.statistics import log_mean, margin, median, root_mean_square
from autodual.bound.layer import Layer
from autodual.bound.projection import Projection
from autodual.bound.relaxation import Relaxation
from autodual.bound.rows import Margins, Seeds, Specs
from autodual.calls import check_count
from autodual.errors import InputError
from autodual.front.ir import Value
from autodual.threat import L2Ball

PRODUCTS = 2**22
"""How many products of rows and samples are held at a time."""

Stream = tuple[Projection, Callable[[Tensor], Tensor]]
"""Samples on their way, and what they say about a sum."""


@dataclass(frozen=True)
class Median(Estimator, ABC):
    """What the estimators that guarantee nothing share: samples that travel with the network.

    Args:
        r: the number of projections.
        generator: where the noise comes from; torch's own generator if not given.
    """

    r: int
    generator: torch.Generator | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_count("r", self.r)

    @property
    def caveat(self) -> str:  # type: ignore[override]
        """Why it guarantees nothing."""
        return f"sums are estimated by {self}"

    @property
    def kept(self) -> int:  # type: ignore[override]
        """Samples per unit."""
        return self.r

    def start(self, network: Relaxation, setting: Setting) -> Sums:
        """Return sums estimated from samples."""
        return ProjectedSums(network, self.streams(network, setting))

    @abstractmethod
    def streams(self, network: Relaxation, setting: Setting) -> list[Stream]:
        """Return the samples at the input."""


class Cauchy(Median):
    """The median of |r Cauchy projections|: an estimate for sets that are boxes (ℓ∞)."""

    def streams(self, network: Relaxation, setting: Setting) -> list[Stream]:
        """Return weighted Cauchy noise."""
        x, draw = network.x, setting.noise(network.x)
        start = _weights(network).unsqueeze(1) * draw((1, self.r, *x.shape[1:]))
        return [(Projection(network, _sized(network, start), draw, self.r), median)]


class Normal(Median):
    """r normal projections for ε‖ν₁‖₂, their root mean square; Cauchy ones for what ops add.

    An estimate for ℓ2 balls.
    """

    def streams(self, network: Relaxation, setting: Setting) -> list[Stream]:
        """Return normal noise in the ball, and none for the Cauchy projections."""
        x, threat = network.x, network.entry.threat
        if not isinstance(threat, L2Ball):
            raise InputError(f"Normal projections estimate ℓ2 balls, not {threat}")
        generator = torch.Generator(x.device).manual_seed(setting.seed + 1)
        normal = torch.randn(
            1, self.r, *x.shape[1:], dtype=x.dtype, device=x.device, generator=generator
        )
        start = threat.radius(x).unsqueeze(1) * normal
        draw = setting.noise(x)
        return [
            (Projection(network, _sized(network, start), None, self.r), root_mean_square),
            (Projection(network, None, draw, self.r), median),
        ]


class ProjectedSums(Sums):
    """Samples travel forward along with the network."""

    def __init__(self, network: Relaxation, streams: list[Stream]) -> None:
        super().__init__(network)
        self.streams = streams

    def extend(self, network: Relaxation, layer: Layer) -> None:
        """Push the samples one layer on."""
        super().extend(network, layer)
        for projection, _ in self.streams:
            projection.extend(layer)

    def columns(self, value: Value) -> int:
        """Count the samples."""
        return sum(projection.count_at(value) for projection, _ in self.streams)

    def deviations(self, seeds: Seeds, both: bool) -> Tensor:
        """Estimate from the samples at the rows' values."""
        total = self.network.x.new_zeros(len(seeds))
        for projection, estimate in self.streams:
            samples = {v: s for v in seeds.values if (s := projection.at[v]) is not None}
            if samples:
                total = total + estimate_sums(seeds, samples, estimate)
        return total.unsqueeze(0)


@dataclass(frozen=True)
class Geometric(Estimator):
    """An upper bound on every sum that holds with probability 1 − δ, for sets that are boxes.

    Each sum is bounded by the largest of ``repeats`` geometric means of r projections, divided
    by 1 − t (``margin``). Every bounded node draws noise of its own, which the lines before it
    do not depend on, so that a union bound over all sums estimated for an example holds.

    Args:
        r: the number of projections in one geometric mean.
        repeats: how many geometric means.
        delta: the probability, per example, that its certificate is wrong.
        generator: as for ``Median``.
    """

    r: int = 200
    repeats: int = 10
    delta: float = 0.01
    generator: torch.Generator | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_count("r", self.r)
        check_count("repeats", self.repeats)
        if not 0 < self.delta < 1:
            raise InputError(f"delta must lie between 0 and 1, not {self.delta}")

    def start(self, network: Relaxation, setting: Setting) -> Sums:
        """Return bounds from fresh noise."""
        return GeometricSums(network, self, setting)


class GeometricSums(Sums):
    """Fresh noise for every value asked about, pushed all the way from the input."""

    def __init__(self, network: Relaxation, estimator: Geometric, setting: Setting) -> None:
        super().__init__(network)
        self.estimator, self.memory = estimator, setting.memory
        self.draw = setting.noise(network.x)
        self.delta = estimator.delta / len(setting.targets)
        self.weights = _weights(network)

    def deviations(self, seeds: Seeds, both: bool) -> Tensor:
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
        widest = max(layer.value.numel for layer in network.path(seeds.values))
        per_sample = 4 * network.batch * widest * network.x.element_size()
        size = max(1, min(r, self.memory // per_sample))
        total = network.x.new_zeros(len(seeds))
        for start in range(0, r, size):
            count = min(size, r - start)
            noise = self.weights.unsqueeze(1) * self.draw((1, count, *network.x.shape[1:]))
            projection = Projection(network, _sized(network, noise), self.draw, count)
            samples = projection.run(seeds.values)
            total = total + count / r * estimate_sums(seeds, samples, log_mean)
        return total


def estimate_sums(
    seeds: Seeds, samples: Mapping[Value, Tensor], estimate: Callable[[Tensor], Tensor]
) -> Tensor:
    """Estimate for each row from samples [N or 1, r, *] at its values, [R]."""
    if isinstance(seeds, Specs):
        return estimate(sum(_met(seeds, value, each) for value, each in samples.items()))  # type: ignore[arg-type]
    if isinstance(seeds, Margins):
        (columns,) = samples.values()
        size = max(1, PRODUCTS // columns.shape[1])
        starts = range(0, len(seeds), size)
        some = (seeds.take(slice(i, min(i + size, len(seeds)))) for i in starts)
        return torch.cat([estimate(each.meet(columns)) for each in some])
    (flat,) = (each.flatten(2) for each in samples.values())
    owner = seeds.owner if len(flat) > 1 else torch.zeros_like(seeds.owner)
    if estimate is not median:
        return estimate(flat.transpose(1, 2)[owner, seeds.unit])
    with torch.no_grad():
        rank = (flat.shape[1] + 1) // 2
        at = flat.transpose(1, 2)[owner, seeds.unit].abs().kthvalue(rank).indices
    place = (owner * flat.shape[1] + at) * flat.shape[2] + seeds.unit
    return flat.flatten().index_select(0, place).abs()


def _met(seeds: Specs, value: Value, samples: Tensor) -> Tensor:
    """Return rows times samples, [R, r]."""
    flat = samples.flatten(2)
    owner = seeds.owner if len(flat) > 1 else torch.zeros_like(seeds.owner)
    return torch.bmm(flat[owner], seeds.data[value].flatten(1).unsqueeze(2)).squeeze(2)


def _weights(network: Relaxation) -> Tensor:
    if network.entry.weights is None:
        raise InputError(
            f"Cauchy projections need a set that is a box (ℓ∞), not {network.entry.threat}; "
            "use Normal(r) for an ℓ2 ball, or Exact()"
        )
    return network.entry.weights


def _sized(network: Relaxation, samples: Tensor) -> Tensor:
    """Bring samples [N or 1, r, *x] to the shape [N or 1, r, *size(1)]."""
    return samples.reshape(*samples.shape[:2], *network.entry.value.size(1))
