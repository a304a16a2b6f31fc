"""What a perturbation set must answer."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from autodual.brief import brief
from autodual.errors import DomainError, InputError, UnansweredError
from autodual.interval import Interval
from autodual.rounding import reach
from autodual.threat.cut import Local
from autodual.threat.polyhedron import Polyhedron

Domain = tuple[float | Tensor, float | Tensor]

AXES = 64
"""For how many axes at once a set's box is found."""

ROUNDING = 1e-5
"""How far outside its domain an input may lie, relative to the domain's width."""

FORMS = {
    "weights": ("deviation",),
    "local": ("deviation",),
    "polyhedron": ("center", "deviation", "interval"),
    "outward": ("center", "deviation", "interval"),
}
"""Other forms of a set, and the answers that each of them stands for."""


class ThreatModel(ABC):
    """A convex set B(x) around each example x.

    The dual bound needs one thing of it: the support function σ_B(ν) = sup {νᵀx′ : x′ ∈ B(x)}.
    It is given as νᵀc + deviation(ν), with c a center of the set. Shapes: x [N, *],
    nu [N, S, *] or [1, S, *] when all examples share their rows; support [N, S].

    For certificates ``center`` and ``deviation`` are enough, and ``interval`` where there is a
    quicker way than ``deviation`` along every axis. Attacks need ``project`` too. All else follows
    from these, or is refused with a word on what is missing.
    """

    symmetric: bool = False
    """Whether deviation(−ν) = deviation(ν) for all ν: one evaluation then gives both bounds."""

    per_example: tuple[str, ...] = ()
    """The attributes that hold a tensor with one row per example, such as an ε for each."""

    domain: Domain | None = None

    def __init_subclass__(cls) -> None:
        """See that answers of one's own are what is asked, not an inherited form of another set."""
        super().__init_subclass__()

        def home(name: str) -> int:
            return next(i for i, kind in enumerate(cls.__mro__) if name in vars(kind))

        for form, answers in FORMS.items():
            if home(form) > min(map(home, answers)):
                setattr(cls, form, getattr(ThreatModel, form))

    def __repr__(self) -> str:
        return self.said(brief)

    def __str__(self) -> str:
        """The set in words that hold for any of its examples, as in a certificate."""
        own = type(self).__repr__ is not ThreatModel.__repr__
        return repr(self) if own else self.said(_without_values)

    def said(self, word: Callable[[object], str]) -> str:
        """Return the set's name with what it holds; ``word`` tells what holds for each example."""
        parts = {k: v for k, v in vars(self).items() if v is not None and k != "symmetric"}
        own = self.per_example
        told = (f"{k}={word(v) if k in own else brief(v)}" for k, v in parts.items())
        return f"{type(self).__name__}({', '.join(told)})"

    @abstractmethod
    def center(self, x: Tensor) -> Tensor:
        """Return the center c [N, *] about which ``deviation`` is measured."""

    @abstractmethod
    def deviation(self, x: Tensor, nu: Tensor) -> Tensor:
        """Return sup {νᵀ(x′ − c) : x′ ∈ B(x)}, [N, S], or an upper bound on it."""

    def select(self, x: Tensor, index: Tensor) -> ThreatModel:
        """Return the set for x[index], where this is the set for x [N, *] and index is [R]."""
        twin = copy.copy(self)
        for name in self.per_example:
            setattr(twin, name, getattr(self, name)[index])
        return twin

    def own_eps(self, x: Tensor) -> Tensor | None:
        """Return ε [N] where it is one for each example, else None."""
        return None

    def reversed(self) -> ThreatModel:
        """Return the set R with x ∈ R(x′) whenever x′ ∈ B(x): where a point may have come from.

        Raises:
            InputError: there is none, or the set does not say.
        """
        raise self._lacks("reversed", "the set of all x that a point may come from")

    def scaled(self, factor: float) -> ThreatModel:
        """Return the set with each step from its center ``factor`` ≥ 0 times as long.

        Raises:
            InputError: the set has no size, or does not say.
        """
        raise self._lacks("scaled", "the set with steps ``factor`` times as long")

    def fixed(self, x: Tensor) -> ThreatModel:
        """Return this set around this batch alone, with what can be worked out once worked out."""
        return self

    def weights(self, x: Tensor) -> Tensor | None:
        """Return w [N or 1, *] if deviation(ν) = Σⱼ wⱼ|νⱼ| for all ν, else None."""
        return None

    def outward(self, x: Tensor) -> ThreatModel:
        """Return a set that holds this one, described by numbers that x's dtype holds exactly.

        For ``certify(rounding=)``: its ``center`` is then free of rounding, the ends of its
        ``interval`` are rounded once, and its ``deviation`` is off by no more than what sums of its
        nonnegative terms are, twice as many as x has entries and 32 at most.
        """
        raise self._lacks("outward", "a set that holds it and is no less when it is rounded")

    def weights_around(self, x: Tensor, box: Interval) -> Tensor | None:
        """Return w as ``weights`` does, no smaller for being rounded; ``box`` holds the set."""
        return None if self.weights(x) is None else reach(box, self.center(x))

    def local(self, x: Tensor) -> Local | None:
        """Return what ``deviation`` reads if a row needs it only where it is not 0, else None.

        A row of a convolution then meets a few pixels instead of the whole of x.
        """
        return None

    def polyhedron(self, x: Tensor) -> Polyhedron | None:
        """Return B(x) as linear programs take it, if it is one: for x [1, *], a single example.

        A box needs none: its ``weights`` and its ``interval`` say it all. What a subclass inherits
        counts for nothing where it answers ``center``, ``deviation`` or ``interval`` itself.
        """
        return None

    def interval(self, x: Tensor) -> Interval:
        """Return the smallest box that contains B(x): ``deviation`` along every axis, both ways."""
        center, axes = self.center(x), x[0].numel()
        ends = []
        for some in torch.arange(axes, device=x.device).split(AXES):
            nu = torch.zeros(len(some), axes, dtype=x.dtype, device=x.device)
            nu = nu.scatter(1, some.unsqueeze(1), 1).reshape(1, len(some), *x.shape[1:])
            ways = (self.deviation(x, way).expand(len(x), -1) for way in (-nu, nu))
            ends.append(torch.stack(list(ways)))
        down, up = torch.cat(ends, dim=2).reshape(2, *x.shape)
        return Interval(center - down, center + up)

    def project(self, x: Tensor, point: Tensor) -> Tensor:
        """Return a point of B(x) for each row of ``point`` [N, *]; points of B(x) are kept."""
        raise self._lacks("project", "the point of B(x) nearest to ``point``; attacks need it")

    def steepest(
        self,
        x: Tensor,
        gradient: Tensor,
        generator: torch.Generator | None = None,
        point: Tensor | None = None,
    ) -> Tensor:
        """Return the step of the set's size that increases a linear function most.

        That from the center to the ``maximizer``, if a set knows no better. ``generator`` feeds
        sets that choose among several good steps at random. ``point`` is where the step starts, x
        if not given: some sets make no step that leaves the domain.
        """
        return self.maximizer(x, gradient) - self.center(x)

    def advance(
        self,
        x: Tensor,
        point: Tensor,
        gradient: Tensor,
        rate: float | Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the point of B(x) that a step of ``rate`` steepest steps from ``point`` leads to.

        Args:
            x, point, gradient: [N, *], with ``point`` in B(x).
            rate: a number, or a tensor that broadcasts with x.
            generator: as for ``steepest``.
        """
        step = self.steepest(x, gradient, generator, point)
        if isinstance(rate, Tensor):
            return self.project(x, torch.addcmul(point, step, rate))
        return self.project(x, torch.add(point, step, alpha=rate))

    def extend(self, x: Tensor, point: Tensor, step: Tensor) -> Tensor:
        """Return the projection of ``point + step``, or a point close to it where that is dear.

        Args:
            x, point, step: [N, *], with ``point`` in B(x).
        """
        return self.project(x, point + step)

    def distance(self, x: Tensor, point: Tensor) -> Tensor:
        """Return [N]: how far each point lies from x, in the set's own measure and units."""
        raise self._lacks("distance", "how far each point lies from x, [N]")

    def contains(self, x: Tensor, point: Tensor, tolerance: float = 1e-5) -> Tensor:
        """Return [N] bool: whether each point lies in B(x), to a relative tolerance.

        If a set knows no better: whether ``project`` keeps it, and it lies within the support in
        its own direction from the center.
        """
        size = torch.maximum(x.abs(), point.abs()).flatten(1).amax(1)
        step = point - self.center(x)
        kept = (self.project(x, point) - point).flatten(1).abs().amax(1) <= tolerance * size
        beyond = step.flatten(1).square().sum(1) - self.deviation(x, step.unsqueeze(1)).squeeze(1)
        return kept & (beyond <= tolerance * size * step.flatten(1).abs().sum(1))

    def _lacks(self, method: str, answer: str) -> UnansweredError:
        """Return what is said of a question that the set does not answer."""
        name = type(self).__name__
        return UnansweredError(
            f"{name} has no {method}(): define it on {name}; it returns {answer}"
        )

    def tensors(self) -> list[Tensor]:
        """Return the tensors that describe the set, such as one ε per example."""
        return [part for part in vars(self).values() if isinstance(part, Tensor)]

    def replace(self, others: Mapping[int, Tensor]) -> ThreatModel:
        """Return the set with tensors replaced, by their identity."""
        twin = copy.copy(self)
        for name, part in vars(self).items():
            if isinstance(part, Tensor):
                setattr(twin, name, others.get(id(part), part))
        return twin

    def around(self, shapes: Sequence[torch.Size]) -> ThreatModel:
        """Return the set for perturbed arguments of these shapes, one of them unless a product."""
        return self

    @property
    def members(self) -> tuple[ThreatModel, ...]:
        """The sets whose union this is: itself alone, unless it is a ``Union``."""
        return (self,)

    def support(self, x: Tensor, nu: Tensor) -> Tensor:
        """Return σ_B(ν) = sup {νᵀx′ : x′ ∈ B(x)}, [N, S], to rounding if ``deviation`` is exact."""
        return inner(nu, self.center(x)) + self.deviation(x, nu)

    def check_shape(self, x: Tensor) -> None:
        """Raise unless what the set holds fits x [N, *]; looks at no values."""
        for name in self.per_example:
            if len(getattr(self, name)) != len(x):
                raise InputError(f"{name} needs a row for each of {len(x)} examples")
        if self.domain is not None:
            lo, hi = self.domain_of(x)
            check_broadcast("the domain's low end", lo, x)
            check_broadcast("the domain's high end", hi, x)
        if not type(self).__module__.startswith("autodual."):
            self._check_answers(x)

    @torch.no_grad()
    def _check_answers(self, x: Tensor) -> None:
        """Raise unless a set of the user's answers in tensors of the right shape."""
        two = x.new_zeros(1, 2, *x.shape[1:])
        for name, answer, form, shapes in (
            ("center(x)", self.center(x), "[N, *]", (x.shape,)),
            ("deviation(x, nu)", self.deviation(x, two), "[N, S]", ((len(x), 2), (1, 2))),
        ):
            if not isinstance(answer, Tensor) or answer.shape not in shapes:
                raise InputError(
                    f"{type(self).__name__}.{name} must return {form}, here {list(shapes[0])} for "
                    f"x {list(x.shape)} and nu {list(two.shape)}, not {brief(answer)}"
                )

    def check(self, x: Tensor) -> None:
        """Raise unless the set is well defined around every x [N, *].

        Raises:
            InputError: what it holds per example has the wrong shape for this batch.
            DomainError: x lies outside the domain by more than rounding.
        """
        self.check_shape(x)
        if self.domain is None:
            return
        lo, hi = self.domain_of(x)
        slack = ROUNDING * (hi - lo).abs().clamp(min=1e-3)
        outside = torch.maximum(lo - x - slack, x - hi - slack)
        if bool((outside > 0).any()):
            index = int(outside.flatten(1).amax(1).argmax())
            raise DomainError(
                f"example {index} leaves the domain {brief(self.domain)}: it spans "
                f"[{float(x[index].min()):.4g}, {float(x[index].max()):.4g}]. Scale the input, or "
                "put its normalisation inside the model, so that ε keeps its unit."
            )

    def domain_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the domain's two ends, each broadcastable to x; infinite where there is none."""
        lo, hi = (-torch.inf, torch.inf) if self.domain is None else self.domain
        return torch.as_tensor(lo, dtype=x.dtype, device=x.device), torch.as_tensor(
            hi, dtype=x.dtype, device=x.device
        )

    def clamp(self, x: Tensor) -> Tensor:
        """Move x into the domain."""
        if self.domain is None:
            return x
        return torch.clamp(x, *self.domain_of(x))

    def random_start(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return a random point of B(x) for each x."""
        most = torch.finfo(x.dtype).max / 4
        box = self.interval(x).map(lambda end: end.clamp(-most, most))
        noise = torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        return self.project(x, box.lower + noise * (box.upper - box.lower))

    def maximizer(self, x: Tensor, direction: Tensor) -> Tensor:
        """Return a point of B(x) at which directionᵀx′ is largest, [N, *]: the gradient of σ_B.

        Args:
            x, direction: [N, *].
        """
        nu = direction.detach().unsqueeze(1).requires_grad_()
        with torch.enable_grad():
            support = self.support(x.detach(), nu).sum()
        (point,) = torch.autograd.grad(support, nu)
        return self.project(x, point.squeeze(1))


def _without_values(value: object) -> str:
    """Tell a value in a few words, and a tensor by none of its own."""
    return "tensor" if isinstance(value, Tensor) and value.dim() > 0 else brief(value)


def wide(values: Tensor, like: Tensor) -> Tensor:
    """Shape values [N] to broadcast with a tensor [N, *]."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def inner(nu: Tensor, z: Tensor) -> Tensor:
    """Return ⟨ν, z⟩ per row: nu [N or 1, S, *], z [N, *] → [N, S]."""
    nu, z = nu.flatten(2), z.flatten(1)
    if nu.shape[0] == 1:
        return z @ nu[0].mT
    return torch.bmm(nu, z.unsqueeze(2)).squeeze(2)


def check_broadcast(name: str, tensor: Tensor, x: Tensor) -> None:
    """Raise unless ``tensor`` broadcasts to the shape of x."""
    try:
        fits = np.broadcast_shapes(tensor.shape, x.shape) == tuple(x.shape)
    except ValueError:
        fits = False
    if not fits:
        raise InputError(
            f"{name} has shape {list(tensor.shape)}: it must broadcast to x {list(x.shape)}"
        )


def checked_domain(domain: Domain | None) -> Domain | None:
    """Return the domain if it is one: two ends, the lower one below the upper."""
    if domain is None:
        return None
    try:
        lo, hi = domain
        ordered = bool((torch.as_tensor(lo) <= torch.as_tensor(hi)).all())
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"domain must be a pair (lo, hi), not {domain!r}") from None
    if not ordered:
        raise InputError(f"domain {brief(domain)} is empty or NaN: lo must be ≤ hi everywhere")
    return (lo, hi)
