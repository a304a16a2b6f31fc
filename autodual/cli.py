"""The command line: ``autodual demo`` and ``autodual check``."""

import importlib
import sys
from pathlib import Path
from typing import Annotated, Any

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

    @app.command()
    def check(
        factory: Annotated[
            str,
            typer.Argument(
                help="module:function that returns (net, x, y), with net = autodual.certify(...)."
            ),
        ],
        steps: Annotated[int, typer.Option(min=1, help="Steps of the gradient attacks.")] = 20,
        classes: Annotated[int, typer.Option(min=1, help="Classes to attack per example.")] = 9,
        seed: Annotated[int, typer.Option(help="Seed of the attacks.")] = 0,
    ) -> None:
        """Attack a certified model in every way; fail if an attack crosses its bound."""
        from functools import partial

        import torch
        from rich.progress import track

        from autodual.errors import CrossingError
        from autodual.selfcheck import self_check

        net, x, y = _made_by(factory)
        generator = torch.Generator(getattr(x, "device", "cpu")).manual_seed(seed)
        bar = partial(track, description="attacking")
        how = partial(self_check, steps=steps, classes=classes, generator=generator, track=bar)
        try:
            print(how(net, x, y))
        except CrossingError as error:
            sys.exit(str(error))

    app()


def _made_by(factory: str) -> tuple[Any, Any, Any]:
    """Return what the function at ``module:function`` returns, in this folder or installed."""
    module, _, function = factory.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        made = getattr(importlib.import_module(module), function or "make")()
    except (ImportError, AttributeError) as error:
        sys.exit(f"{factory} cannot be called: {error}. Give module:function.")
    if not isinstance(made, tuple) or len(made) != 3:
        sys.exit(f"{factory} must return (net, x, y), with net = autodual.certify(...)")
    return made


if __name__ == "__main__":
    main()
