"""Check what users pass in: one clear error each, before any work is done."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from autodual.brief import brief
from autodual.errors import InputError, ModelError
from autodual.front.ir import Batch, Graph, Value
from autodual.labels import Classes

HALF = torch.float16, torch.bfloat16


def check_x(x: object, model: nn.Module, looks: Callable[[Tensor], bool]) -> Tensor:
    """Return the perturbed input if a bound around it makes sense.

    ``looks`` says whether its values may be looked at.

    Raises:
        InputError: not a float32 or float64 tensor, no batch dimension, empty, NaN or infinite,
            or of another dtype or device than the model; autocast is on.
        ModelError: the model computes in half precision.
    """
    if not isinstance(x, Tensor):
        raise InputError(
            f"x must be a tensor [N, *], not {type(x).__name__}; torch.as_tensor makes one of an "
            "array or a list"
        )
    if torch.is_autocast_enabled(x.device.type):
        raise InputError(
            "autocast is on: half precision rounds more than a bound allows for. Call under "
            f'torch.autocast("{x.device.type}", enabled=False); the bound is then that of the '
            f"model in {x.dtype}, not of what it gives under autocast."
        )
    half = next((p.dtype for p in model.parameters() if p.dtype in HALF), None)
    if half is not None:
        raise ModelError(
            f"the model is in {half}, which rounds more than a bound allows for. Call "
            "model.float(); the bound is then that of the model in torch.float32, not of what it "
            f"gives in {half}."
        )
    if x.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"x is {x.dtype}; bounds need float32 or float64. Call x.float(); where x numbers "
            "tokens, certify what comes after the embedding, with embedded tokens as its input."
        )
    if x.dim() < 2:
        raise InputError(
            f"x has shape {list(x.shape)}; bounds need a batch [N, *]. For one example call "
            "x.unsqueeze(0)."
        )
    if x.numel() == 0:
        raise InputError(f"x has shape {list(x.shape)}: an empty batch has no bound")
    finite = torch.isfinite(x)
    if looks(x) and not bool(finite.all()):
        index = int((~finite).flatten(1).any(1).nonzero()[0])
        raise InputError(f"x holds NaN or infinity, first in example {index}")
    first = next((p for p in model.parameters() if p.is_floating_point()), None)
    if first is not None and (first.dtype != x.dtype or first.device != x.device):
        raise InputError(
            f"x is {x.dtype} on {x.device} and the model {first.dtype} on {first.device}. "
            "Move one of them with .to()."
        )
    return x


def check_classes(output: Value) -> Classes:
    """Return how an output holds logits, [N, K, *], [N, 1, *] or [N].

    Raises:
        ModelError: it does not.
    """
    if output.batch_dim != 0 or output.shape[0] != Batch(1):
        raise ModelError(
            f"margins need logits [N, K]; the model returns {output.type}. "
            "For other outputs there are net.within(x, tolerance), net.lower_bound(x, C) and "
            "net.bounds(x)."
        )
    return Classes(output.size(1)[1:])


def one_sided(graph: Graph) -> tuple[str, ...]:
    """Say of one logit that it has one sign for every input, if it is so by the way it is made."""
    low, high = graph.ranges.get(graph.output, (-math.inf, math.inf))
    if not check_classes(graph.output).binary or low < 0 < high:
        return ()
    never, says = ("below", 1) if low >= 0 else ("above", 0)
    return (
        f"the one output is never {never} 0 (a sigmoid's lies in [0, 1]), and a threshold of 0 "
        f"says {says} whatever the input: certify the logit, what comes before it",
    )


def probabilities(graph: Graph) -> bool:
    """Return whether all outputs lie in [0, 1] for every input, by the way they are made."""
    low, high = graph.ranges.get(graph.output, (-math.inf, math.inf))
    return low >= 0 and high <= 1


def check_spec(spec: object, x: Tensor, output: Value) -> Tensor:
    """Return C as [N or 1, S, K], with K the number of outputs of one example.

    Raises:
        InputError: wrong type, dtype or shape, or not finite.
    """
    if not isinstance(spec, Tensor) or spec.dtype != x.dtype or spec.device != x.device:
        raise InputError(f"C must be a {x.dtype} tensor on {x.device}, the dtype and device of x")
    example = output.size(1)[1:] if output.batch_dim == 0 else output.size(1)
    shared, own = (1 + len(example), 2 + len(example))
    fits = spec.dim() in (shared, own) and spec.shape[spec.dim() - len(example) :] == example
    if not fits or spec.numel() == 0 or (spec.dim() == own and spec.shape[0] != len(x)):
        raise InputError(
            f"C has shape {list(spec.shape)}; the output {output.type} needs rows "
            f"[S, {', '.join(map(str, example))}] or [N, S, {', '.join(map(str, example))}]"
        )
    if not bool(torch.isfinite(spec).all()):
        raise InputError("C holds NaN or infinity")
    spec = spec.unsqueeze(0) if spec.dim() == shared else spec
    return spec.reshape(*spec.shape[:2], -1)


def check_tolerance(tolerance: object, y: object, output: Tensor) -> Tensor:
    """Return the tolerance as a tensor, if it and y fit the model's output [N, *].

    Raises:
        InputError: wrong type, dtype or shape; a tolerance that is negative or NaN.
    """
    if not isinstance(y, Tensor) or (y.shape, y.dtype) != (output.shape, output.dtype):
        raise InputError(
            f"y must be a {output.dtype} tensor {list(output.shape)}, like the model's output, not "
            f"{brief(y)}{_like('y', y, output)}"
        )
    if not isinstance(tolerance, Tensor | float | int):
        raise InputError(f"tolerance must be a number or a tensor, not {type(tolerance).__name__}")
    tensor = torch.as_tensor(tolerance, dtype=output.dtype, device=output.device)
    if not bool((tensor >= 0).all()):
        raise InputError(f"tolerance must be at least 0, not {tolerance}")
    try:
        return tensor.expand(output.shape)
    except RuntimeError:
        raise InputError(
            f"tolerance has shape {list(tensor.shape)}; the output's is {list(output.shape)}"
            f"{_like('tolerance', tensor, output)}"
        ) from None


def _like(name: str, given: object, output: Tensor) -> str:
    """Say how to bring what was given into the form of the output, if that can be."""
    try:
        tensor = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        return ""
    made = name if isinstance(given, Tensor) else f"torch.as_tensor({name})"
    made += "" if tensor.dtype == output.dtype else f".to({output.dtype})"
    if tensor.shape != output.shape:
        if tensor.numel() != output.numel():
            return ": it needs a number for each of the outputs"
        made += f".reshape({', '.join(map(str, output.shape))})"
    return f": give {made}"
