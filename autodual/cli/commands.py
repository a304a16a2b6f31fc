"""The commands. Each is a few lines; ``jobs`` has what they do."""

import json as notation
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from autodual.cli.loading import (
    CROSSED,
    REFUSED,
    UNDECIDED,
    USAGE,
    certified_of,
    example_of,
    join,
    stop,
    told,
)

OUT = Path("out/demo.png")

HELP = (
    "Certified robustness for PyTorch models.\n\nExit codes: 0 yes, all of it; 1 no, not all, or "
    "an attack crosses a bound; 2 usage: an argument, or what a function returns; 3 the model "
    "cannot be bounded, as where ops have no dual layer; 4 your own code raised something; 5 "
    "verify could not decide; 6 a fault of autodual's own."
)

MODEL = "A net (small, medium), a .pt file that a training left, or module:name."

ModelArgument = Annotated[str, typer.Argument(help=MODEL)]
DataOption = Annotated[
    str, typer.Option(help="digits, or a folder or .npz file: idx, npz, CIFAR's binaries, images.")
]
EpsOption = Annotated[float, typer.Option(min=0, help="The size of the ball.")]
NormOption = Annotated[str, typer.Option(help="linf, l2 or l1.")]
FirstOption = Annotated[int | None, typer.Option(min=1, help="Only so many examples.")]
JsonOption = Annotated[bool, typer.Option(help="Print one JSON object.")]

app = typer.Typer(help=HELP, no_args_is_help=True)


def version(wanted: bool) -> None:
    """Say which version this is, and end."""
    if wanted:
        from autodual import __version__

        print(f"autodual {__version__}")
        raise typer.Exit


@app.callback(help=HELP)
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Say which.")
    ] = False,
) -> None:
    """Take what stands before a command."""
    join()


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
        stop(f"the demo needs {error.name}: pip install 'autodual[demo]'", USAGE)
    run(out, epochs=epochs, eps=eps, seed=seed)


@app.command()
def train(
    data: DataOption = "digits",
    model: Annotated[str, typer.Option(help=MODEL)] = "small",
    eps: EpsOption = 0.1,
    norm: NormOption = "linf",
    loss: Annotated[
        str,
        typer.Option(
            help="standard, pgd, fgsm, trades, robust, fused, ibp, mtl-ibp, cc-ibp, exp-ibp "
            "or sabr."
        ),
    ] = "robust",
    coefficient: Annotated[
        float, typer.Option(min=0, max=1, help="Of ibp and its mixes; the share of sabr.")
    ] = 0.5,
    epochs: Annotated[int, typer.Option(min=1)] = 20,
    batch: Annotated[int, typer.Option(min=1)] = 50,
    lr: Annotated[float, typer.Option(min=0, help="The highest learning rate.")] = 5e-3,
    ramp: Annotated[float, typer.Option(min=0, max=1, help="Share of epochs ε rises in.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of weights, order and noise.")] = 0,
    out: Annotated[Path, typer.Option(help="A folder; what is there goes on.")] = Path("out/run"),
    first: FirstOption = None,
    json: JsonOption = False,
) -> None:
    """Train a net; certify it.

    Example: autodual train --data mnist/ --loss fused --eps 0.1 --out out/robust
    """
    from autodual.cli.jobs import errors, trained

    with told():
        found = trained(
            model,
            _data(data, first, first),
            eps=eps,
            norm=norm,
            loss=loss,
            coefficient=coefficient,
            epochs=epochs,
            batch=batch,
            lr=lr,
            ramp=ramp,
            seed=seed,
            out=out,
        )
        _say(errors(found), found, json)


