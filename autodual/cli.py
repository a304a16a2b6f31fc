"""The command line: ``autodual demo``, ``autodual coverage`` and ``autodual check``."""

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
            from autodual.report.demo import run
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

        from autodual.errors import AutodualError
        from autodual.report.selfcheck import self_check

        bar = partial(track, description="attacking")
        try:
            net, x, y = _certified(factory)
            generator = torch.Generator(getattr(x, "device", "cpu")).manual_seed(seed)
            how = partial(self_check, steps=steps, classes=classes, generator=generator, track=bar)
            print(how(net, x, y))
        except AutodualError as error:
            sys.exit(str(error))

    @app.command()
    def coverage(
        factory: Annotated[
            str,
            typer.Argument(
                help="module:name of a model, or of what returns one or (model, example input)."
            ),
        ],
        shape: Annotated[
            str, typer.Option(help="The shape of one input, like 1,28,28, if no example comes.")
        ] = "",
    ) -> None:
        """List every op of a model: source line, dual layer, how tight; and what is missing."""
        from autodual import coverage as report
        from autodual.errors import AutodualError

        try:
            found = report(*_model(factory, shape))
        except AutodualError as error:
            sys.exit(str(error))
        print(found)
        sys.exit(0 if found.complete else 1)

    app()


def _named(factory: str) -> Any:
    """Return what ``module:name`` stands for, in the working directory or installed."""
    from autodual.errors import InputError

    module, _, name = factory.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{factory!r} is no module:name that can be imported: {error}") from error


def _certified(factory: str) -> tuple[Any, Any, Any]:
    """Return a certified model, inputs and labels."""
    from autodual.errors import InputError

    made = _named(factory if ":" in factory else f"{factory}:make")()
    if not isinstance(made, tuple) or len(made) != 3:
        raise InputError(f"{factory} must return (net, x, y), with net = autodual.certify(...)")
    return made


def _model(factory: str, shape: str) -> tuple[Any, Any]:
    """Return a model and an example input."""
    import torch

    from autodual.errors import InputError

    made = _named(factory)
    made = made if isinstance(made, torch.nn.Module) else made()
    if isinstance(made, tuple):
        return made
    if not shape:
        raise InputError(f"{factory} gives no example input; say --shape, for example 1,28,28")
    try:
        sizes = [int(size) for size in shape.split(",") if size]
    except ValueError as error:
        raise InputError(f"--shape {shape} is no list of sizes like 1,28,28") from error
    return made, torch.zeros(2, *sizes)


if __name__ == "__main__":
    main()
