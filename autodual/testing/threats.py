"""Prove a threat model: what it answers must fit the points that it reaches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from autodual.brief import brief
from autodual.errors import InputError, UnansweredError
from autodual.interval import Interval
from autodual.solve.polyhedron import polyhedron_of, support
from autodual.testing.report import Checked, Tally
from autodual.threat import ThreatModel
from autodual.threat.base import inner, wide

TOLERANCE = 1e-4

PROGRAMS = 3
"""For how many directions the support of a polyhedron is sought, for each example."""

REACHED = "deviation at points of the set"

POWERS = 20, -40
"""The powers of 2 that say how far the edge of a set lies, in directions."""

Answer = TypeVar("Answer")


def check_threat_model(
    threat: ThreatModel,
    x: Tensor,
    *,
    exact: bool = True,
    rows: int = 50,
    seed: int = 0,
    reach: float = 1.0,
) -> Checked:
    """Try to break a set around x [N, *]: points that it reaches against all that it says.

    Checked are shapes; that ``deviation`` is at least νᵀ(x′ − c), and ``interval`` contains x′, for
    every x′ that ``project``, ``maximizer``, ``random_start`` and ``advance`` give; ``symmetric``,
    ``weights`` and ``polyhedron``; ``select`` against the whole batch; and ``reversed``. Sets
    without ``project`` are tried at the farthest points that ``contains`` admits. Without that,
    too, nothing shows whether ``deviation`` is large enough, and the report says so.

    Args:
        threat: the set.
        x: float64 examples, of any shape [N, *], such as lie where the set is used.
        exact: whether ``deviation`` is the supremum itself, which is homogeneous and convex; give
            False for an upper bound.
        rows: how many directions and points are tried.
        seed: of the random numbers.
        reach: about how large the entries of directions are; points are sought up to ten times as
            far from x.

    Returns:
        Which properties were tried, on how many directions, examples or points, and which were
        not, and why.

    Raises:
        AssertionError: what is violated, by how much, and for which example.
        InputError: x is not float64, or ``rows`` or ``reach`` is not positive.
    """
    if not isinstance(x, Tensor) or x.dtype != torch.float64:
        raise InputError(f"sets are tried in float64: give x.double(), not {brief(x)}")
    if not (rows >= 1 and 0 < reach < float("inf")):
        raise InputError(f"rows and reach are positive numbers, not {rows!r} and {reach!r}")
    tally = Tally()
    note, every = partial(tally.add, x.dtype), rows * len(x)
    generator = torch.Generator(x.device).manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        sparse = torch.rand(shape, generator=generator, dtype=x.dtype, device=x.device) < 0.5
        normal = torch.randn(shape, generator=generator, dtype=x.dtype, device=x.device)
        return reach * normal * torch.where(sparse, 0.1, 1.0)

    threat.check(x)
    nu = draw(len(x), rows, *x.shape[1:])
    center, far = threat.center(x), threat.deviation(x, nu)
    _has_shape("center", center, x.shape)
    _has_shape("deviation", far, (len(x), rows))
    shared = threat.deviation(x, nu[:1])
    _has_shape("deviation of rows that all examples share", shared[:1], (1, rows))
    _at_most("the deviation of shared rows and of each one's own", shared[:1] - far[:1], 0, far)
    _at_most("deviation(ν) + deviation(−ν) < 0", -far - threat.deviation(x, -nu), 0, far)
    note("deviation: shapes, shared rows, at least 0 both ways", count=every)
    note(REACHED, "define project() or contains(): nothing shows whether deviation is large enough")
    if threat.symmetric:
        _equal("symmetric: deviation(−ν)", threat.deviation(x, -nu), far)
    note("symmetric", None if threat.symmetric else "the set says it is not", every)
    weights = threat.weights(x)
    if weights is not None:
        _equal("weights: Σ w|ν|", inner(nu.abs(), weights.expand_as(x)), far)
    note("weights", "the set has none" if weights is None else None, every)
    few = nu[:, :PROGRAMS]
    known = _by_programs(threat, x, few)
    if known is not None and exact:
        _equal("polyhedron: the largest νᵀd in it", known, far[:, :PROGRAMS])
    note("polyhedron", "the set has none" if known is None else None, few.shape[0] * few.shape[1])
    if exact:
        _equal("deviation(2ν)/2", threat.deviation(x, 2 * nu) / 2, far)
        both = threat.deviation(x, nu + nu.flip(1))
        _at_most("deviation(ν + μ) over the sum", both, far + far.flip(1), far)
    note("deviation is homogeneous and convex", None if exact else "exact=False", every)
    for i in range(len(x)):
        one = torch.tensor([i], device=x.device)
        own = threat.select(x, one).deviation(x[one], nu[one])
        _equal(f"select: deviation of example {i} alone", own, far[one])
    note("select", count=len(x))
    box, back = threat.interval(x), _ask(threat.reversed)
    if back is None:
        note("reversed", "the set does not say where a point came from")
    for what in ("project", "maximizer", "random_start", "advance", "reversed"):
        note(what, "the set has no project, and so no points to try")
    for name, point in _points(threat, x, nu):
        _has_shape(name, point, x.shape)
        step = (point - center).unsqueeze(1)
        for directions, most in ((nu, far), (step, threat.deviation(x, step))):
            reached = inner(directions, point - center)
            _at_most(f"νᵀ(x′ − c) at a point of {name} over deviation", reached, most, most)
        if known is not None:
            reached = inner(few, point - center)
            _at_most(f"νᵀ(x′ − c) at a point of {name} over polyhedron", reached, known, known)
        note(REACHED, count=len(x))
        size = 1 + x.abs().flatten(1)
        for text, gap in (("below", box.lower - point), ("above", point - box.upper)):
            _at_most(f"a point of {name} lies {text} interval", gap.flatten(1), 0, size)
        inside = _ask(threat.contains, x, point, 1e-4)
        assert inside is None or inside.all(), f"contains() denies a point of {name}"
        note(name, count=len(x))
        found = None if back is None else _ask(back.contains, point, x, 1e-4)
        if found is not None:
            assert bool(found.all()), "reversed() around a point leaves out its x"
            note("reversed", count=len(x))
    return tally.checked(str(threat))


def _by_programs(threat: ThreatModel, x: Tensor, nu: Tensor) -> Tensor | None:
    """Return the largest νᵀd [N, S] over the steps d that ``polyhedron`` allows, if it is there."""
    box = threat.interval(x).map(lambda end: end - threat.center(x))
    found = []
    for i in range(len(x)):
        one = torch.tensor([i], device=x.device)
        shape = polyhedron_of(threat.select(x, one), x[one])
        if shape is None:
            return None
        own = Interval(box.lower[i].flatten(), box.upper[i].flatten())
        found.append(support(shape, own, nu[i].flatten(1)))
    return torch.stack(found)


def _points(threat: ThreatModel, x: Tensor, nu: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield points of the set with the name of what gave them, as far as the set answers."""
    center = threat.center(x)
    start = _ask(threat.project, x, x)
    if start is not None:
        yield "project", start
    for k, direction in enumerate(nu.unbind(1)):
        near = _ask(threat.project, x, x + 10.0 ** (k % 4 - 2) * direction)
        here = center if near is None else near
        for name, point in (
            ("project", near),
            ("contains", _farthest(threat, x, direction) if near is None else None),
            ("maximizer", _ask(threat.maximizer, x, direction)),
            ("random_start", _ask(threat.random_start, x)),
            ("advance", _ask(threat.advance, x, here, direction, 0.3)),
        ):
            if point is not None:
                yield name, point


