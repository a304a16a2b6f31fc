"""The command line: ``commands`` has what there is to be said, ``jobs`` what is done."""

import sys
import traceback

from autodual.cli.loading import BROKEN, CROSSED, RAISED, REFUSED, UNDECIDED, USAGE, stop

__all__ = ["BROKEN", "CROSSED", "RAISED", "REFUSED", "UNDECIDED", "USAGE", "main"]


def main() -> None:
    """Run the command line."""
    try:
        import typer  # noqa: F401, to be missed here and not in the middle of something
    except ImportError:
        stop("the command line needs typer and rich: pip install 'autodual[cli]'", USAGE)
    from autodual.cli.commands import app

    try:
        app()
    except Exception:  # Python's own exit code is 1, which says something
        traceback.print_exc()
        sys.exit(BROKEN)
