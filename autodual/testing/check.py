"""Run every property of a dual layer on examples that hypothesis draws and shrinks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from autodual.calls import check_count
from autodual.duals import Affine, Call, DualLayer, Elementwise, MatrixProduct, Sides
from autodual.duals.base import for_another
from autodual.errors import InputError
from autodual.front.ir import map_leaves
from autodual.interval import Interval
from autodual.testing import affine, elementwise, exact, gradients, several
from autodual.testing.case import Case, Z
from autodual.testing.report import Checked, Tally
from autodual.testing.strategies import Reach, intervals, ordinary

SHAPE = (1, 2, 3)
"""The shape that an elementwise op is tried on, if no case says otherwise."""

DTYPES = (torch.float64, torch.float32)
"""The dtypes that bounds are computed in."""

PRECISE = "that is tried in float64 alone; see dtypes="

_HINT = ". Is f′ right, and no inflection, kink, stationary point or pole forgotten?"

Note = Callable[..., None]
"""(a property that holds on an example, why it says nothing of that if so)."""

Check = Callable[[Any, Call, Any, torch.Generator, Note], None]
"""(rule, call, boxes, generator, note): try every property on an example."""


def check_dual_layer(
    rule: DualLayer,
    op: str | Callable[..., Any] | Case,
    *,
    examples: int = 20,
    shrink: bool = True,
    reach: tuple[float, float] | None = None,
    dtypes: Sequence[torch.dtype] = DTYPES,
) -> Checked:
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
        examples: how many examples hypothesis draws in the first of the dtypes; a third of that in
            the other.
        shrink: look for the smallest example once one fails.
        reach: the least and the largest number of all boxes, such as the part of f's domain that
            matters. By default they lie about 0, and some go as far as 10⁴.
        dtypes: float64, float32 or both.

    Returns:
        Which properties were tried, on how many examples, and which were not, and why.

    Raises:
        AssertionError: the inequality that is violated, with the numbers of the smallest example.
            One that holds in float64, of the same numbers, is said to be broken by rounding.
        InputError: there is no such op, or it has no such arguments; ``examples``, ``reach`` or
            ``dtypes`` makes no sense.
    """
    reach, dtypes = _read_reach(reach), _read_dtypes(dtypes)
    check_count("examples", examples)
    case, tally = _case(rule, op), Tally()
    for dtype in dtypes:
        count = examples if dtype == dtypes[0] else (examples + 2) // 3
        search = _Search(_checks(rule), rule, case, dtype, reach, dtype == dtypes[0], tally)
        with_hint = _HINT if isinstance(rule, Elementwise) else ""
        try:
            search.run(count, shrink)
        except AssertionError as error:
            raise AssertionError(f"{case}, {dtype}: {error}{with_hint}") from error
    if isinstance(rule, Elementwise) and not rule.several:
        apart: str | None = PRECISE
        if torch.float64 in dtypes:
            call, (shape,) = case.build(torch.Generator().manual_seed(0), torch.float64)
            apart = gradients.check_gradients(rule, call, shape, reach)
        tally.add(torch.float64, "gradients of the lines", apart)
    return tally.checked(f"{case} as {rule.kind}")


def _read_reach(reach: object) -> Reach | None:
    """Return the range of all boxes."""
    if reach is None:
        return None
    try:
        low, high = map(float, reach)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(
            f"reach={reach!r} is no range: give the least and the largest number of the boxes to "
            "try, such as (0.0, 50.0)"
        )
    return low, high


def _read_dtypes(dtypes: Any) -> tuple[torch.dtype, ...]:
    """Return the dtypes to try, each once."""
    given = dtypes if isinstance(dtypes, tuple | list) else (dtypes,)
    if not given or any(dtype not in DTYPES for dtype in given):
        raise InputError(
            f"dtypes={dtypes!r}: bounds are computed in torch.float64 and torch.float32, give one "
            "or both, such as (torch.float64,)"
        )
    return tuple(dict.fromkeys(given))


def _case(rule: DualLayer, op: str | Callable[..., Any] | Case) -> Case:
    """Return the case that is meant: where none is given, that of the arguments of the rule."""
    if isinstance(op, Case):
        return op
    names = _arguments(rule)
    case = Case(op, {name: Z(SHAPE) for name in names})
    taken = case.takes
    if isinstance(rule, Elementwise) and len(names) == 1 and taken and names[0] not in taken:
        other = "; ".join(for_another(names[0], taken[0]))
        raise InputError(f"{case} takes {', '.join(taken)}, but {other}")
    return case


def _arguments(rule: DualLayer) -> Sequence[str]:
    """Return the arguments to perturb where no case says which."""
    if isinstance(rule, Affine):
        return (rule.together + rule.alone)[:1]
    if isinstance(rule, MatrixProduct):
        return rule.factor.alone
    arguments: Sequence[str] = getattr(rule, "arguments", ("self",))
    return arguments


def _checks(rule: DualLayer) -> Check:
    if isinstance(rule, Affine):
        return _check_affine
    one = isinstance(rule, Elementwise) and not rule.several
    return _check_elementwise if one else _check_several