def _farthest(threat: ThreatModel, x: Tensor, direction: Tensor) -> Tensor | None:
    """Return about the farthest points from the center in a direction that ``contains`` admits."""
    center, far = threat.center(x), x.new_zeros(len(x))
    for power in range(*POWERS, -1):
        farther = far + 2.0**power
        inside = _ask(threat.contains, x, center + wide(farther, x) * direction, 0.0)
        if inside is None:
            return None
        far = torch.where(inside, farther, far)
    return center + wide(far, x) * direction


def _ask(question: Callable[..., Answer], *args: object) -> Answer | None:
    """Return an answer of a set, if it has one."""
    try:
        return question(*args)
    except UnansweredError:
        return None


def _has_shape(what: str, answer: Tensor, shape: tuple[int, ...]) -> None:
    assert isinstance(answer, Tensor), f"{what} gives {type(answer).__name__}, not a tensor"
    assert answer.shape == shape, f"{what} has shape {list(answer.shape)}, not {list(shape)}"


def _equal(what: str, one: Tensor, other: Tensor) -> None:
    _at_most(f"{what} differs", (one - other).abs(), 0, other)


def _at_most(what: str, low: Tensor, high: Tensor | float, scale: Tensor) -> None:
    """Raise unless low ≤ high, each [N, S], to a tolerance relative to ``scale``."""
    excess = low - high - TOLERANCE * (scale.abs().amax(1, keepdim=True) + 1e-6)
    if not bool((excess <= 0).all()):
        index = int(excess.nan_to_num(torch.inf).flatten(1).amax(1).argmax())
        worst = float(excess[index].nan_to_num(torch.inf).max())
        raise AssertionError(f"{what}, by {worst:.3g} for example {index}")
