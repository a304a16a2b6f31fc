"""The command line: ``autodual demo``."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    """Run the command line."""
    try:
        import typer
    except ImportError:
        sys.exit("the command line needs typer and rich: pip install 'autodual[cli]'")
    app = typer.Typer(help="Certified robustness for PyTorch models.", no_args_is_help=True)

    @app.callback()
    def root() -> None:
        """Certified robustness for PyTorch models."""

    @app.command()
    def demo(
        out: Path = typer.Option(Path("out/demo.png"), help="Where the picture goes."),
        epochs: int = typer.Option(20, min=1, help="Passes over the training digits."),
        eps: float = typer.Option(0.1, min=1e-6, max=0.5, help="Training ε; pixels are in [0, 1]."),
        seed: int = typer.Option(0, help="Seed of initialisation and order."),
    ) -> None:
        """Train a standard and a robust net on scikit-learn's digits; compare their errors."""
        try:
            from autodual.demo import run
        except ImportError as error:
            sys.exit(f"the demo needs {error.name}: pip install 'autodual[demo]'")
        run(out, epochs=epochs, eps=eps, seed=seed)

    app()


if __name__ == "__main__":
    main()
