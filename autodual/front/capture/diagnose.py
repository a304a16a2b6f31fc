"""Say where in the user's program a graph node or an export failure comes from."""

from __future__ import annotations

import traceback
from pathlib import Path

import torch

from autodual.errors import AutodualError, BatchError, CaptureError, ControlFlowError, ModelError

_OWN = str(Path(__file__).parents[2])
_TORCH = str(Path(torch.__file__).parent)
_FOREIGN = (_OWN, _TORCH, "<")


def is_foreign(file: str) -> bool:
    """Return whether a file is torch's or ours, or none at all."""
    return file.startswith(_FOREIGN)


WEIGHTS = (
    "a weight in the ball is one for each example: pass weight.expand(len(x), *weight.shape), and "
    "let torch.vmap call the layer with each"
)
"""How weights are perturbed."""


GRADIENTS = (
    "Inside a captured forward autograd does not run: take them with torch.func.grad, jacrev, "
    "jacfwd or jvp of a function, under torch.vmap, or write out what they are."
)
"""What to write where a model computes its own gradients."""


def explain_failure(
    error: Exception, alone: Exception | None, pair: Exception | None, perturbed: str
) -> AutodualError:
    """Turn a failure of a run into an error that says where, why and what to write.

    Args:
        error: what was raised.
        alone: what the model itself raises on the user's inputs, if anything.
        pair: what it raises on a batch of two or three of them.
        perturbed: what forward calls the argument whose first dimension counts examples.
    """
    if alone is not None and "does not require grad" in str(alone):
        return CaptureError(f"forward takes gradients, {_where(alone)}. {GRADIENTS}")
    if alone is not None:
        return ModelError(
            f"the model itself fails on this input, {_where(alone)}: {type(alone).__name__}: "
            f"{_first(str(alone))}. Run model(x) alone first: shape, dtype and device must fit."
        )
    text, name, where = str(error), type(error).__name__, _where(error)
    if "DataDependent" in name or "data-dependent" in text or "DynamicOutputShape" in name:
        return depends_on_values(where)
    if pair is not None:
        return BatchError(
            f"the model fixes the batch size, {where}. Write x.size(0) or x.flatten(1) instead of "
            f"a number, and do not branch on the batch size. The first dimension of {perturbed} "
            f"counts examples; {WEIGHTS}. The failure: {_first(text)}"
        )
    return CaptureError(f"the model cannot be captured, {where}: {name}: {_first(text)}")


def depends_on_values(where: str) -> ControlFlowError:
    """Return the error for Python control flow or numbers that hang on a tensor's values."""
    return ControlFlowError(
        f"the model's path depends on the values of a tensor, {where}. A bound covers a whole "
        "set of inputs, so one graph must hold for all of them. Write torch.where(condition, "
        "a, b) instead of if, and keep numbers as tensors instead of .item() or float()."
    )


def _user_frames(error: BaseException) -> list[traceback.FrameSummary]:
    frames = traceback.extract_tb(error.__traceback__)
    start = next((i for i, f in enumerate(frames) if f.filename.startswith(_TORCH)), len(frames))
    return [f for f in frames[start:] if not f.filename.startswith(_FOREIGN)]


def _where(error: BaseException) -> str:
    frames = _user_frames(error)
    if not frames:
        return "somewhere in its forward"
    return f"at {frames[-1].filename}:{frames[-1].lineno} `{frames[-1].line}`"


def _first(text: str) -> str:
    lines = [line.strip(" -") for line in text.splitlines() if line.strip()]
    return " ".join(lines[:2])[:300]