@dataclass(frozen=True)
class _Search:
    """Tries to break a rule in a dtype; ``first`` says that this is the first it is tried in."""

    check: Check
    rule: DualLayer
    case: Case
    dtype: torch.dtype
    reach: Reach | None
    first: bool
    tally: Tally

    def run(self, count: int, shrink: bool) -> None:
        """Try so many examples."""
        shapes = self.case.build(torch.Generator(), self.dtype)[1]

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
            boxes=st.tuples(*(intervals(shape, self.dtype, self.reach) for shape in shapes)),
            seed=st.integers(0, 2**31),
        )
        def run(boxes: tuple[Interval, ...], seed: int) -> None:
            generator = torch.Generator().manual_seed(seed)
            call, _ = self.case.build(generator, self.dtype)
            self._try(call, boxes, generator)
            if isinstance(self.rule, Elementwise) and self.first:
                more = ordinary(shapes, self.dtype, generator, self.reach)
                self._try(call, more, generator)

        run()

    def _try(self, call: Call, boxes: tuple[Interval, ...], generator: torch.Generator) -> None:
        """Check an example; where it fails, say whether that is rounding."""
        state = generator.get_state()
        note = partial(self.tally.add, self.dtype)
        try:
            self.check(self.rule, call, boxes, generator, note)
        except AssertionError as error:
            generator.set_state(state)
            if self.dtype == torch.float64 or not self._holds(call, boxes, generator):
                raise
            said = "The same example holds in float64: it is rounding that breaks it"
            raise AssertionError(f"{error}. {said}") from error

    def _holds(self, call: Call, boxes: tuple[Interval, ...], generator: torch.Generator) -> bool:
        """Return whether an example of a lower precision holds for its own numbers in float64."""

        def precise(leaf: Any) -> Any:
            is_float = isinstance(leaf, Tensor) and leaf.is_floating_point()
            return leaf.double() if is_float else leaf

        same = call.replace({name: map_leaves(arg, precise) for name, arg in call.args.items()})
        try:
            self.check(
                self.rule,
                same,
                tuple(box.map(Tensor.double) for box in boxes),
                generator,
                lambda *_: None,
            )
        except AssertionError:
            return False
        return True


def _check_affine(
    rule: Affine,
    call: Call,
    boxes: tuple[Interval, ...],
    generator: torch.Generator,
    note: Note,
) -> None:
    affine.check_fenchel(rule, call, boxes, generator)
    note("Fenchel's equality")
    affine.check_interval(rule, call, boxes, generator)
    note("the interval is exact")
    shapes = [box.lower.shape for box in boxes]
    for name, check in (
        ("the adjoint", affine.check_adjoint),
        ("the linear part", affine.check_linear_part),
        ("the window", affine.check_window),
    ):
        precise = boxes[0].lower.dtype == torch.float64
        note(name, check(rule, call, shapes, generator) if precise else PRECISE)
    _note_rounding(note, exact.check_affine(rule, call, boxes, generator))


def _check_elementwise(
    rule: Elementwise,
    call: Call,
    boxes: tuple[Interval, ...],
    generator: torch.Generator,
    note: Note,
) -> None:
    (box,) = boxes
    nu, slope, s, t = torch.randn(4, *box.lower.shape, generator=generator).to(box.lower)
    part = Interval(
        *(
            torch.lerp(box.lower, box.upper, w.sigmoid())
            for w in (torch.minimum(s, t), torch.maximum(s, t))
        )
    )
    part = Interval(*(box.nearest(end) for end in (part.lower, part.upper)))
    assert rule.covers(rule.arguments, call.args), "the rule does not accept this call"
    equal, given = rule.relax(call, box), rule.relax(call, box, slopes=slope)
    sides = rule.relax(call, box, slopes=Sides(slope, nu))
    chosen = {
        "equal slopes": equal,
        "free slopes": rule.relax(call, box, at=[box.center]),
        "a slope given": given,
        "a slope given for each side": sides,
    }
    beside = [
        ("lines beside those chosen", lines) for lines in rule.facets(call, box, chosen=sides)
    ]
    silent = elementwise.check_enclosure(call, box, [*chosen.items(), *beside])
    for which, apart in zip(chosen, silent, strict=False):
        note(f"lines enclose f: {which}", apart)
    apart = elementwise.SILENT if beside else "the rule gives none"
    note(
        "lines enclose f: lines beside those chosen",
        None if None in silent[len(chosen) :] else apart,
    )
    rows = torch.stack([nu, -nu])
    note("Fenchel's inequality", elementwise.check_fenchel(call, box, equal, rows))
    note("the interval holds f and shrinks", elementwise.check_interval(rule, call, box, part))
    inner = rule.relax(call, part, slopes=slope)
    note("lines of one slope close in", elementwise.check_parts(box, part, slope, given, inner))
    note("all is exact at ℓ = u", elementwise.check_point(rule, call, box.lower))
    precise = box.lower.dtype == torch.float64
    if precise:
        elementwise.check_batch(rule, call, [box, part], [equal, rule.relax(call, part)])
    note("examples do not mix", None if precise else PRECISE)
    _note_rounding(note, exact.check_planes(rule, call, boxes, generator))


def _check_several(
    rule: DualLayer,
    call: Call,
    boxes: tuple[Interval, ...],
    generator: torch.Generator,
    note: Note,
) -> None:
    note("Fenchel's inequality", several.check_fenchel(rule, call, boxes, generator))
    note("the interval holds f and shrinks", several.check_interval(rule, call, boxes, generator))
    apart: str | None = "the rule gives none"
    if isinstance(rule, Elementwise):
        apart = several.check_planes(rule, call, boxes, generator)
    note("planes enclose f", apart)
    _note_rounding(note, exact.check_planes(rule, call, boxes, generator))


def _note_rounding(note: Note, apart: str | None) -> None:
    """Note that what a rule says of rounding holds, if it says something."""
    if apart != exact.UNASKED:
        note("rounding is charged", apart)
