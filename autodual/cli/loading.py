"""What the command line is given, models and sets by their names, and what it says of mistakes."""

from __future__ import annotations

import atexit
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:  # torch takes a second to load: not before there is something to do
    from torch import nn

    from autodual.threat import ThreatModel
    from autodual.train import Dataset

CROSSED, USAGE, REFUSED, RAISED, UNDECIDED, BROKEN = 1, 2, 3, 4, 5, 6


def stop(said: object, code: int) -> NoReturn:
    """Say something on stderr and exit."""
    print(said, file=sys.stderr)
    sys.exit(code)


def join() -> None:
    """Join the processes that torchrun has started; only the first of them prints."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    from torch import distributed

    distributed.init_process_group()
    atexit.register(distributed.destroy_process_group)
    if distributed.get_rank() > 0:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115, until the process ends


@contextmanager
def told() -> Iterator[None]:
    """Exit with an error's message and its code, and no way through our own code; show bars."""
    from autodual.cli.bars import Bars
    from autodual.errors import AutodualError, CrossingError, InputError, ModelError
    from autodual.working import progress

    try:
        with progress(Bars() if sys.stderr.isatty() else None):
            yield
    except CrossingError as error:
        stop(error, CROSSED)
    except InputError as error:
        stop(error, USAGE)
    except ModelError as error:
        stop(error, USAGE if error.__cause__ is None else RAISED)
    except AutodualError as error:
        stop(error, REFUSED)


def run_own(factory: str, own: Callable[[], Any]) -> Any:
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
        stop("\n".join(part for part in (f"{factory} raised:", lines, what) if part), RAISED)


def named(factory: str) -> Any:
    """Return what ``module:name`` stands for, in the working directory or installed."""
    from difflib import get_close_matches

    from autodual.errors import InputError

    module, _, name = factory.partition(":")
    if not module or not name:
        raise InputError(f"{factory!r} is no module:name, such as mypackage.models:make_net")
    sys.path.insert(0, str(Path.cwd()))
    if PathFinder.find_spec(module.partition(".")[0]) is None and module not in sys.modules:
        raise InputError(f"there is no module {module!r}, neither in {Path.cwd()} nor installed")
    found = run_own(factory, lambda: importlib.import_module(module))
    if not hasattr(found, name):
        public = [n for n in vars(found) if not n.startswith("_")]
        near = get_close_matches(name, public) or public[:8]
        raise InputError(
            f"module {module!r} has no {name!r}; it has {', '.join(near) or 'nothing'}"
        )
    return getattr(found, name)


def called_of(factory: str) -> Any:
    """Return what the function returns that ``module:name`` stands for."""
    from autodual.errors import InputError

    found = named(factory)
    if not callable(found) or (hasattr(found, "forward") and not isinstance(found, type)):
        raise InputError(f"{factory} is a {type(found).__name__}, not a function")
    return run_own(factory, found)


def certified_of(factory: str) -> tuple[Any, Any, Any]:
    """Return a certified model, inputs and labels."""
    from autodual import Certified
    from autodual.errors import InputError

    made = called_of(factory if ":" in factory else f"{factory}:make")
    fits = isinstance(made, tuple) and len(made) == 3 and isinstance(made[0], Certified)
    if not fits:
        raise InputError(f"{factory} must return (net, x, y), with net = autodual.certify(...)")
    return made


def example_of(factory: str, shape: str) -> tuple[Any, Any]:
    """Return a model and an example input."""
    import torch

    from autodual.errors import InputError

    made = named(factory)
    made = made if isinstance(made, torch.nn.Module) else called_of(factory)
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


def model_of(spec: str, data: Dataset) -> nn.Module:
    """Return a model: one of our own nets, a file that a training left, or what a function returns.

    Args:
        spec: ``small`` and the like, a path to a .pt file, or ``module:name``.
        data: what it is for.
    """
    import torch

    from autodual.errors import InputError
    from autodual.files import load
    from autodual.train.nets import NETS

    if spec.endswith(".pt"):
        kept = load(Path(spec))
        about = kept.get("about", {}) if isinstance(kept, dict) else {}
        if "model" not in about:
            raise InputError(f"{spec} does not say of which model its weights are")
        model = model_of(about["model"], data)
        try:
            model.load_state_dict(kept["model"])
        except RuntimeError as error:
            raise InputError(f"{spec} does not fit {about['model']}: {error}") from error
        return model
    if spec in NETS:
        return NETS[spec](tuple(data.x.shape[1:]), data.classes)
    if ":" not in spec:
        raise InputError(
            f"there is no model {spec!r}: give {', '.join(NETS)}, a .pt file or module:name"
        )
    made = named(spec)
    made = made if isinstance(made, torch.nn.Module) else called_of(spec)
    made = made[0] if isinstance(made, tuple) else made
    if not isinstance(made, torch.nn.Module):
        raise InputError(f"{spec} must be a model, or return one; it returns {type(made).__name__}")
    return made


def ball_of(norm: str, eps: float) -> ThreatModel:
    """Return the ball of a norm around images, which lie in [0, 1]."""
    from autodual.errors import InputError
    from autodual.threat import L1Ball, L2Ball, LinfBall

    kinds: dict[str, Callable[..., ThreatModel]] = {"linf": LinfBall, "l2": L2Ball, "l1": L1Ball}
    if norm not in kinds:
        raise InputError(f"--norm {norm} is none of {', '.join(kinds)}")
    return kinds[norm](eps, domain=(0, 1))