@app.command()
def certify(
    model: ModelArgument,
    data: DataOption = "digits",
    eps: EpsOption = 0.1,
    norm: NormOption = "linf",
    optimize: Annotated[int, typer.Option(min=0, help="Steps for what is left; 0: none.")] = 20,
    exact: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds an example for programs, last.")
    ] = None,
    attack: Annotated[int, typer.Option(min=0, help="Steps of PGD; 0 for none.")] = 40,
    batch: Annotated[int, typer.Option(min=1)] = 100,
    first: FirstOption = None,
    rows: Annotated[
        Path | None, typer.Option(help="A .csv file of examples; what is there goes on.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Say what of the test examples is wrong, broken, proved; exit with 0 if all is proved.

    Example: autodual certify out/robust/best.pt --data mnist/ --eps 0.1 --exact 60
    """
    from autodual.cli.jobs import certified, errors

    with told():
        data_ = _data(data, None, first)
        found = certified(
            _model(model, data_),
            data_,
            eps=eps,
            norm=norm,
            optimize=optimize,
            exact=exact,
            attack=attack,
            batch=batch,
            rows=rows,
        )
        _say(errors(found), found, json)
    sys.exit(CROSSED if found.certified else 0)


@app.command()
def attack(
    model: ModelArgument,
    data: DataOption = "digits",
    eps: EpsOption = 0.1,
    norm: NormOption = "linf",
    first: FirstOption = None,
    seed: Annotated[int, typer.Option(help="Seed of the attacks.")] = 0,
    json: JsonOption = False,
) -> None:
    """Attack the test examples by the ensemble; exit with 0 if none is broken.

    Example: autodual attack out/robust/best.pt --data mnist/ --eps 0.1 --first 1000
    """
    from autodual.cli.jobs import attacked

    with told():
        data_ = _data(data, None, first)
        found = attacked(_model(model, data_), data_, eps=eps, norm=norm, seed=seed)
        said = "{broken} of {examples} broken within {set}, {error:.2%}"
        _say(found, said.format(**found), json)
    sys.exit(CROSSED if found["broken"] else 0)


@app.command()
def radius(
    model: ModelArgument,
    data: DataOption = "digits",
    norm: NormOption = "linf",
    first: FirstOption = None,
    picture: Annotated[Path | None, typer.Option(help="Accuracy against ε, as a .png.")] = None,
    json: Annotated[bool, typer.Option(help="Print one JSON object, with every ε.")] = False,
) -> None:
    """Say up to which ε test examples are certified, and where an attack breaks them.

    Example: autodual radius out/robust/best.pt --data mnist/ --picture out/curve.png
    """
    from autodual.cli.jobs import curve_of, radii

    with told():
        data_ = _data(data, None, first)
        found = curve_of(_model(model, data_), data_, norm=norm)
        _say(radii(found), found, json)
        if picture is not None:
            picture.parent.mkdir(parents=True, exist_ok=True)
            found.draw().savefig(picture, dpi=120)


@app.command()
def explain(
    model: ModelArgument,
    data: DataOption = "digits",
    eps: EpsOption = 0.1,
    norm: NormOption = "linf",
    batch: Annotated[int, typer.Option(min=1, help="How many examples.")] = 10,
    measure: Annotated[bool, typer.Option(help="Do it, and tell how long it took.")] = False,
) -> None:
    """Say node by node what a bound will take.

    Example: autodual explain small --data mnist/ --batch 50
    """
    import autodual as ad
    from autodual.cli.loading import ball_of

    with told():
        data_ = _data(data, None, batch)
        net = ad.certify(_model(model, data_), ball_of(norm, eps))
        print(net.explain(data_.x_test, measure=measure))


@app.command()
def verify(
    model: Annotated[Path, typer.Argument(help="A network, .onnx or .onnx.gz.")],
    spec: Annotated[Path, typer.Argument(help="What is unsafe, .vnnlib or .vnnlib.gz.")],
    timeout: Annotated[float, typer.Option(min=0, help="Seconds, for all of it.")] = 120.0,
    format: Annotated[str, typer.Option(help="text, json or vnncomp.")] = "text",
    branch: Annotated[str, typer.Option(help="auto, inputs, units or programs.")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="float64 or float32: to compute bounds in.")
    ] = "float64",
    memory: Annotated[str | None, typer.Option(help="For open sub-problems, like 2GiB.")] = None,
    attack: Annotated[bool, typer.Option(help="Try points; without, only prove.")] = True,
    resume: Annotated[
        Path | None, typer.Option(help="A file where a stopped search is kept, and goes on.")
    ] = None,
) -> None:
    """Decide whether a network has a point that a VNN-LIB file calls unsafe.

    0 verified: there is none; 1 falsified: here is one, on which onnxruntime agrees; 5 unknown.

    Example: autodual verify net.onnx property.vnnlib --timeout 116 --format vnncomp
    """
    import time

    from autodual.cli.verifying import check_format, in_format, verified
    from autodual.errors import Interrupted

    start = time.perf_counter()
    codes = {"verified": 0, "falsified": CROSSED, "unknown": UNDECIDED}
    with told():
        check_format(format)
        try:
            verdict = verified(
                model,
                spec,
                timeout,
                start,
                branch=branch,
                dtype=dtype,
                memory=memory,
                attack=attack,
                resume=resume,
            )
        except Interrupted as stopped:
            verdict = stopped.partial
    said = in_format(verdict, format)
    print(said if isinstance(said, str) else notation.dumps(said))
    sys.exit(codes[verdict.status])


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
    """Attack a certified model in every way; fail if an attack crosses its bound.

    Example: autodual check mypackage.models:certified
    """
    from functools import partial

    import torch
    from rich.progress import track

    from autodual.report.selfcheck import self_check

    bar = partial(track, description="attacking")
    with told():
        net, x, y = certified_of(factory)
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
    """List every op of a model: source line, dual layer, how tight; and what is missing.

    Example: autodual coverage mypackage.models:make_net --shape 1,28,28
    """
    from autodual import coverage as report

    with told():
        found = report(*example_of(factory, shape))
    print(found)
    sys.exit(0 if found.complete else REFUSED)


def _data(where: str, train: int | None, test: int | None) -> Any:
    """Return the first examples of a data set."""
    from autodual.train import load_data

    return load_data(where).first(train, test)


def _model(spec: str, data: Any) -> Any:
    """Return a model in evaluation mode."""
    from autodual.cli.loading import model_of

    return model_of(spec, data).eval()


def _say(values: dict[str, Any], words: object, json: bool) -> None:
    """Print what was found, for programs or for people."""
    print(notation.dumps(values) if json else words)
