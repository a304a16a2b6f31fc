"""Progress as the command line shows it."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.progress import TimeRemainingColumn as TimeLeft

from autodual.working import Report


class Bars:
    """Shows each report as a bar on stderr, which goes when the work is over; see ``progress``.

    Args:
        console: where to.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __call__(self, report: Report) -> None:
        """Draw how far it is."""
        if self._bar is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeLeft(),
            )
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task(report.what, total=1.0)
            self._bar.start()
        self._bar.update(self._task, description=report.what, completed=report.share)
        if report.over:
            self._bar.stop()
            self._bar = None
