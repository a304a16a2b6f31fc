"""What can be bounded in a model, and how tightly: told before any bound is computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from autodual.bound.cost import tabulate
from autodual.bound.match import Match, match_all
from autodual.bound.plan import place
from autodual.duals import Affine, Bilinear, DualLayer, Elementwise, IntervalRule
from autodual.duals.given import UserRules, read_rules
from autodual.front.arguments import as_inputs, check_x
from autodual.front.capture import Inputs, Output, unwrap
from autodual.front.door import capture_once
from autodual.front.fidelity import check_fidelity

TIGHTNESS = {
    "exact": "the dual layer is the op itself",
    "free-slope": 'two parallel lines or planes; with slopes="free" each has slopes of its own',
    "parallel": "two parallel lines or planes, or a matrix product about its center",
    "interval": "only its interval is kept",
    "missing": "no dual layer",
}
"""How tight a dual layer is, by name."""


@dataclass(frozen=True)
class Row:
    """One op of a model.

    Attributes:
        op: its full name, like ``aten.relu.default``.
        source: the file, line and module it comes from.
        shape: the dtype and shape of its value.
        rule: the kind of its dual layer.
        tightness: one of ``TIGHTNESS``.
        note: the reason and the remedy, where the dual layer is missing.
    """

    op: str
    source: str
    shape: str
    rule: str
    tightness: str
    note: str = ""


@dataclass(frozen=True)
class Coverage:
    """Every op that the perturbation reaches, in order, and why no bound would be a certificate."""

    rows: tuple[Row, ...]
    caveats: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[Row, ...]:
        """The ops without a dual layer."""
        return tuple(row for row in self.rows if row.tightness == "missing")

    @property
    def complete(self) -> bool:
        """Whether ``certify`` can bound the model."""
        return not self.missing

    def __str__(self) -> str:
        header = ("op", "source", "shape", "dual layer", "tightness")
        table = [(r.op, r.source, r.shape, r.rule, r.tightness) for r in self.rows]
        counts = Counter(row.tightness for row in self.rows)
        shares = ", ".join(f"{counts[name]} {name}" for name in TIGHTNESS if counts[name])
        notes = [f"missing: {op}: {note}" for op, note in self._reasons]
        notes += [f"caveat: {caveat}" for caveat in self.caveats]
        return "\n".join([tabulate([header, *table]), f"{len(table)} ops: {shares}", *notes])

    @property
    def _reasons(self) -> Iterable[tuple[str, str]]:
        return dict.fromkeys((row.op, row.note) for row in self.missing)


def coverage(
    model: nn.Module,
    x: Tensor | Inputs,
    rules: UserRules | None = None,
    *,
    perturb: int | str = 0,
    output: Output = None,
    intervals: bool = False,
) -> Coverage:
    """List every op of a model with its source line, its dual layer and how tight that is.

    Ops without one are reported, all at once, each with a remedy.

    Args:
        model, rules, perturb, output, intervals: as for ``certify``.
        x: a batch of inputs; the bounds are asked at no values of theirs.

    Raises:
        InputError: x is no batch of the perturbed input.
        CaptureError, ModelError: the model cannot be captured as a graph, and why.
    """
    model, inputs = unwrap(model), as_inputs(x)
    check_x(inputs.get(perturb), model, lambda x: False)
    given = read_rules(rules)
    captured = capture_once(model, inputs, perturb, output, given.kinds)
    found = match_all(captured.graph, given.registry, intervals)
    if all(match.rule for match in found):
        check_fidelity(captured, model, inputs)
    return Coverage(tuple(map(_row, found)), captured.graph.caveats)


def _row(match: Match) -> Row:
    node = match.node
    kind = "–" if match.rule is None else type(match.rule).__name__.lower()
    where = place(node).strip() or "–"
    return Row(node.op, where, str(node.out.type), kind, _tightness(match.rule), match.problem)


def _tightness(rule: DualLayer | None) -> str:
    if rule is None:
        return "missing"
    if isinstance(rule, IntervalRule):
        return "interval"
    if isinstance(rule, Bilinear) and rule.planes is not None:
        rule = rule.planes
    if isinstance(rule, Elementwise) and (rule.free or rule.slopes is not Elementwise.slopes):
        return "free-slope"
    return "exact" if isinstance(rule, Affine) else "parallel"
