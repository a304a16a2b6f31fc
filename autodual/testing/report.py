"""What was tried of a dual layer or of a set, how often, and what was not and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from autodual.bound.cost import tabulate


@dataclass(frozen=True)
class Checked:
    """What passed; print it.

    Attributes:
        what: what was checked, in words.
        tried: for each property that held, how many examples it was tried on, by dtype.
        apart: for each that was tried on none, why not.
    """

    what: str
    tried: Mapping[str, Mapping[torch.dtype, int]]
    apart: Mapping[str, str]

    def __str__(self) -> str:
        dtypes = list(dict.fromkeys(dtype for counts in self.tried.values() for dtype in counts))
        head = ["tried on", *(str(dtype).removeprefix("torch.") for dtype in dtypes)]
        rows = [
            [name, *(str(counts.get(dtype) or "–") for dtype in dtypes)]
            for name, counts in self.tried.items()
        ]
        apart = [
            f"not tried: {', '.join(n for n, w in self.apart.items() if w == why)}: {why}"
            for why in dict.fromkeys(self.apart.values())
        ]
        return "\n".join([self._title, tabulate([head, *rows]), *apart])

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._title}>"

    @property
    def _title(self) -> str:
        left = f", {len(self.apart)} not tried ({', '.join(self.apart)})" if self.apart else ""
        held = "1 property holds" if len(self.tried) == 1 else f"{len(self.tried)} properties hold"
        return f"{self.what}: {held}{left}"


class Tally:
    """Counts on how many examples properties are tried. Those that fail raise."""

    def __init__(self) -> None:
        self._tried: dict[str, Counter[torch.dtype]] = {}
        self._apart: dict[str, str] = {}

    def add(self, dtype: torch.dtype, name: str, apart: str | None = None, count: int = 1) -> None:
        """Hear that a property held on so many examples, or why it says nothing of them."""
        if apart is None:
            self._tried.setdefault(name, Counter())[dtype] += count
        else:
            self._apart.setdefault(name, apart)

    def checked(self, what: str) -> Checked:
        """Return what has been heard."""
        apart = {name: why for name, why in self._apart.items() if name not in self._tried}
        return Checked(what, {n: dict(c) for n, c in self._tried.items()}, apart)
