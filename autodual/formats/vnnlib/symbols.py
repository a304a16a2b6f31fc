"""What a file declares: numbers of an input or an output, by their names."""

from __future__ import annotations

import math
import re

from autodual.errors import InputError

SCALAR = re.compile(r"([XY])_(0|[1-9]\d{0,8})", re.ASCII)

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")

ELEMENT = re.compile(r"([A-Za-z]\w*)\s*\[([\d,\s]*)\]", re.ASCII)

REALS = "real", "float", "float16", "float32", "float64", "double", "bfloat16"

MOST = 2**24


def shown(token: str) -> str:
    """Return a token as messages show it: short, on one line."""
    return repr(token if len(token) <= 40 else token[:37] + "…")


class Symbols:
    """The inputs, numbered from 0 up, and the outputs, numbered from −1 down.

    Attributes:
        inputs, outputs: how many there are.
        version: None until something is declared, then 1 or 2.
    """

    def __init__(self) -> None:
        self.inputs = self.outputs = 0
        self.version: int | None = None
        self.network: str | None = None
        self.numbers: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, tuple[int, ...]]] = {}

    def find(self, token: str) -> int | None:
        """Return the number of X_3 or X[0,3], or None if no such thing is declared."""
        return self._element(token) if self.shapes else self.numbers.get(token)

    def declare_version(self, operands: list[str]) -> None:
        """Take (vnnlib-version <2.0>)."""
        if self.version is not None:
            raise InputError("vnnlib-version must be said once, before anything else")
        if len(operands) != 1 or not re.fullmatch(r"<\d{1,9}\.\d{1,9}>", operands[0], re.ASCII):
            raise InputError("a version is like (vnnlib-version <2.0>)")
        if not operands[0].startswith("<2."):
            raise InputError(f"VNN-LIB of version {operands[0]} is unknown; 1.0 and 2 are read")
        self.version = 2

    def declare_const(self, operands: list[str]) -> None:
        """Take (declare-const X_0 Real) of VNN-LIB 1.0."""
        if self.version == 2:
            raise InputError("VNN-LIB 2.0 has declare-network, not declare-const")
        if len(operands) != 2 or operands[1] != "Real":
            raise InputError("a declaration is like (declare-const X_0 Real)")
        name = SCALAR.fullmatch(operands[0])
        if name is None:
            raise InputError(f"{shown(operands[0])} is declared; names are X_0, X_1, … and Y_0, …")
        self.version, index = 1, int(name[2])
        if operands[0] in self.numbers:
            raise InputError(f"{operands[0]} is declared twice")
        if name[1] == "X":
            self.numbers[operands[0]], self.inputs = index, self.inputs + 1
        else:
            self.numbers[operands[0]], self.outputs = -1 - index, self.outputs + 1

    def open_network(self) -> None:
        """Begin a declare-network."""
        if self.version != 2:
            raise InputError("declare-network comes after (vnnlib-version <2.0>)")
        if self.network is not None:
            raise InputError("there are several networks; only files about one are read")
        self.network = ""

    def declare_network(self, operands: list[str]) -> None:
        """End a declare-network, with its name."""
        if len(operands) != 1 or not NAME.fullmatch(operands[0]):
            raise InputError("declare-network has one name, and then inputs and outputs")
        self.network = operands[0]
        if self.network in self.shapes:
            raise InputError(f"{shown(self.network)} is declared twice")

    def declare_tensor(self, head: str, operands: list[str]) -> None:
        """Take (declare-input X float32 [1,5]) or the like; hidden nodes are refused."""
        name = shown(operands[0]) if operands else "without a name"
        if head == "declare-hidden":
            raise InputError(f"{name} is a hidden node; only inputs and outputs can be asked about")
        if head not in ("declare-input", "declare-output"):
            raise InputError(f"({head} …) relates several networks; only files about one are read")
        if len(operands) != 2 or not NAME.fullmatch(operands[0]):
            if operands[2:] == ["initialized"]:
                raise InputError(f"{name} is initialized by the model, which is not supported")
            raise InputError(f"a declaration is like ({head} X float32 [1,5])")
        kind = ELEMENT.fullmatch(operands[1])
        if kind is None or kind[1].lower() not in REALS:
            raise InputError(f"{name} is {shown(operands[1])}, none of {', '.join(REALS)} [sizes]")
        shape = _integers(kind[2])
        if operands[0] in self.shapes:
            raise InputError(f"{name} is declared twice")
        size = math.prod(shape)
        if not 0 < size <= MOST:
            raise InputError(f"{name} has {size} numbers; between 1 and {MOST} can be read")
        if head == "declare-input":
            self.shapes[operands[0]], self.inputs = (self.inputs, shape), self.inputs + size
        else:
            start = -1 - self.outputs
            self.shapes[operands[0]], self.outputs = (start, shape), self.outputs + size

    def check(self, inputs: int | None, outputs: int | None) -> None:
        """Raise unless there are inputs and outputs, without gaps, as many as are expected."""
        for letter, what, found, wanted in (
            ("X", "inputs", self.inputs, inputs),
            ("Y", "outputs", self.outputs, outputs),
        ):
            if not 0 < found <= MOST:
                raise InputError(f"{found} {what} are declared; between 1 and {MOST} can be read")
            if self.version == 1:
                gaps = (i for i in range(found) if f"{letter}_{i}" not in self.numbers)
                if (gap := next(gaps, None)) is not None:
                    raise InputError(f"{letter}_{gap} is not declared, but a later one is")
            if wanted is not None and found != wanted:
                raise InputError(f"{found} {what} are declared, and the network has {wanted}")

    def _element(self, token: str) -> int | None:
        """Return the number of X[0,3], or of a Y without dimensions."""
        name, bracket, rest = token.partition("[")
        name = name.rstrip()
        if name not in self.shapes:
            return None
        if token in self.numbers:
            return self.numbers[token]
        start, shape = self.shapes[name]
        index = _integers(rest[:-1]) if bracket else ()
        if len(index) != len(shape) or any(i >= size for i, size in zip(index, shape, strict=True)):
            raise InputError(f"{shown(token)} is not in {name}, which is {list(shape)}")
        flat = 0
        for i, size in zip(index, shape, strict=True):
            flat = flat * size + i
        found = start + flat if start >= 0 else start - flat
        self.numbers[token] = found
        return found


def _integers(said: str) -> tuple[int, ...]:
    """Return the numbers of "1, 5"; none of an empty text."""
    parts = [part.strip() for part in said.split(",")] if said.strip() else []
    if not all(re.fullmatch(r"\d{1,9}", part, re.ASCII) for part in parts) or len(parts) > 64:
        raise InputError(f"[{said[:40]}] is no list of sizes or indices like [1,5]")
    return tuple(map(int, parts))
