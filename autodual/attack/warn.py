"""What attacks warn of: the ways in which their answer can mislead."""

from __future__ import annotations

import sys
import warnings

from torch import nn

from autodual.errors import AttackWarning

DROPS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)


def warn(message: str) -> None:
    """Warn at the line outside autodual that led here."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and _within(frame.f_globals["__name__"]):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, AttackWarning, stacklevel=level)


def warn_of_training(model: object) -> None:
    """Warn if a model holds modules in training mode that answer differently there."""
    if not isinstance(model, nn.Module):
        return
    found = [name or "itself" for name, part in model.named_modules() if _differs(part)]
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        warn(
            f"the model is in training mode, and {', '.join(found[:3])}{more} (Dropout, BatchNorm "
            "and their like) answer otherwise there: points found may fool it by chance, or only "
            "in this batch. Call model.eval() first; if this is meant, as in adversarial training, "
            "filter autodual.errors.AttackWarning."
        )


def _differs(part: nn.Module) -> bool:
    """Return whether a module itself answers otherwise in training mode."""
    if not part.training:
        return False
    if isinstance(part, DROPS):
        return part.p > 0
    if isinstance(part, (nn.modules.batchnorm._NormBase)):
        return part.track_running_stats
    if isinstance(part, (nn.MultiheadAttention, nn.RNNBase)):
        return float(part.dropout) > 0
    return isinstance(part, nn.RReLU) and part.lower < part.upper


def _within(module: str) -> bool:
    return module == "autodual" or module.startswith("autodual.")
