"""What long work says while it runs: its share done and the time left, on one line of a terminal.

Work inside other work moves on the outer one's line.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

Item = TypeVar("Item")

PATIENCE = 2.5
"""How many seconds work may take, or be forecast to take, without a word."""

EVERY = 0.2
"""How many seconds lie between two words at least."""

MEASURED = 0.05
"""From which share done on the time left is told from the time that went by, not the forecast."""


@dataclass(frozen=True)
class Report:
    """How far some work is.

    Attributes:
        what: its name.
        share: the part that is done, in [0, 1].
        elapsed, left: seconds; ``left`` is None where nothing is known yet.
        over: no more will be said: it is finished, or given up.
    """

    what: str
    share: float
    elapsed: float
    left: float | None
    over: bool = False

    def __str__(self) -> str:
        left = "" if self.left is None else f", about {duration(self.left)} left"
        return f"{self.what}: {100 * self.share:.0f} %{left}"


Show = Callable[[Report], None]

_shown: ContextVar[bool | Show | None] = ContextVar("shown", default=None)
_under_way: ContextVar[Bar | None] = ContextVar("under_way", default=None)


class progress:  # noqa: N801, a switch like torch.set_grad_enabled
    """Say where progress is shown from now on, or in a ``with`` block; per thread.

    Args:
        show: False for nowhere, True for stderr, None for stderr if it is a terminal (as at the
            start), or a function of a ``Report``. Nothing is said of work shorter than
            ``PATIENCE`` seconds.
    """

    def __init__(self, show: bool | Show | None) -> None:
        self._before = _shown.get()
        _shown.set(show)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        _shown.set(self._before)


class Bar:
    """Work under way; made by ``working``.

    Args:
        what: its name.
        total: how much there is to do, in units of its own.
        each: how much of that one piece of work inside it stands for.
        forecast: how many seconds it should take, where known.
        outer: the work that it is inside of.
    """

    def __init__(
        self, what: str, total: float, each: float, forecast: float | None, outer: Bar | None
    ) -> None:
        self.what, self.total, self.each = what, total, each
        self.forecast, self.outer = forecast, outer
        self.done = self._inside = 0.0
        self._start = time.perf_counter()
        self._last = -EVERY
        self._show = None if outer is not None else listener()
        self._told = False

    @property
    def heard(self) -> bool:
        """Whether anybody would hear of work inside."""
        up = self._show is not None if self.outer is None else self.outer.heard
        return up and self.each > 0

    @property
    def share(self) -> float:
        """The part that is done, in [0, 1]."""
        done = self.done + self.each * self._inside
        return min(1.0, done / self.total) if self.total > 0 else 1.0

    def advance(self, amount: float = 1.0) -> None:
        """Hear that so much more is done."""
        self.done, self._inside = self.done + amount, 0.0
        self.tell()

    def reach(self, done: float) -> None:
        """Hear that so much is done altogether."""
        self.done, self._inside = max(self.done, done), 0.0
        self.tell()

    def fill(self, share: float) -> None:
        """Hear from work inside that so much of it is done."""
        self._inside = share
        self.tell()

    def tell(self, over: bool = False) -> None:
        """Pass on how far it is, if it is time to."""
        if self.outer is not None:
            self.outer.fill(self.share)
            return
        if self._show is None or (over and not self._told):
            return
        now = time.perf_counter() - self._start
        long = max(now, self.forecast or 0.0) >= PATIENCE
        if over or (long and now - self._last >= EVERY):
            self._last, self._told = now, True
            self._show(Report(self.what, self.share, now, self._left(now), over))

    def _left(self, elapsed: float) -> float | None:
        share = self.share
        if share > MEASURED or (share > 0 and self.forecast is None):
            return elapsed * (1 - share) / share
        return None if self.forecast is None else max(0.0, self.forecast - elapsed)


@contextmanager
def working(
    what: str, total: float, each: float = 1.0, forecast: float | None = None
) -> Iterator[Bar]:
    """Show how far work is while the block runs; the block says ``advance``."""
    outer = _under_way.get()
    bar = Bar(what, total, each, forecast, outer)
    _under_way.set(bar)
    try:
        bar.tell()
        yield bar
    finally:
        _under_way.set(outer)
        if outer is None:
            bar.tell(over=True)


_metered: ContextVar[Bar | None] = ContextVar("metered", default=None)


@contextmanager
def metered(what: str, total: float, forecast: float) -> Iterator[None]:
    """Show how far work is while the block runs; whoever does some says ``spend``."""
    with working(what, total, forecast=forecast) as bar:
        token = _metered.set(bar)
        try:
            yield
        finally:
            _metered.reset(token)


class TimeOver(Exception):  # noqa: N818, nothing went wrong
    """The time that ``until`` gave is over."""


_end: ContextVar[float] = ContextVar("end", default=math.inf)


@contextmanager
def until(end: float) -> Iterator[None]:
    """Let long work in the block stop by ``TimeOver`` at a time of ``time.perf_counter``."""
    token = _end.set(min(end, _end.get()))
    try:
        yield
    finally:
        _end.reset(token)


def check_time() -> None:
    """Raise ``TimeOver`` if time is over; between two pieces of long work."""
    if time.perf_counter() >= _end.get():
        raise TimeOver


def spend(amount: float) -> None:
    """Say that so much of the metered work is done, if any is metered; mind the time."""
    check_time()
    bar = _metered.get()
    if bar is not None:
        bar.advance(amount)


def heard() -> bool:
    """Return whether anybody would hear of work that starts now."""
    outer = _under_way.get()
    return listener() is not None if outer is None else outer.heard


def track(items: Sequence[Item], what: str) -> Iterator[Item]:
    """Yield the items one by one, and show how many are done."""
    with working(what, len(items)) as bar:
        for item in items:
            yield item
            bar.advance()


def duration(seconds: float) -> str:
    """Return a time in words, as roughly as an estimate deserves."""
    if seconds < 0.95:
        return f"{seconds:.1g} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"


def listener() -> Show | None:
    """Return what shows progress, if anything does."""
    show = _shown.get()
    if callable(show):
        return show
    stream = sys.stderr
    if show is False or stream is None or not (show or stream.isatty()):
        return None
    return _Line()


class _Line:
    """One line on stderr, written over and over, and wiped out at the end."""

    def __init__(self) -> None:
        self._width = 0

    def __call__(self, report: Report) -> None:
        text = "" if report.over else str(report)
        sys.stderr.write("\r" + text.ljust(self._width) + ("\r" if report.over else ""))
        sys.stderr.flush()
        self._width = len(text)
