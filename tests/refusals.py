"""Models that must be refused, and what each is told. Run as a script, it prints all.

python -m tests.refusals
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

import autodual as ad
from autodual import errors


@dataclass(frozen=True)
class Refusal:
    """A model that is refused, the error, words of its place, reason and remedy, and the call."""

    make: Callable[[], nn.Module]
    kind: type[errors.AutodualError]
    place: str
    reason: str
    remedy: str
    ask: Callable[[nn.Module], object] = lambda model: ad.certify(model, 0.1)(torch.rand(4, 3))


class Head(nn.Module):
    """A linear layer and some points."""

    def __init__(self):
        super().__init__()
        self.fc, self.points = nn.Linear(3, 2), nn.Parameter(torch.rand(3, 3))


class Branch(Head):
    def forward(self, x):
        if x.sum() > 0:
            return self.fc(x)
        return -self.fc(x)


class Number(Head):
    def forward(self, x):
        scale = x.mean().item()
        return self.fc(x) * scale


class Centred(Head):
    def forward(self, x):
        return self.fc(x - x.mean(0))


class FixedBatch(Head):
    def forward(self, x):
        return self.fc(x.reshape(4, -1))


class Predicted(Head):
    def forward(self, x):
        return self.fc(x).argmax(1, keepdim=True)


class Autocast(Head):
    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.fc(x)


class Spectrum(Head):
    def forward(self, x):
        return self.fc(torch.fft.rfft(x, n=4).angle())


class Counted(Head):
    def forward(self, x):
        return self.fc(x) * (x > 0.5).sum(1, keepdim=True)


def scripted():
    with torch.no_grad():
        return torch.jit.trace(nn.Linear(3, 2), torch.rand(1, 3))


def tokens(model):
    return ad.certify(model, 0.1)(torch.randint(3, (4, 3)))


LINE = r"refusals.py:\d+ `"

REFUSALS = {
    "control flow on values": Refusal(
        Branch, errors.ControlFlowError, LINE, "path depends on the values", "torch.where"
    ),
    "a Python number from a tensor": Refusal(
        Number, errors.ControlFlowError, LINE, "depends on the values", "keep numbers as"
    ),
    "examples that see each other": Refusal(
        Centred, errors.BatchError, LINE, "examples of a batch are mixed", "over the others"
    ),
    "a fixed batch size": Refusal(
        FixedBatch, errors.BatchError, LINE, "fixes the batch size", r"x\.size\(0\)"
    ),
    "a class number as the output": Refusal(
        Predicted, errors.UnsupportedOpError, LINE, "gives torch.int64", "return the logits"
    ),
    "a count of conditions on values": Refusal(
        Counted, errors.UnsupportedOpError, LINE, "gives torch.bool", "truth values.*jump"
    ),
    "autocast": Refusal(Autocast, errors.CaptureError, LINE, "another dtype", "leave autocast out"),
    "complex numbers": Refusal(
        Spectrum, errors.UnsupportedOpError, LINE, "gives torch.complex64", "DFT is linear"
    ),
    "dropout in training": Refusal(
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 2)).train(),
        errors.UnsupportedOpError,
        "module '1'",
        "random numbers",
        r"\.eval\(\)",
    ),
    "a ScriptModule": Refusal(
        scripted, errors.ModelError, "ScriptModule", "cannot be captured", "scripted from"
    ),
    "token numbers as the perturbed input": Refusal(
        lambda: nn.Sequential(nn.Embedding(3, 4), nn.Flatten(), nn.Linear(12, 2)),
        errors.InputError,
        "x is torch.int64",
        "need float",
        "after the embedding",
        tokens,
    ),
}
"""No line can be named where the model never runs: a ScriptModule, x itself."""


def refuse(refusal: Refusal) -> Exception:
    """Return the error with which a model is refused."""
    try:
        refusal.ask(refusal.make())
    except Exception as error:
        return error
    raise AssertionError("not refused")


if __name__ == "__main__":
    for name, refusal in REFUSALS.items():
        error = refuse(refusal)
        print(f"{name}\n    {type(error).__name__}: {error}\n")
