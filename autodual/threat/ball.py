"""What all balls share: sets with a radius."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from autodual.errors import InputError
from autodual.interval import Interval
from autodual.threat.base import Domain, ThreatModel, checked_domain
from autodual.threat.cut import Cut, Far, Local, Whole

Shorten = Callable[[Tensor, Tensor, Tensor], Tensor]


class Ball(ThreatModel):
    """{x′ : ‖x′ − x‖ ≤ ε} ∩ domain, with ε in the units of the input.

    Args:
        eps: the radius, a number or a tensor [N] with one per example; finite, ≥ 0.
        domain: (lo, hi), the smallest and largest value an input can take, as numbers or
            tensors that broadcast to one example. Tightens the bound.

    Raises:
        InputError: ε is negative, infinite, NaN or has more than one dimension; lo > hi.
    """

    norm: str

    def __init__(self, eps: float | Tensor, domain: Domain | None = None) -> None:
        self.eps = _checked_eps(eps)
        self.domain = checked_domain(domain)
        self.symmetric = domain is None

    def __repr__(self) -> str:
        eps = f"{self.eps:g}" if isinstance(self.eps, float) else f"tensor[{len(self.eps)}]"
        domain = "" if self.domain is None else f", domain={self.domain}"
        return f"{type(self).__name__}({eps}{domain})"

    def with_eps(self, eps: float | Tensor) -> Ball:
        """Return the same kind of ball with another radius."""
        return type(self)(eps, self.domain)

    def select(self, x: Tensor, index: Tensor) -> Ball:
        """Return the ball with the radii of the examples at ``index``."""
        twin = copy.copy(self)
        twin.eps = self.eps[index] if isinstance(self.eps, Tensor) else self.eps
        return twin

    def reversed(self) -> Ball:
        """Return the ball itself: x′ lies as far from x as x from x′, and both in the domain."""
        return self

    def check(self, x: Tensor) -> None:
        """Raise unless the set is well defined around every x [N, *]."""
        if isinstance(self.eps, Tensor) and self.eps.shape != (x.shape[0],):
            raise InputError(
                f"ε has shape {list(self.eps.shape)} and the batch {x.shape[0]} examples. "
                "Give a number, or a tensor [N] with one ε per example."
            )
        if (
            float(torch.as_tensor(self.eps, dtype=torch.float64).detach().max())
            > torch.finfo(x.dtype).max
        ):
            raise InputError(f"ε = {self.eps} is more than {x.dtype} can hold")
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
        return eps.reshape(-1, *[1] * (x.dim() - 1))

    def random_radius(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return εU^{1/D} for a uniform U, which spreads points evenly over the ball's volume."""
        most = torch.finfo(x.dtype).max / 4
        share = torch.rand(len(x), dtype=x.dtype, device=x.device, generator=generator)
        share = share.pow(1 / x[0].numel()).reshape(-1, *[1] * (x.dim() - 1))
        return self.radius(x).clamp(max=most) * share

    def contains(self, x: Tensor, point: Tensor, tolerance: float = 1e-5) -> Tensor:
        """Return [N] bool: ‖x′ − x‖ ≤ ε and x′ in the domain, to a relative tolerance."""
        eps = self.radius(x).flatten()
        size = x.flatten(1).abs().amax(1) + eps
        near = self.distance(x, point) <= eps + tolerance * size
        lo, hi = self.domain_of(x)
        slack = (tolerance * size).reshape(-1, *[1] * (x.dim() - 1))
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
    if isinstance(eps, Tensor) and eps.dim() > 1:
        raise InputError(f"ε has shape {list(eps.shape)}; give a number or a tensor [N]")
    try:
        values = torch.as_tensor(eps, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"ε must be a number or a tensor [N], not {eps!r}") from None
    if not bool(torch.isfinite(values).all()) or bool((values < 0).any()):
        raise InputError(f"ε must be finite and at least 0, not {eps}")
    return eps if isinstance(eps, Tensor) and eps.dim() == 1 else float(values)
