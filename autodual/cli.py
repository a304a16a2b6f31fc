"""The command line: ``autodual demo``."""

import sys
from pathlib import Path
from typing import Annotated

OUT = Path("out/demo.png")


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
        out: Annotated[Path, typer.Option(help="Where the picture goes.")] = OUT,
        epochs: Annotated[int, typer.Option(min=1, help="Passes over the training digits.")] = 20,
        eps: Annotated[float, typer.Option(min=1e-6, max=0.5, help="Training ε.")] = 0.1,
        seed: Annotated[int, typer.Option(help="Seed of initialisation and order.")] = 0,
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
