"""What all balls share: sets with a radius."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from autodual.brief import brief
from autodual.errors import InputError
from autodual.interval import Interval
from autodual.rounding import at_least, at_most
from autodual.threat.base import Domain, ThreatModel, checked_domain, wide
from autodual.threat.cut import Cut, Far, Local, Whole

PER_FEATURE = "For an ε e per feature there is ad.Box(x - e, x + e)."

Shorten = Callable[[Tensor, Tensor, Tensor], Tensor]


class Ball(ThreatModel):
    """{x′ : ‖x′ − x‖ ≤ ε} ∩ domain, with ε in the units of the input.

    Args:
        eps: the radius, a number, or a tensor with one per example, [N] or [N, 1, …]; finite, ≥ 0.
            An ε for each feature makes a ``Box``.
        domain: (lo, hi), the smallest and largest value an input can take, as numbers or
            tensors that broadcast to one example. Tightens the bound.

    Raises:
        InputError: ε is negative, infinite, NaN or of another shape; lo > hi.
    """

    norm: str

    def __init__(self, eps: float | Tensor, domain: Domain | None = None) -> None:
        self.eps = _checked_eps(eps)
        self.domain = checked_domain(domain)
        self.symmetric = domain is None

    def said(self, word: Callable[[object], str]) -> str:
        """Return the ball's name with ε and the domain."""
        domain = "" if self.domain is None else f", domain={brief(self.domain)}"
        return f"{type(self).__name__}({word(self.eps)}{domain})"

    def with_eps(self, eps: float | Tensor) -> Ball:
        """Return the same kind of ball with another radius."""
        return type(self)(eps, self.domain)

    def scaled(self, factor: float) -> Ball:
        """Return the ball of radius ``factor`` · ε."""
        return self.with_eps(self.eps * factor)

    def rounded_up(self, x: Tensor) -> Ball:
        """Return the ball with ε rounded up, and with a domain rounded outward."""
        twin = copy.copy(self)
        eps = at_least(self.eps, x)
        twin.eps = eps if isinstance(self.eps, Tensor) else float(eps)
        if self.domain is not None:
            twin.domain = at_most(self.domain[0], x), at_least(self.domain[1], x)
        return twin

    def select(self, x: Tensor, index: Tensor) -> Ball:
        """Return the ball with the radii of the examples at ``index``."""
        twin = copy.copy(self)
        twin.eps = self.eps[index] if isinstance(self.eps, Tensor) else self.eps
        return twin

    def own_eps(self, x: Tensor) -> Tensor | None:
        """Return ε [N] where it is one for each example, else None."""
        return self.radius(x).detach().flatten().clone() if isinstance(self.eps, Tensor) else None

    def reversed(self) -> Ball:
        """Return the ball itself: x′ lies as far from x as x from x′, and both in the domain."""
        return self

    def check_shape(self, x: Tensor) -> None:
        """Raise unless ε and the domain fit x [N, *]; looks at no values."""
        if isinstance(self.eps, Tensor):
            _check_one_per_example(self.eps, x)
        super().check_shape(x)

    def check(self, x: Tensor) -> None:
        """Raise unless the set is well defined around every x [N, *]."""
        self.check_shape(x)
        if (
            float(torch.as_tensor(self.eps, dtype=torch.float64).detach().max())
            > torch.finfo(x.dtype).max
        ):
            raise InputError(f"ε = {brief(self.eps)} is more than {x.dtype} can hold")
        super().check(x)

    def center(self, x: Tensor) -> Tensor:
        """Return x itself, moved into the domain."""
        return self.clamp(x)

    def interval(self, x: Tensor) -> Interval:
        """Return [x − ε, x + ε] ∩ domain."""
        center, eps = self.clamp(x), self.radius(x)
        return Interval(self.clamp(center - eps), self.clamp(center + eps))

    def radius(self, x: Tensor) -> Tensor:
        """Return ε as a tensor that broadcasts with x [N, *]."""
        eps = torch.as_tensor(self.eps, dtype=x.dtype, device=x.device)
        return wide(eps, x)

    def random_radius(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return εU^{1/D} for a uniform U, which spreads points evenly over the ball's volume."""
        most = torch.finfo(x.dtype).max / 4
        share = torch.rand(len(x), dtype=x.dtype, device=x.device, generator=generator)
        share = share.pow(1 / x[0].numel())
        return self.radius(x).clamp(max=most) * wide(share, x)

    def contains(self, x: Tensor, point: Tensor, tolerance: float = 1e-5) -> Tensor:
        """Return [N] bool: ‖x′ − x‖ ≤ ε and x′ in the domain, to a relative tolerance."""
        eps = self.radius(x).flatten()
        size = x.flatten(1).abs().amax(1) + eps
        near = self.distance(x, point) <= eps + tolerance * size
        lo, hi = self.domain_of(x)
        slack = wide(tolerance * size, x)
        inside = (point >= lo - slack) & (point <= hi + slack)
        return near & inside.flatten(1).all(1)

    def room(self, x: Tensor, nu: Tensor) -> Tensor:
        """Return how far each coordinate alone can move in the direction of ν, [N, S, *]."""
        box, center = self.interval(x), self.center(x)
        up, down = (box.upper - center).unsqueeze(1), (center - box.lower).unsqueeze(1)
        return torch.where(nu > 0, up, down)

    def steps(self, x: Tensor, norm: Callable[[Tensor], Tensor], far: Far) -> Local:
        """Return the steps from the center: ``norm`` is the dual norm, ``far`` for a ball cut."""
        eps = self.radius(x)
        if self.domain is None:
            return Whole(norm, eps.flatten())
        (lo, hi), center = self.domain_of(x), self.center(x)
        down, up = (torch.minimum(room, eps) for room in (center - lo, hi - center))
        return Cut(far, eps.flatten(), down, up)

    def step_to(self, x: Tensor, point: Tensor, shorten: Shorten) -> Tensor:
        """Return c + δ, where ``shorten`` makes δ [N, D] of the step from c to ``point``.

        It is given |δ|, the room of each coordinate and ε, all in units of the largest |δᵢ| and
        at most large enough not to matter, so that no square of them overflows.
        """
        center = self.center(x)
        step = point - center
        size = step.abs().flatten(1)
        unit = size.amax(1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
        size = size / unit
        room = (self.room(x, step.unsqueeze(1)).flatten(1) / unit).clamp(max=1)
        eps = (self.radius(x).reshape(-1, 1) / unit).clamp(max=2 * size.shape[1])
        delta = shorten(size, room, eps.expand(len(x), 1)) * unit
        return self.clamp(center + step.sign() * delta.reshape(x.shape))


def _checked_eps(eps: float | Tensor) -> float | Tensor:
    if isinstance(eps, Tensor) and eps.dim() > 1 and len(eps) != eps.numel():
        raise InputError(
            f"ε has shape {list(eps.shape)}; give a number or a tensor with one per example, [N]. "
            f"{PER_FEATURE}"
        )
    told = f"ε must be a number or a tensor [N], not {brief(eps)}"
    try:
        values = eps if isinstance(eps, Tensor) else torch.as_tensor(eps, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(told) from None
    if values.is_complex() or (values.dim() > 0 and values is not eps):
        raise InputError(told)
    if not bool(torch.isfinite(values).all()) or bool((values < 0).any()):
        raise InputError(f"ε must be finite and at least 0, not {brief(eps)}")
    return eps if isinstance(eps, Tensor) and eps.dim() > 0 else float(values)


def _check_one_per_example(eps: Tensor, x: Tensor) -> None:
    """Raise unless ε holds one number for each example of x [N, *], whichever way it is read."""
    count, explicit = len(x), [len(x)] + [1] * (x.dim() - 1)
    if list(eps.shape) == explicit:
        return
    if list(eps.shape) != [count]:
        raise InputError(
            f"ε has shape {list(eps.shape)} and the batch {count} examples {list(x.shape[1:])}. "
            f"Give a number, or a tensor [N] with one ε per example. {PER_FEATURE}"
        )
    if count > 1 and count in x.shape[1:]:
        ones = ", ".join(map(str, explicit))
        raise InputError(
            f"ε has shape [{count}] and x {list(x.shape)}: one ε per example, or one per feature? "
            f"For one per example give e.reshape({ones}). {PER_FEATURE}"
        )
