"""The command line: ``autodual demo``, ``autodual coverage`` and ``autodual check``."""

import importlib
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Annotated, Any, NoReturn

OUT = Path("out/demo.png")

CROSSED, USAGE, REFUSED, RAISED = 1, 2, 3, 4

HELP = (
    "Certified robustness for PyTorch models.\n\nExit codes: 0 yes; 1 an attack crosses a bound; "
    "2 usage: an argument, or what a function returns; 3 the model cannot be bounded, as where ops "
    "have no dual layer; 4 your own code raised something."
)


def main() -> None:
    """Run the command line."""
    try:
        import typer
    except ImportError:
        _stop("the command line needs typer and rich: pip install 'autodual[cli]'", USAGE)
    app = typer.Typer(help=HELP, no_args_is_help=True)

    def version(wanted: bool) -> None:
        if wanted:
            from autodual import __version__

            print(f"autodual {__version__}")
            raise typer.Exit

    @app.callback(help=HELP)
    def root(
        version: Annotated[
            bool, typer.Option("--version", callback=version, is_eager=True, help="Say which.")
        ] = False,
    ) -> None: ...

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
            _stop(f"the demo needs {error.name}: pip install 'autodual[demo]'", USAGE)
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

        from autodual.report.selfcheck import self_check

        bar = partial(track, description="attacking")
        with _told():
            net, x, y = _certified(factory)
            generator = torch.Generator(getattr(x, "device", "cpu")).manual_seed(seed)
            how = partial(self_check, steps=steps, classes=classes, generator=generator, track=bar)
            print(how(net, x, y))

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

        with _told():
            found = report(*_model(factory, shape))
        print(found)
        sys.exit(0 if found.complete else REFUSED)

    app()


def _stop(said: object, code: int) -> NoReturn:
    """Say something on stderr and exit."""
    print(said, file=sys.stderr)
    sys.exit(code)


@contextmanager
def _told() -> Iterator[None]:
    """Exit with an error's message and its code, and no way through our own code."""
    from autodual.errors import AutodualError, CrossingError, InputError, ModelError

    try:
        yield
    except CrossingError as error:
        _stop(error, CROSSED)
    except InputError as error:
        _stop(error, USAGE)
    except ModelError as error:
        _stop(error, USAGE if error.__cause__ is None else RAISED)
    except AutodualError as error:
        _stop(error, REFUSED)


def _run(factory: str, own: Callable[[], Any]) -> Any:
    """Run the user's own code; exit with their part of the traceback if it raises."""
    from autodual.errors import AutodualError, InputError
    from autodual.front.capture.diagnose import is_foreign

    try:
        return own()
    except AutodualError:
        raise
    except Exception as error:
        frames, ways = (
            traceback.extract_tb(error.__traceback__),
            str(Path(importlib.__file__).parent),
        )
        theirs = [f for f in frames if not (is_foreign(f.filename) or f.filename.startswith(ways))]
        what = "".join(traceback.format_exception_only(error)).rstrip()
        if not theirs and not isinstance(error, SyntaxError):
            raise InputError(f"{factory}: {what}") from error
        lines = "".join(traceback.format_list(theirs)).rstrip()
        _stop("\n".join(part for part in (f"{factory} raised:", lines, what) if part), RAISED)


def _named(factory: str) -> Any:
    """Return what ``module:name`` stands for, in the working directory or installed."""
    from difflib import get_close_matches

    from autodual.errors import InputError

    module, _, name = factory.partition(":")
    if not module or not name:
        raise InputError(f"{factory!r} is no module:name, such as mypackage.models:make_net")
    sys.path.insert(0, str(Path.cwd()))
    if PathFinder.find_spec(module.partition(".")[0]) is None and module not in sys.modules:
        raise InputError(f"there is no module {module!r}, neither in {Path.cwd()} nor installed")
    found = _run(factory, lambda: importlib.import_module(module))
    if not hasattr(found, name):
        public = [n for n in vars(found) if not n.startswith("_")]
        near = get_close_matches(name, public) or public[:8]
        raise InputError(
            f"module {module!r} has no {name!r}; it has {', '.join(near) or 'nothing'}"
        )
    return getattr(found, name)


def _called(factory: str) -> Any:
    """Return what the function returns that ``module:name`` stands for."""
    from autodual.errors import InputError

    named = _named(factory)
    if not callable(named) or (hasattr(named, "forward") and not isinstance(named, type)):
        raise InputError(f"{factory} is a {type(named).__name__}, not a function")
    return _run(factory, named)


def _certified(factory: str) -> tuple[Any, Any, Any]:
    """Return a certified model, inputs and labels."""
    from autodual import Certified
    from autodual.errors import InputError

    made = _called(factory if ":" in factory else f"{factory}:make")
    fits = isinstance(made, tuple) and len(made) == 3 and isinstance(made[0], Certified)
    if not fits:
        raise InputError(f"{factory} must return (net, x, y), with net = autodual.certify(...)")
    return made


def _model(factory: str, shape: str) -> tuple[Any, Any]:
    """Return a model and an example input."""
    import torch

    from autodual.errors import InputError

    made = _named(factory)
    made = made if isinstance(made, torch.nn.Module) else _called(factory)
    if isinstance(made, tuple) and len(made) == 2:
        return made
    if not isinstance(made, torch.nn.Module):
        told = f"{factory} must be a model, or return one or (model, example input)"
        raise InputError(f"{told}; it returns {type(made).__name__}")
    if not shape:
        raise InputError(f"{factory} gives no example input; say --shape, for example 1,28,28")
    try:
        example = torch.zeros(2, *(int(size) for size in shape.split(",") if size))
    except (ValueError, RuntimeError) as error:
        raise InputError(f"--shape {shape} is no list of sizes like 1,28,28") from error
    return made, example


if __name__ == "__main__":
    main()
