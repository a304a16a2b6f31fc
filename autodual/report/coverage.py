"""What can be bounded in a model, and how tightly: told before any bound is computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from autodual.bound.cost import tabulate
from autodual.bound.match import Match, match_all
from autodual.bound.plan import place
from autodual.duals import TIGHTNESS
from autodual.duals.given import UserRules, read_rules
from autodual.errors import ModelError
from autodual.front.capture import Output, unwrap
from autodual.front.door import Admitted, Question, admit
from autodual.front.ir import Graph
from autodual.inputs import Inputs
from autodual.wrapper import Wrapper


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

    __repr__ = __str__

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
        ModelError: the model is certified already.
        CaptureError, ModelError: it cannot be captured as a graph, and why.
    """
    if isinstance(unwrap(model), Wrapper):
        raise ModelError("coverage is that of the model itself: give net.model")
    given = read_rules(rules)
    question = Question(perturb, output, given.kinds)

    def match(graph: Graph) -> list[Match]:
        return match_all(graph, given.registry, intervals)

    def look(confirm: bool) -> Admitted[list[Match]]:
        key = "coverage", given, intervals
        return admit(model, x, question, match, key, confirm=confirm, looks=lambda x: False)

    found = look(confirm=False)
    if all(match.rule for match in found.program):
        look(confirm=True)
    return Coverage(tuple(map(_row, found.program)), found.graph.caveats)


def _row(match: Match) -> Row:
    node = match.node
    kind = "–" if match.rule is None else type(match.rule).__name__.lower()
    where = place(node).strip() or "–"
    return Row(
        node.op,
        where,
        str(node.out.type),
        kind,
        "missing" if match.rule is None else match.rule.tightness,
        match.problem,
    )
