"""Run every property of a dual layer on examples that hypothesis draws and shrinks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from autodual.duals import Affine, Call, DualLayer, Elementwise, MatrixProduct, Sides
from autodual.interval import Interval
from autodual.testing import affine, elementwise, several
from autodual.testing.case import Case, Z
from autodual.testing.strategies import intervals, ordinary

SHAPE = (1, 2, 3)
"""The shape that an elementwise op is tried on, if no case says otherwise."""


_HINT = ". Is f′ right, and no inflection, kink, stationary point or pole forgotten?"


def check_dual_layer(
    rule: DualLayer, op: str | Callable[..., Any] | Case, *, examples: int = 20, shrink: bool = True
) -> None:
    """Raise unless a rule keeps every property of a dual layer, on every example tried.

    For an affine op z ↦ Az + b: Fenchel's equality, the adjoint ⟨Az, ν⟩ = ⟨z, Aᵀν⟩, exact
    interval arithmetic, windows, rows that do not mix. For an elementwise one: both lines enclose
    f for the default slope, for free slopes and for any slope given; Fenchel's inequality; the
    interval holds f and shrinks with its box, and so do lines of one slope; all are exact at
    ℓ = u; gradients of the lines; examples of a batch do not mix. For one of several arguments the
    same, but the last two. In float64, and what rounding allows in float32.

    Args:
        rule: the dual layer.
        op: the op's name, the function itself, or a ``Case`` that says with which arguments.
        examples: how many examples hypothesis draws in float64; a third of that in float32.
        shrink: look for the smallest example once one fails.

    Raises:
        AssertionError: the inequality that is violated, with the numbers of the smallest example.
    """
    case = op if isinstance(op, Case) else Case(op, {name: Z(SHAPE) for name in _arguments(rule)})
    for dtype, count in ((torch.float64, examples), (torch.float32, (examples + 2) // 3)):
        try:
            _search(_checks(rule), rule, case, dtype, count, shrink)
        except AssertionError as error:
            hint = _HINT if isinstance(rule, Elementwise) else ""
            raise AssertionError(f"{case}, {dtype}: {error}{hint}") from error
    if isinstance(rule, Elementwise) and not rule.several:
        call, (shape,) = case.build(torch.Generator().manual_seed(0), torch.float64)
        elementwise.check_gradients(rule, call, shape)


def _arguments(rule: DualLayer) -> Sequence[str]:
    """Return the arguments to perturb where no case says which."""
    if isinstance(rule, Affine):
        return (rule.together + rule.alone)[:1]
    if isinstance(rule, MatrixProduct):
        return rule.factor.alone
    arguments: Sequence[str] = getattr(rule, "arguments", ("self",))
    return arguments


def _checks(rule: DualLayer) -> Callable[..., None]:
    if isinstance(rule, Affine):
        return _check_affine
    one = isinstance(rule, Elementwise) and not rule.several
    return _check_elementwise if one else _check_several


def _search(
    check: Callable[..., None],
    rule: DualLayer,
    case: Case,
    dtype: torch.dtype,
    count: int,
    shrink: bool,
) -> None:
    shapes = case.build(torch.Generator(), dtype)[1]

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        derandomize=True,
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        boxes=st.tuples(*(intervals(shape, dtype) for shape in shapes)),
        seed=st.integers(0, 2**31),
    )
    def run(boxes: tuple[Interval, ...], seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        call, _ = case.build(generator, dtype)
        try:
            check(rule, call, boxes, generator)
        except AssertionError as error:
            if dtype == torch.float64 or not _holds(check, rule, case, boxes, seed):
                raise
            said = "The same example holds in float64: it is rounding that breaks it"
            raise AssertionError(f"{error}. {said}") from error
        if isinstance(rule, Elementwise) and dtype == torch.float64:
            check(rule, call, ordinary(shapes, dtype, generator), generator)

    run()


def _holds(
    check: Callable[..., None], rule: DualLayer, case: Case, boxes: Sequence[Interval], seed: int
) -> bool:
    """Return whether an example that fails in a lower precision holds in float64."""
    generator = torch.Generator().manual_seed(seed)
    call, _ = case.build(generator, torch.float64)
    try:
        check(rule, call, tuple(box.map(Tensor.double) for box in boxes), generator)
    except AssertionError:
        return False
    return True


def _check_affine(
    rule: Affine, call: Call, boxes: tuple[Interval, ...], generator: torch.Generator
) -> None:
    affine.check_fenchel(rule, call, boxes, generator)
    affine.check_interval(rule, call, boxes, generator)
    if boxes[0].lower.dtype == torch.float64:
        shapes = [box.lower.shape for box in boxes]
        affine.check_adjoint(rule, call, shapes, generator)
        affine.check_linear_part(rule, call, shapes, generator)
        affine.check_window(rule, call, shapes, generator)


def _check_elementwise(
    rule: Elementwise, call: Call, boxes: tuple[Interval, ...], generator: torch.Generator
) -> None:
    (box,) = boxes
    nu, slope, s, t = torch.randn(4, *box.lower.shape, generator=generator).to(box.lower)
    part = Interval(
        *(
            torch.lerp(box.lower, box.upper, w.sigmoid())
            for w in (torch.minimum(s, t), torch.maximum(s, t))
        )
    )
    part = Interval(*(torch.clamp(end, box.lower, box.upper) for end in (part.lower, part.upper)))
    assert rule.covers(rule.arguments, call.args), "the rule does not accept this call"
    elementwise.check_enclosure(call, box, rule.relax(call, box), "equal slopes")
    free = rule.relax(call, box, at=[box.center])
    elementwise.check_enclosure(call, box, free, "free slopes")
    given = rule.relax(call, box, slopes=slope)
    elementwise.check_enclosure(call, box, given, "a slope given")
    sides = rule.relax(call, box, slopes=Sides(slope, nu))
    elementwise.check_enclosure(call, box, sides, "a slope given for each side")
    for chosen in (free, sides):
        for lines in rule.facets(call, box, chosen=chosen):
            elementwise.check_enclosure(call, box, lines, "lines beside those chosen")
    elementwise.check_fenchel(rule, call, box, torch.stack([nu, -nu]))
    elementwise.check_interval(rule, call, box, part)
    elementwise.check_parts(rule, call, box, part, slope)
    elementwise.check_point(rule, call, box.lower)
    if box.lower.dtype == torch.float64:
        elementwise.check_batch(rule, call, [box, part])


def _check_several(
    rule: DualLayer,
    call: Call,
    boxes: tuple[Interval, ...],
    generator: torch.Generator,
) -> None:
    several.check_fenchel(rule, call, boxes, generator)
    several.check_interval(rule, call, boxes, generator)
    if isinstance(rule, Elementwise):
        several.check_planes(rule, call, boxes, generator)
