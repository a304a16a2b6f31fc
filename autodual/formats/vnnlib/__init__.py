"""The unsafe sets that VNN-LIB files, 1.0 and 2.0, describe."""

from __future__ import annotations

from pathlib import Path

from autodual.errors import InputError
from autodual.formats.vnnlib.cases import cases_of
from autodual.formats.vnnlib.parse import Parser
from autodual.formats.vnnlib.text import read_text
from autodual.query import Query

__all__ = ["read_vnnlib"]


def read_vnnlib(path: Path | str, inputs: int | None = None, outputs: int | None = None) -> Query:
    """Read a property, plain or gzipped, as the cases of its disjunctive normal form.

    A network's several inputs, and its outputs, are flat one after the other, as they are declared.
    Bounds of a single input make each case's box, infinite where there are none; all else is rows.
    Cases whose box is empty are left out, but for the first where there are no others. Without
    cases nothing is unsafe, as in a file that asserts (<= 1 0).

    Sound: the cases hold every unsafe point. Strict inequalities are read as closed, so < and ≤
    are one, and = and (not (= a b)) are closed, too: a point that only attains equality may be in a
    case and not in the file's set. A number is the float64 nearest to it; sums, products and
    quotients of these are exact, coefficients are rounded once to the nearest float64, and
    right-hand sides and bounds outwards.

    Args:
        path: the file.
        inputs, outputs: how many numbers the network takes and gives, if that is known.

    Raises:
        InputError: no such file, too large, or not well formed, with the line; no linear
            arithmetic; hidden nodes or several networks; more than 100,000 cases, or cases of more
            entries than fit; another number of inputs or outputs.
    """
    parser = Parser(read_text(Path(path)))
    try:
        parser.run()
        symbols = parser.symbols
        symbols.check(inputs, outputs)
        cases = cases_of(
            parser.formula, parser.rows, symbols.inputs, symbols.outputs, parser.expansion
        )
    except InputError as error:
        line = "" if parser.line is None else f", line {parser.line}"
        raise InputError(f"{path}{line}: {error}") from None
    return Query(cases, symbols.inputs, symbols.outputs)
