"""One exception per thing that can go wrong, each saying what, where, why and what to do."""

from __future__ import annotations

from typing import Any


class AutodualError(Exception):
    """Base class of every error autodual raises on purpose."""


class InputError(AutodualError, ValueError):
    """A tensor, label, ε or specification that the call cannot use."""


class DomainError(InputError):
    """An input that lies outside the domain its threat model declares."""


class UnansweredError(InputError):
    """A question that a perturbation set does not answer, such as where a point came from."""


class ReplayError(InputError):
    """A network read from a file that is not what another runtime makes of that file."""


class ModelError(AutodualError, TypeError):
    """A model that is no module, or gives not what the call needs, or not the same each time."""


class CaptureError(AutodualError):
    """A model that cannot be captured as one graph that is valid for every input."""


class ControlFlowError(CaptureError):
    """Python control flow, or a Python number, that depends on the values of a tensor."""


class BatchError(CaptureError):
    """A model that fixes the batch size or lets one example change another's output."""


class GraphError(AutodualError):
    """An ill-formed graph: a defect in a pass, never in the user's model."""


class UnsupportedOpError(AutodualError):
    """Operations without a dual layer, all of them at once."""


class UnsoundError(AutodualError):
    """A guarantee was asked of a bound that does not give one."""


class NoGuaranteeError(UnsoundError, AttributeError):
    """An estimate was asked for what only a certificate has."""


class NotTracedError(AutodualError):
    """A graph or plan was asked for before any input said what shape it has."""


class CrossingError(AutodualError):
    """An attack found a point below a bound: the bound is wrong, and no certificate counts."""


class BudgetWarning(RuntimeWarning):
    """A bound is looser than it could be: not all that tightens it fitted into its budget."""


class AttackWarning(RuntimeWarning):
    """What an attack answers can mislead: no gradient, points thrown away."""


class TrainingWarning(RuntimeWarning):
    """A loss that trains badly: of probabilities in place of logits."""


class TrainingError(AutodualError):
    """Training that cannot go on: its loss is no number any more."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in the middle of long work.

    Attributes:
        partial: what was found until then, in the form of the whole result. It holds: what was
            not reached reads as nothing known, never as something found. Margins and bounds are
            −∞ there, ``verified`` is False, a radius 0, an example not broken.
    """

    def __init__(self, partial: Any, said: str) -> None:
        super().__init__(said)
        self.partial = partial
